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
from dima.data import EnvSpec
from dima.errors import UserError
from dima.nn.normalizer import Normalizer
from dima.runtime.verdicts import Verdict
from dima.world_models.state_based import StateModel


@dataclass(frozen=True)
class HorizonErrors:
    """Mean absolute errors over features after a number of steps; persistence predicts that nothing changes."""

    steps: int
    compared: int  # fewer where the real episode ended earlier
    state_error: float
    state_persistence: float
    state_error_sum: float  # over all steps so far
    state_persistence_sum: float
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
            that of persistence.
        obs_error, obs_persistence: (T + 1, N) likewise of each agent's observation.
        kind_errors: (T + 1,) error of each kind of state feature.
        measures: (real, imagined) values after each step that pictures cannot show; see ``Scene.measures``.
        pictures: indexed by step: real and imagined picture, (height, width, 3) uint8 each; or None.
        no_pictures: why there are none, or none of imagined states; empty otherwise.
    """

    run: Mapping[str, Any]
    spec: EnvSpec
    actions: ActionSource
    comparison: Comparison
    unit: str
    state_error: np.ndarray
    state_persistence: np.ndarray
    obs_error: np.ndarray
    obs_persistence: np.ndarray
    kind_errors: Mapping[str, np.ndarray]
    measures: Mapping[str, tuple[np.ndarray, np.ndarray]]
    pictures: Pictures | None
    no_pictures: str = ""

    @property
    def horizons(self) -> list[HorizonErrors]:
        """Errors after each horizon."""
        return [self._errors_after(steps) for steps in self.comparison.horizons]

    @property
    def verdicts(self) -> list[Verdict]:
        """What the numbers mean, the gravest first."""
        state, obs = (self.state_error, self.state_persistence), (self.obs_error.mean(1), self.obs_persistence.mean(1))
        return judge(self.comparison, {"State": state, "Observations": obs})

    @property
    def findings(self) -> list[str]:
        """A sentence for each horizon."""
        return [_sentence(found) for found in self.horizons]

    def to_dict(self) -> dict[str, Any]:
        """Everything but pictures, as plain data for JSON."""
        comparison, agents = self.comparison, self.spec.agents
        real, imagined = comparison.real, comparison.imagined
        return {
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "run": dict(self.run),
            "actions": self.actions,
            "seed": comparison.seed,
            "start": comparison.start,
            "unit": self.unit,
            "horizons": [vars(found) for found in self.horizons],
            "no_pictures": self.no_pictures,
            "steps": {
                "state_error": self.state_error.tolist(),
                "state_persistence": self.state_persistence.tolist(),
                "state_error_by_kind": {kind: error.tolist() for kind, error in self.kind_errors.items()},
                "obs_error": {agent: self.obs_error[:, i].tolist() for i, agent in enumerate(agents)},
                "obs_persistence": {agent: self.obs_persistence[:, i].tolist() for i, agent in enumerate(agents)},
                "real": {"reward": real.reward.tolist(), "continuation": real.continuation.tolist()},
                "imagined": {"reward": imagined.reward.tolist(), "continuation": imagined.continuation.tolist()},
                "measures": {
                    name: {"real": a.tolist(), "imagined": b.tolist()} for name, (a, b) in self.measures.items()
                },
            },
        }

    def _errors_after(self, steps: int) -> HorizonErrors:
        comparison = self.comparison
        compared = min(steps, comparison.steps)
        return HorizonErrors(
            steps=steps,
            compared=compared,
            state_error=float(self.state_error[compared]),
            state_persistence=float(self.state_persistence[compared]),
            state_error_sum=float(self.state_error[: compared + 1].sum()),
            state_persistence_sum=float(self.state_persistence[: compared + 1].sum()),
            obs_error=float(self.obs_error[compared].mean()),
            obs_persistence=float(self.obs_persistence[compared].mean()),
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
    error, persistence = comparison.error("state"), comparison.persistence_error("state")
    names = np.array(kinds)
    return Imagination(
        run=run,
        spec=spec,
        actions=actions,
        comparison=comparison,
        unit=unit,
        state_error=error.mean(-1),
        state_persistence=persistence.mean(-1),
        obs_error=_mean_without_padding(comparison.error("obs"), spec),
        obs_persistence=_mean_without_padding(comparison.persistence_error("obs"), spec),
        kind_errors={kind: error[:, names == kind].mean(-1) for kind in dict.fromkeys(kinds)},
        measures={} if pictures is None else pictures.measures(),
        pictures=pictures,
        no_pictures=no_pictures,
    )


def _mean_without_padding(error: np.ndarray, spec: EnvSpec) -> np.ndarray:
    """(T, N, O) -> (T, N)."""
    mean: np.ndarray = (error * spec.obs_valid).sum(-1) / np.array(spec.obs_sizes)
    return mean


def _sentence(found: HorizonErrors) -> str:
    ended = "" if found.compared == found.steps else f" (the real episode ended after {found.compared})"
    steps = max(1, found.compared)
    mean, persistence = found.state_error_sum / steps, found.state_persistence_sum / steps
    return (
        f"{found.steps} steps{ended}: state error {mean:.3g} on average, {found.state_error:.3g} at the end "
        f"(persistence: {persistence:.3g} and {found.state_persistence:.3g}), reward {found.imagined_reward:.4g} "
        f"imagined, {found.real_reward:.4g} real"
    )
