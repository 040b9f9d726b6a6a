"""How far off the foretold states and observations are, step by step, beside two yardsticks (L1, DIMA section 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dima.analysis.diagnose.bootstrap import Curve, Resampling
from dima.analysis.diagnose.forecasts import Foretold
from dima.analysis.diagnose.segments import Segments
from dima.analysis.diagnose.units import Units

MODEL, UNCHANGED, RECONSTRUCTION = "model", "nothing changes", "reconstruction"
STATE, OBSERVATIONS = "state", "observations"


@dataclass(frozen=True)
class Growth:
    """The error of one step, and summed over the steps up to it, for every step of the horizon.

    Both are means over the segments that last so long.
    """

    step: Curve
    cumulative: Curve


Table = dict[str, dict[str, Growth]]  # by what is foretold, such as "state: joint positions", and by who foretells it


@dataclass(frozen=True)
class HorizonError:
    """Mean absolute errors; of the observations, averaged over an agent's features, then over agents."""

    standardised: Table  # in standard deviations of the data
    raw: Table  # in the environment's units
    advantage: dict[str, Curve]  # how much the model is better than "nothing changes", one step's error, standardised
    by_source: dict[str, dict[str, Curve]]  # the model's error of a step, by source and what is foretold, standardised
    segments: list[int]  # that last so long

    def parts(self, what: str) -> list[str]:
        """The groups of state features, or the agents whose observations they are, that errors are told of apart."""
        return [name for name in self.standardised if name.startswith(f"{what}: ")]


def horizon_error(
    told: Foretold, seen: Foretold, segments: Segments, units: Units, resampling: Resampling
) -> HorizonError:
    """Errors over the horizon, ``by_source`` still empty.

    Args:
        told: the world model's future of each segment.
        seen: what it makes of the real states.
        segments: what really happened.
        units: what the features are.
        resampling: of these segments.
    """
    unchanged = Foretold(
        state=segments.start.state[:, -1:].expand_as(segments.state),
        obs=segments.start.obs[:, -1:].expand_as(segments.obs),
        reward=told.reward,
        continuation=told.continuation,
    )
    guesses = {MODEL: told, UNCHANGED: unchanged, RECONSTRUCTION: seen}
    tables: list[Table] = []
    for raw in (False, True):
        gaps = {who: differences(guess, segments, units, raw) for who, guess in guesses.items()}
        tables.append(
            {
                what: {
                    who: Growth(
                        resampling.mean(gaps[who][what], segments.alive),
                        resampling.mean(gaps[who][what].cumsum(1), segments.alive),
                    )
                    for who in gaps
                }
                for what in gaps[MODEL]
            }
        )
        if not raw:
            gained = {what: gaps[UNCHANGED][what] - gaps[MODEL][what] for what in gaps[MODEL]}
    return HorizonError(
        standardised=tables[0],
        raw=tables[1],
        advantage={what: resampling.mean(values, segments.alive) for what, values in gained.items()},
        by_source={},
        segments=segments.alive.sum(0).tolist(),
    )


def by_source(
    told: Foretold, segments: Segments, units: Units, names: Sequence[str], seed: int
) -> dict[str, dict[str, Curve]]:
    """The model's standardised error of a step, on the segments of each source apart."""
    gaps = differences(told, segments, units)
    curves = {}
    for number, name in enumerate(names):
        chosen = segments.source == number
        if chosen.any():
            resampling = Resampling(segments.episode[chosen], seed)
            curves[name] = {
                what: resampling.mean(gaps[what][chosen], segments.alive[chosen]) for what in (STATE, OBSERVATIONS)
            }
    return curves


def differences(told: Foretold, segments: Segments, units: Units, raw: bool = False) -> dict[str, Tensor]:
    """Mean absolute error (B, H) of the state, of each group, of the observations and of each agent's.

    Args:
        told: what somebody expected.
        segments: what really happened.
        units: what the features are.
        raw: in the environment's units in place of standard deviations.
    """
    state, obs = (told.state - segments.state).abs(), (told.obs - segments.obs).abs()
    if not raw:
        state, obs = state / units.state_scale, obs / units.obs_scale
    per_agent = (obs * units.obs_valid).sum(-1) / units.obs_valid.sum(-1)  # (B, H, N)
    found = {STATE: state.mean(-1)}
    found |= {f"{STATE}: {name}": state[..., places].mean(-1) for name, places in units.groups.items()}
    found[OBSERVATIONS] = per_agent.mean(-1)
    return found | {f"{OBSERVATIONS}: {name}": per_agent[..., n] for n, name in enumerate(units.agents)}
