"""Policies to record: random or from a run, optionally with Ornstein-Uhlenbeck noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dima.agent import Agent, load
from dima.config import Config
from dima.data import Act, EnvSpec, View
from dima.datasets.format import RANDOM, Source
from dima.errors import ConfigError, DatasetError, nearest
from dima.experience.episodes import random_policy
from dima.runtime.summary import settings_line


def parse_source(text: str) -> Source:
    """Parse a source written as ``runs/a,share=0.5,mode,noise=0.2``.

    Raises:
        ConfigError: an option does not exist or its value is invalid.
    """
    policy, *options = text.split(",")
    values: dict[str, Any] = {"policy": policy}
    kinds = {field.name: type(field.default) for field in fields(Source) if field.name != "policy"}
    for option in options:
        name, has_value, value = option.partition("=")
        if name not in kinds:
            raise ConfigError(f"source {text!r} has the unknown option {name!r}: {nearest(name, kinds)}")
        if bool(has_value) == (kinds[name] is bool):
            form = name if kinds[name] is bool else f"{name}=0.5"
            raise ConfigError(f"source {text!r}: write the option {name!r} as in `{policy},{form}`")
        try:
            values[name] = True if kinds[name] is bool else float(value)
        except ValueError:
            raise ConfigError(f"source {text!r}: {name} = {value!r} is not a number") from None
    try:
        return Source(**values)
    except ConfigError as error:
        raise ConfigError(f"source {text!r}: {error}") from None


@dataclass(frozen=True)
class LoadedSource:
    """A source with its policy."""

    facts: dict[str, Any]  # its entry in the dataset's manifest, plain data
    policy: Act
    noise: float
    correlation: float
    spec: EnvSpec

    def act(self) -> Act:
        """The policy to play, with a new noise process."""
        noisy = NoisyPolicy(self.policy, self.noise, self.correlation) if self.noise else self.policy
        return noisy if self.spec.discrete else partial(_clipped, noisy)


class NoisyPolicy:
    """Policy with additive, temporally correlated action noise.

    The noise is a discrete Ornstein-Uhlenbeck process in its stationary distribution, independent for every
    environment, agent and action feature.
    """

    def __init__(self, act: Act, std: float, correlation: float) -> None:
        self.policy, self.std, self.correlation = act, std, correlation
        self.noise: Tensor | None = None

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        action, log_prob = self.policy(view)
        innovation = self.std * torch.randn_like(action)
        if self.noise is None:
            self.noise = innovation
        else:
            self.noise = self.correlation * self.noise + (1 - self.correlation**2) ** 0.5 * innovation
        return action + self.noise, log_prob


def load_source(source: Source, task: str, env: Config, spec: EnvSpec, device: str) -> LoadedSource:
    """Load the policy of a source.

    Args:
        source: the source.
        task: the recorded task.
        env: settings of its environment.
        spec: sizes of its environment.
        device: where the policy computes.

    Raises:
        UserError: the run cannot be loaded, has another task or settings, or has no trained policy.
    """
    if source.noise and spec.discrete:
        raise ConfigError(f"noise = {source.noise} is for continuous actions, those of {task} are discrete: drop it")
    facts = source.to_dict()
    if source.policy == RANDOM:
        policy = random_policy(spec)
    else:
        agent = load(source.policy, device, task=task)
        _require_match(agent, source.policy, env)
        policy = partial(agent.algorithm.act, mode=source.mode)
        names = ("algorithm", "preset", "seed")
        facts |= {name: getattr(agent.config, name) for name in names} | {"checkpoint": agent.digest}
    return LoadedSource(facts, policy, source.noise, source.correlation, spec)


def _require_match(agent: Agent, run: str, env: Config) -> None:
    config = agent.config
    if config.env != env:
        ours, theirs = config.env.to_dict(), env.to_dict()
        changed = settings_line({name: value for name, value in ours.items() if theirs[name] != value})
        raise DatasetError(f"{run} was trained with {changed}: record with the same settings of the environment")
    if not agent.trained:
        raise DatasetError(f"{run} fitted only a world model, its policy is untrained: use `random`, or another run")


def _clipped(policy: Callable[[View], tuple[Tensor, Tensor]], view: View) -> tuple[Tensor, Tensor]:
    """Actions clipped to [-1, 1], zero on padding."""
    action, log_prob = policy(view)
    return action.clamp(-1, 1) * view.action_mask, log_prob
