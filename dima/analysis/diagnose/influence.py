"""Whose action moves what: exchange one agent's action and see which features of the next state change.

In the world model under common noise; and in the environment itself, which is brought to the same moment by playing the
episode's actions again from its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dima.analysis.diagnose.bootstrap import spearman
from dima.analysis.diagnose.episodes import Source
from dima.analysis.diagnose.forecasts import Foreteller
from dima.analysis.diagnose.units import Units
from dima.data import EnvSpec, Episode, View
from dima.envs.base import JointEnv
from dima.experience.collector import random_policy
from dima.experience.replay import Replay, ReplayConfig
from dima.runtime.rng import drawn_from

_SOON = 100  # steps into an episode that a moment lies at most, since the environment has to be brought there again
_SAME = 1e-4  # a repeated state may differ by rounding


@dataclass(frozen=True)
class Influence:
    """Mean absolute change of the next state, in standard deviations of the data, per agent and feature."""

    agents: list[str]
    features: list[str]
    kinds: list[str]  # of the features
    moments: int  # real situations that an action was exchanged in
    imagined: list[list[float]]  # (N, S)
    real: list[list[float]] | None  # (N, S); None where the environment does not repeat itself
    agreement: float | None  # rank correlation between the two


@dataclass(frozen=True)
class _Moment:
    episode: Episode
    seed: int
    step: int


def influence(
    foreteller: Foreteller,
    env: JointEnv,
    sources: Sequence[Source],
    units: Units,
    count: int,
    advance: Callable[[], None] = lambda: None,
) -> Influence:
    """Exchange each agent's action in some situations for one drawn evenly from its action space.

    Args:
        foreteller: the world model.
        env: the environment, to compare with.
        sources: fresh episodes; those without known seeds are left alone.
        units: what the features are.
        count: number of situations.
        advance: called after each of them has been tried in the environment.
    """
    rng = np.random.default_rng(foreteller.seed)
    known = [pair for source in sources if source.seeds for pair in zip(source.episodes, source.seeds, strict=True)]
    moments = []
    for place in rng.integers(len(known), size=count):
        episode, seed = known[place]
        moments.append(_Moment(episode, seed, int(rng.integers(min(_SOON, len(episode))))))
    action, exchanged = _actions(env.spec, moments, foreteller.seed)
    imagined = _imagined(foreteller, env.spec, moments, action, exchanged)
    real = []
    for moment, other in zip(moments, exchanged, strict=True):
        real.append(_real(env, moment, other))
        advance()
    changes = None if any(change is None for change in real) else torch.stack([c for c in real if c is not None])
    mean = (imagined / units.state_scale).mean(0)
    truth = None if changes is None else (changes / units.state_scale).mean(0)
    agreement = None if truth is None else spearman(mean.flatten().double().numpy(), truth.flatten().double().numpy())
    return Influence(
        agents=list(units.agents),
        features=list(units.names),
        kinds=list(units.kinds),
        moments=count,
        imagined=mean.tolist(),
        real=None if truth is None else truth.tolist(),
        agreement=None if agreement is None or np.isnan(agreement) else agreement,
    )


def _actions(spec: EnvSpec, moments: Sequence[_Moment], seed: int) -> tuple[Tensor, Tensor]:
    """What was done, (B, N, A), and that with one agent's action exchanged, (B, N, N, A)."""
    mask = torch.stack([moment.episode.action_mask[moment.step] for moment in moments])
    nothing = torch.zeros(len(moments), spec.n_agents, 1)
    with drawn_from("cpu", seed):
        drawn, _ = random_policy(spec)(View(nothing, nothing[..., 0], mask, nothing))
    action = torch.stack([moment.episode.action[moment.step] for moment in moments])
    changed = torch.eye(spec.n_agents, dtype=torch.bool)[..., None]
    return action, torch.where(changed, drawn[:, None], action[:, None])


@torch.no_grad()
def _imagined(
    foreteller: Foreteller, spec: EnvSpec, moments: Sequence[_Moment], action: Tensor, exchanged: Tensor
) -> Tensor:
    """(B, N, S) absolute change of the foretold next state."""
    model, device = foreteller.world_model, foreteller.device
    replay = Replay(ReplayConfig(capacity=sum(len(moment.episode) + 1 for moment in moments)), spec, "cpu")
    anchors = []
    for moment in moments:
        anchors.append(replay.newest + moment.step)
        replay.add(moment.episode)
    rows = replay.gather(torch.tensor(anchors), model.context - 1, 0).to(device)

    def after(joint: Tensor) -> Tensor:
        with drawn_from(device, foreteller.seed):
            return model.observe(model.step(model.start(rows), joint.to(device)).latent).state.cpu()

    before = after(action)
    return torch.stack([(after(exchanged[:, agent]) - before).abs() for agent in range(spec.n_agents)], dim=1)


def _real(env: JointEnv, moment: _Moment, exchanged: Tensor) -> Tensor | None:
    """(N, S) absolute change of the real next state; None if the environment does not come to the same moment."""
    changes = []
    for action in exchanged.numpy():
        joint, _ = env.reset(seed=moment.seed)
        for past in moment.episode.action[: moment.step].numpy():
            joint = env.step(past)[0]
        if not np.allclose(joint["state"], moment.episode.state[moment.step].numpy(), rtol=_SAME, atol=_SAME):
            return None
        after = torch.from_numpy(env.step(action)[0]["state"])
        changes.append((after - moment.episode.state[moment.step + 1]).abs())
    return torch.stack(changes)
