"""Export the policy of a run folder, and compare each file with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dima.agent import Agent, load
from dima.config import user_path
from dima.envs import make_env
from dima.envs.base import JointEnv
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError, DivergenceError
from dima.experience.episodes import episode_seed, play
from dima.policies.base import PerceivingPolicy
from dima.registry import Named
from dima.runtime.progress import Progress
from dima.runtime.rng import drawn_from
from dima.sharing.card import FORMAT, KIND, normalizers, policy_text, run_facts
from dima.sharing.files import SUFFIXES, Form, encode
from dima.sharing.networks import JointPolicy, class_of, describe_network
from dima.sharing.policy import ExportedPolicy, load_policy
from dima.sharing.spaces import describe_agents
from dima.storage.atomic import require_writable, results_folder, write_bytes, write_errors, write_text
from dima.storage.run_folder import RunFolder
from dima.version import __version__

FOLDER, CARD = "export", "README.md"
OBSERVATIONS = 1_000  # joint observations on which each file is compared with the run's policy
# a runtime may round otherwise: largest difference of actions in [-1, 1], and share of actions that may differ by more,
# where they are choices or follow from choices within the policy
TOLERANCE: dict[Form, tuple[float, float]] = {"safetensors": (0, 0), "torch": (1e-5, 0.005), "onnx": (1e-4, 0.005)}
Observed = list[list[tuple[dict[Any, Any], dict[Any, Any]]]]  # observations and infos of a team, by episode


@dataclass(frozen=True)
class Equality:
    """A file's actions beside those of the run's policy, on the same joint observations."""

    observations: int
    actions: int  # one for each agent and observation
    discrete: bool
    different: int  # of the actions
    apart: int  # of them, by more than rounding
    largest: float  # difference of continuous actions, which lie in [-1, 1]; 1 where a choice differs
    jumps: bool  # rounding may change a choice: an action is one, or follows from codes or latents that are

    def __str__(self) -> str:
        on = f"on {self.observations:,} observations"
        if not self.different:
            return f"equal {on}"
        if self.discrete:
            return f"{self.different:,} of {self.actions:,} choices differ {on}"
        if self.apart:
            others = "by rounding" if self.different > self.apart else "not"
            some = f"{self.apart:,} of {self.actions:,} actions"
            return f"{some} differ by up to {self.largest:.1e}, the others {others}, {on}"
        return f"equal up to {self.largest:.1e}, actions being in [-1, 1], {on}"

    def within(self, form: Form) -> bool:
        """Whether the difference is one of rounding."""
        return self.apart <= (TOLERANCE[form][1] * self.actions if self.jumps else 0)


@dataclass(frozen=True)
class Exported:
    """Files of a policy.

    Attributes:
        folder: that holds them and the card ``README.md``.
        files: each file and how equally it acts.
        card: the JSON data in each of them.
    """

    folder: Path
    files: dict[Path, Equality]
    card: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        files = {path.name: {"bytes": path.stat().st_size, **vars(equal)} for path, equal in self.files.items()}
        return {"folder": str(self.folder), "files": files, "card": self.card}


def export(
    run: str | os.PathLike[str],
    out: str | Path | None = None,
    formats: Sequence[Form] = ("safetensors", "torch"),
    *,
    task: Named | None = None,
    algorithm: Named | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a run's policy as files that act alone, and compare each with the run's policy.

    Args:
        run: the run folder.
        out: folder of the files; default: ``export/`` in the run folder.
        formats: ``safetensors`` (samples actions, too), ``torch`` and ``onnx`` (the policy's mode as a graph).
        task: the run's task, repeated: consent to import it, where it is ``package.module:factory``.
        algorithm: likewise the run's algorithm, where it is ``package.module:Name``.
        progress: displays the phases.

    Raises:
        UserError: the run cannot be loaded or has no trained policy, a format needs a package that is not installed or
            cannot hold the policy, or the folder cannot be written.
        DivergenceError: a file acts differently; it is removed.
    """
    progress = progress or Progress()
    if not formats or not SUFFIXES.keys() >= set(formats):
        raise ConfigError(f"formats = {list(formats)} does not fit: expected some of {', '.join(SUFFIXES)}")
    agent = load(run, "cpu", task=task, algorithm=algorithm)
    if not agent.trained:
        raise ConfigError(f"{run}: `dima fit` trains a world model only: there is no policy to export")
    folder = user_path(out) if out is not None else results_folder(agent.folder, FOLDER)
    require_writable(folder)
    policy = JointPolicy(agent.algorithm.policy, agent.env.spec).eval()
    card = _card(agent, policy)
    contents: dict[Form, bytes] = {}
    for form in dict.fromkeys(formats):
        with progress.phase(form):
            contents[form] = encode(form, policy, card)
    with progress.phase("play"):
        observed = _observations(agent)
    files = {}
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for form, content in contents.items():
        path = folder / f"policy{SUFFIXES[form]}"
        with progress.phase(f"compare {form}"):
            with write_errors(path):
                write_bytes(path, content)
            files[path] = equal = _compare(agent, load_policy(path, trust=True), observed, form)
        if not equal.within(form):
            path.unlink()
            raise DivergenceError(f"{path} does not act like the run's policy ({equal}): it was removed")
    with write_errors(folder):
        write_text(folder / CARD, policy_text(card, {path.name: str(equal) for path, equal in files.items()}))
    return Exported(folder, files, card)


def _card(agent: Agent, joint: JointPolicy) -> dict[str, Any]:
    with RunFolder.open(agent.folder) as folder:
        kept = [one for one in folder.records() if one.get("step", 0) <= agent.steps]
    policy = agent.algorithm.policy
    return {
        "kind": KIND,
        "format": FORMAT,
        "dima": __version__,
        "torch": torch.__version__,
        **run_facts(agent.config.to_dict(), agent.protocol, kept),
        "steps": agent.steps,
        "checkpoint": agent.digest,
        "agents": describe_agents(agent.env),
        "obs_has_id": agent.env.spec.obs_has_id,
        "agents_leave": agent.env.spec.agents_leave,
        "memory": {name: list(shape) for name, shape in joint.memory.items()},
        "class": class_of(policy),
        "network": describe_network(policy),
        "normalizers": normalizers(policy),
    }


def _observations(agent: Agent) -> Observed:
    """What agents observe while the policy plays, sampling its actions."""
    spec, seed, missing = agent.env.spec, agent.evaluation_seed, OBSERVATIONS
    observed: Observed = []
    with VectorEnv(partial(make_env, agent.config.task, agent.config.env), 1) as envs, drawn_from("cpu", seed):
        while missing:
            seeds = [episode_seed(seed, len(observed), "evaluation")]
            (episode,) = play(envs, agent.algorithm.act, seeds, limit=missing)
            alive = spec.alive(episode.state)
            there = np.ones((len(episode), spec.n_agents), np.bool_) if alive is None else alive.numpy()
            rows = zip(episode.obs.double().numpy(), episode.action_mask.numpy(), there[: len(episode)], strict=False)
            observed.append([_of_those_there(agent.env, *row) for row in rows])  # but the last, on which nobody acts
            missing -= len(episode)
    return observed


def _of_those_there(
    env: JointEnv, obs: np.ndarray, mask: np.ndarray, there: np.ndarray
) -> tuple[dict[Any, Any], dict[Any, Any]]:
    observations, infos = env.decode_observations(obs, mask)
    gone = [agent for agent, alive in zip(observations, there, strict=True) if not alive]
    for agent in gone:
        observations.pop(agent)
        infos.pop(agent, None)
    return observations, infos


def _compare(agent: Agent, policy: ExportedPolicy, observed: Observed, form: Form) -> Equality:
    """The modes' actions on every observation, their memories following the episodes."""
    env, actions, different, apart, largest = agent.env, 0, 0, 0, 0.0
    for episode in observed:
        agent.reset()
        policy.reset()
        for one in episode:
            own, found = agent.act(*one), policy.act(*one)
            gap = np.abs(env.encode_actions(found, own) - env.encode_actions(own, own)).max(-1)
            beyond = int((gap > TOLERANCE[form][0]).sum())
            if beyond:  # a choice within that rounding changed is to change one step, not the rest of the episode
                policy.copy_memory(agent)
            actions, apart, largest = actions + len(own), apart + beyond, max(largest, float(gap.max()))
            different += sum(not np.array_equal(found[name], own[name]) for name in own)
    discrete, perceives = env.spec.discrete, isinstance(agent.algorithm.policy, PerceivingPolicy)
    return Equality(sum(map(len, observed)), actions, discrete, different, apart, largest, jumps=discrete or perceives)
