"""Results of `dima imagine`: errors of an imagined trajectory, as numbers, sentences and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dima.agent import Agent
from dima.analysis.imagine.compare import ActionSource, Comparison
from dima.analysis.imagine.pictures import Pictures
from dima.analysis.imagine.verdicts import judge
from dima.analysis.targets import OBSERVATIONS, SINGULAR, STATE, observations_only
from dima.data import EnvSpec
from dima.errors import UserError
from dima.nn.normalizer import Normalizer
from dima.runtime.verdicts import Verdict
from dima.world_models.state_based import StateModel


@dataclass(frozen=True)
class HorizonErrors:
    """Mean absolute errors over features after a number of steps; persistence predicts that nothing changes.

    Those of the state are None where it is not imagined.
    """

    steps: int
    compared: int  # fewer where the real episode ended earlier
    state_error: float | None
    state_persistence: float | None
    state_error_sum: float | None  # over all steps so far
    state_persistence_sum: float | None
    obs_error: float
    obs_persistence: float
    imagined_reward: float  # sum so far
    real_reward: float


@dataclass(frozen=True)
class Imagination:
    """An imagined trajectory compared with the real one.

    Attributes:
        run: the run, its environment steps, and versions.
        actions: whose actions, see :func:`dima.analysis.imagine.compare.compare`.
        comparison: both trajectories, in the environment's units.
        unit: of errors, in words.
        state_error, state_persistence: (T + 1,) mean absolute error of the state after each step that both have, and
            that of persistence; None where a model imagines observations alone.
        obs_error, obs_persistence: (T + 1, N) likewise of each agent's observation.
        kind_errors: (T + 1,) error of each kind of state feature, where it is imagined.
        measures: (real, imagined) values after each step that pictures cannot show; see ``Scene.measures``.
        pictures: indexed by step: real and imagined picture, (height, width, 3) uint8 each; or None.
        no_pictures: why there are none, or none of imagined states; empty otherwise.
    """

    run: Mapping[str, Any]
    spec: EnvSpec
    actions: ActionSource
    comparison: Comparison
    unit: str
    state_error: np.ndarray | None
    state_persistence: np.ndarray | None
    obs_error: np.ndarray
    obs_persistence: np.ndarray
    kind_errors: Mapping[str, np.ndarray]
    measures: Mapping[str, tuple[np.ndarray, np.ndarray]]
    pictures: Pictures | None
    no_pictures: str = ""

    @property
    def errors(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Error and persistence's error after each step, (T + 1,), of what is imagined, the main target first."""
        state = {}
        if self.state_error is not None and self.state_persistence is not None:
            state = {STATE: (self.state_error, self.state_persistence)}
        return state | {OBSERVATIONS: (self.obs_error.mean(1), self.obs_persistence.mean(1))}

    @property
    def horizons(self) -> list[HorizonErrors]:
        """Errors after each horizon."""
        return [self._errors_after(steps) for steps in self.comparison.horizons]

    @property
    def verdicts(self) -> list[Verdict]:
        """What the numbers mean, the gravest first."""
        return judge(self.comparison, {target.capitalize(): pair for target, pair in self.errors.items()})

    @property
    def findings(self) -> list[str]:
        """A sentence for each horizon, after that of a model that imagines observations alone."""
        missing = [] if STATE in self.errors else [observations_only("errors of the state and imagined pictures")]
        return missing + [self._sentence(found) for found in self.horizons]

    def to_dict(self) -> dict[str, Any]:
        """Everything but pictures, as plain data for JSON; of a state that is not imagined there is nothing."""
        comparison, agents = self.comparison, self.spec.agents
        real, imagined = comparison.real, comparison.imagined
        return {
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "run": dict(self.run),
            "actions": self.actions,
            "seed": comparison.seed,
            "start": comparison.start,
            "unit": self.unit,
            "horizons": [_without_none(vars(found)) for found in self.horizons],
            "no_pictures": self.no_pictures,
            "steps": {
                **self._state_steps(),
                "obs_error": {agent: self.obs_error[:, i].tolist() for i, agent in enumerate(agents)},
                "obs_persistence": {agent: self.obs_persistence[:, i].tolist() for i, agent in enumerate(agents)},
                "real": {"reward": real.reward.tolist(), "continuation": real.continuation.tolist()},
                "imagined": {"reward": imagined.reward.tolist(), "continuation": imagined.continuation.tolist()},
                "measures": {
                    name: {"real": a.tolist(), "imagined": b.tolist()} for name, (a, b) in self.measures.items()
                },
            },
        }

    def _state_steps(self) -> dict[str, Any]:
        if STATE not in self.errors:
            return {}
        error, persistence = self.errors[STATE]
        by_kind = {kind: error.tolist() for kind, error in self.kind_errors.items()}
        return {
            "state_error": error.tolist(),
            "state_persistence": persistence.tolist(),
            "state_error_by_kind": by_kind,
        }

    def _sentence(self, found: HorizonErrors) -> str:
        ended = "" if found.compared == found.steps else f" (the real episode ended after {found.compared})"
        target, pair = next(iter(self.errors.items()))
        end, persistence_end = (values[found.compared] for values in pair)
        mean, persistence = (values[: found.compared + 1].sum() / max(1, found.compared) for values in pair)
        return (
            f"{found.steps} steps{ended}: {SINGULAR[target]} error {mean:.3g} on average, {end:.3g} at the end "
            f"(persistence: {persistence:.3g} and {persistence_end:.3g}), reward {found.imagined_reward:.4g} "
            f"imagined, {found.real_reward:.4g} real"
        )

    def _errors_after(self, steps: int) -> HorizonErrors:
        comparison = self.comparison
        compared = min(steps, comparison.steps)
        ends = {target: [float(values[compared]) for values in pair] for target, pair in self.errors.items()}
        sums = {
            target: [float(values[: compared + 1].sum()) for values in pair] for target, pair in self.errors.items()
        }
        state_error, state_persistence = ends.get(STATE, (None, None))
        state_error_sum, state_persistence_sum = sums.get(STATE, (None, None))
        obs_error, obs_persistence = ends[OBSERVATIONS]
        return HorizonErrors(
            steps=steps,
            compared=compared,
            state_error=state_error,
            state_persistence=state_persistence,
            state_error_sum=state_error_sum,
            state_persistence_sum=state_persistence_sum,
            obs_error=obs_error,
            obs_persistence=obs_persistence,
            imagined_reward=float(comparison.imagined.reward[:compared].sum()),
            real_reward=float(comparison.real.reward[:compared].sum()),
        )


def standardise(comparison: Comparison, agent: Agent) -> tuple[Comparison, str]:
    """Express errors in standard deviations of the features; returns the unit in words, too.

    Those of the episodes that the world model was fitted to or, where these are gone, of the real trajectory.
    """
    of, model = "the episodes that the world model was fitted to", agent.world_model
    if isinstance(model, StateModel):
        state_scale, obs_scale = (part.scale.cpu().numpy() for part in (model.state_scale, model.obs_scale))
    else:
        try:
            replay = agent.experience()
            rows = torch.arange(replay.oldest, replay.newest, device=replay.device) % replay.rows
            state, obs = replay.store["state"][rows].cpu(), replay.store["obs"][rows].cpu()
        except UserError:
            state, obs = torch.from_numpy(comparison.real.state), torch.from_numpy(comparison.real.obs)
            of = "this part of the episode, for those that the world model was fitted to are gone"
        state_scale, obs_scale = (_scale(values) for values in (state, obs))
    unit = f"standard deviations of the features in {of}"
    return replace(comparison, state_scale=state_scale, obs_scale=obs_scale), unit


def _scale(values: torch.Tensor) -> np.ndarray:
    """Standard deviation of each feature over the first axis; of a constant its size, at least 1."""
    normalizer = Normalizer(values.shape[1:])
    normalizer.update(values)
    scale: np.ndarray = normalizer.scale.numpy()
    return scale


def evaluate_comparison(
    comparison: Comparison,
    *,
    unit: str,
    spec: EnvSpec,
    kinds: list[str],
    run: Mapping[str, Any],
    actions: ActionSource,
    pictures: Pictures | None,
    no_pictures: str,
) -> Imagination:
    """Compute the errors of an imagined trajectory.

    Args:
        comparison: both trajectories.
        unit: of its errors, in words.
        spec: of the environment.
        kinds: kind of each state feature.
        run: origin of the world model.
        actions: whose actions.
        pictures: of both, or None.
        no_pictures: why there are none.
    """
    names, state_error, state_persistence, kind_errors = np.array(kinds), None, None, {}
    if comparison.imagined.state is not None:
        error = comparison.error("state")
        state_error, state_persistence = error.mean(-1), comparison.persistence_error("state").mean(-1)
        kind_errors = {kind: error[:, names == kind].mean(-1) for kind in dict.fromkeys(kinds)}
    return Imagination(
        run=run,
        spec=spec,
        actions=actions,
        comparison=comparison,
        unit=unit,
        state_error=state_error,
        state_persistence=state_persistence,
        obs_error=_mean_without_padding(comparison.error("obs"), spec),
        obs_persistence=_mean_without_padding(comparison.persistence_error("obs"), spec),
        kind_errors=kind_errors,
        measures={} if pictures is None else pictures.measures(),
        pictures=pictures,
        no_pictures=no_pictures,
    )


def _mean_without_padding(error: np.ndarray, spec: EnvSpec) -> np.ndarray:
    """(T, N, O) -> (T, N)."""
    mean: np.ndarray = (error * spec.obs_valid).sum(-1) / np.array(spec.obs_sizes)
    return mean


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
