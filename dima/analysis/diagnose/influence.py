"""Influence of each agent's action on each feature of the state, in the world model and in the environment.

One agent's action is replaced by a random one. The world model predicts both next states under the same noise; the
environment is brought to the same state by replaying the episode's actions from its seed. Where a model predicts
observations alone, their features take the place of the state's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dima.analysis.diagnose.bootstrap import spearman
from dima.analysis.diagnose.episodes import EpisodeSource, FeatureScales
from dima.analysis.diagnose.rollouts import Forecaster
from dima.data import EnvSpec, Episode, View, choose
from dima.envs.base import JointEnv
from dima.experience.episodes import random_policy
from dima.experience.replay import Replay, ReplayConfig
from dima.runtime.rng import drawn_from
from dima.world_models.base import WorldModel

_MAX_REPLAY_STEPS = 100  # time steps are drawn from an episode's beginning, since the environment must replay it
_REPLAY_TOLERANCE = 1e-4  # a replayed state may differ by rounding


@dataclass(frozen=True)
class Influence:
    """Mean absolute change of the next state, or else observations, by agent and feature; in standard deviations."""

    agents: list[str]
    features: list[str]
    kinds: list[str]  # of the features
    time_steps: int  # real time steps at which an action was replaced
    imagined: list[list[float]]  # (N, F)
    real: list[list[float]] | None  # (N, F); None where the environment does not repeat itself
    agreement: float | None  # rank correlation of the two


@dataclass(frozen=True)
class _Features:
    """The F features whose change is measured: of the state, or of all observations without padding."""

    field: str  # of views, episodes and joint views
    valid: Tensor  # (S,) or (N, O) bool
    scale: Tensor  # (S,) or (N, O)
    names: Sequence[str]
    kinds: Sequence[str]

    def scaled(self, change: Tensor) -> Tensor:
        """(..., F) in standard deviations, of changes (..., S) or (..., N, O)."""
        return (change / self.scale)[..., self.valid]


def _features(model: WorldModel[Any], scales: FeatureScales) -> _Features:
    if model.predicts_state:
        every = torch.ones_like(scales.state_varies)
        return _Features("state", every, scales.state_scale, scales.names, scales.kinds)
    names = model.spec.obs_names
    return _Features("obs", scales.obs_valid, scales.obs_scale, names, [name.partition(":")[0] for name in names])


@dataclass(frozen=True)
class _TimeStep:
    episode: Episode
    seed: int
    step: int


def influence(
    forecaster: Forecaster,
    env: JointEnv,
    sources: Sequence[EpisodeSource],
    scales: FeatureScales,
    count: int,
    advance: Callable[[], None] = lambda: None,
) -> Influence:
    """Replace each agent's action, at random time steps, by one drawn uniformly from its action space.

    Args:
        forecaster: of the world model.
        env: the environment, to compare with.
        sources: fresh episodes; those without known seeds are not used.
        scales: of the features.
        count: number of time steps.
        advance: called after each time step has been tried in the environment.
    """
    rng = np.random.default_rng(forecaster.seed)
    known = [pair for source in sources if source.seeds for pair in zip(source.episodes, source.seeds, strict=True)]
    time_steps = []
    for index in rng.integers(len(known), size=count):
        episode, seed = known[index]
        time_steps.append(_TimeStep(episode, seed, int(rng.integers(min(_MAX_REPLAY_STEPS, len(episode))))))
    action, replaced = _actions(env.spec, time_steps, forecaster.seed)
    features = _features(forecaster.world_model, scales)
    imagined = _imagined(forecaster, env.spec, time_steps, action, replaced, features.field)
    changes = []
    for time_step, actions in zip(time_steps, replaced, strict=True):
        changes.append(_real(env, time_step, actions, features.field))
        advance()
    known_changes = [change for change in changes if change is not None]
    mean = features.scaled(imagined).mean(0)
    truth = features.scaled(torch.stack(known_changes)).mean(0) if len(known_changes) == count else None
    agreement = None if truth is None else spearman(mean.flatten().double().numpy(), truth.flatten().double().numpy())
    return Influence(
        agents=list(scales.agents),
        features=list(features.names),
        kinds=list(features.kinds),
        time_steps=count,
        imagined=mean.tolist(),
        real=None if truth is None else truth.tolist(),
        agreement=None if agreement is None or np.isnan(agreement) else agreement,
    )


def _actions(spec: EnvSpec, time_steps: Sequence[_TimeStep], seed: int) -> tuple[Tensor, Tensor]:
    """The real joint actions (B, N, A), and those with one agent's action replaced (B, N, N, A)."""
    state = torch.stack([one.episode.state[one.step] for one in time_steps])
    mask = torch.stack([one.episode.action_mask[one.step] for one in time_steps])
    zeros = torch.zeros(len(time_steps), spec.n_agents, 1)
    with drawn_from("cpu", seed):
        drawn, _ = choose(random_policy(spec), View(zeros, state, mask, zeros), spec)
    action = torch.stack([one.episode.action[one.step] for one in time_steps])
    changed = torch.eye(spec.n_agents, dtype=torch.bool)[..., None]
    return action, torch.where(changed, drawn[:, None], action[:, None])


@torch.no_grad()
def _imagined(
    forecaster: Forecaster, spec: EnvSpec, time_steps: Sequence[_TimeStep], action: Tensor, replaced: Tensor, field: str
) -> Tensor:
    """(B, N, ...) absolute change of what is predicted next: of a ``field`` of views."""
    model, device = forecaster.world_model, forecaster.device
    replay = Replay(ReplayConfig(capacity=sum(len(one.episode) + 1 for one in time_steps)), spec, "cpu")
    anchors = []
    for one in time_steps:
        anchors.append(replay.newest + one.step)
        replay.add(one.episode)
    rows = replay.gather(torch.tensor(anchors), model.context - 1, 0).to(device)

    def predict(joint_action: Tensor) -> Tensor:
        with drawn_from(device, forecaster.seed):
            view = model.observe(model.step(model.start(rows), joint_action.to(device)).latent)
        predicted: Tensor = getattr(view, field).cpu()
        return predicted

    unchanged = predict(action)
    return torch.stack([(predict(replaced[:, n]) - unchanged).abs() for n in range(spec.n_agents)], dim=1)


def _real(env: JointEnv, time_step: _TimeStep, replaced: Tensor, field: str) -> Tensor | None:
    """(N, ...) absolute change of what really comes next; None if a replay does not reach the recorded state."""
    episode, step = time_step.episode, time_step.step
    changes = []
    for action in replaced.numpy():
        joint, _ = env.reset(seed=time_step.seed)
        for past in episode.action[:step].numpy():
            joint = env.step(past)[0]
        if not np.allclose(joint["state"], episode.state[step].numpy(), rtol=_REPLAY_TOLERANCE, atol=_REPLAY_TOLERANCE):
            return None
        after = torch.from_numpy(env.step(action)[0][field])
        changes.append((after - getattr(episode, field)[step + 1]).abs())
    return torch.stack(changes)
