"""Whose episodes are recorded: a random policy or the policies of runs, with or without coloured noise on top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor

from dima.agent import Agent, load
from dima.config import Config, NonNegative, Positive, Range
from dima.data import Act, EnvSpec, View
from dima.errors import ConfigError, DatasetError, nearest
from dima.experience.collector import random_policy
from dima.runtime.summary import settings_line

RANDOM = "random"


@dataclass(frozen=True)
class Source(Config):
    """One part of a mixture, written ``runs/a,share=0.5,mode,noise=0.2``."""

    policy: str = RANDOM  # a run folder, or `random`: uniform over the action space
    share: Positive = 1.0  # of the recorded steps, relative to the other sources' shares
    mode: bool = False  # the policy's most probable action instead of draws
    noise: NonNegative = 0.0  # standard deviation of noise added to continuous actions, which lie in [-1, 1]
    correlation: Annotated[float, Range(0, 0.9999)] = 0.0  # of the noise from step to step (Ornstein-Uhlenbeck)

    @classmethod
    def parse(cls, text: str) -> Source:
        """The source in a text of the form above.

        Raises:
            ConfigError: an option does not exist or its value does not fit.
        """
        policy, *options = text.split(",")
        values: dict[str, Any] = {"policy": policy}
        kinds = {field.name: type(field.default) for field in fields(cls) if field.name != "policy"}
        for option in options:
            name, given, value = option.partition("=")
            if name not in kinds:
                raise ConfigError(f"source {text!r} has the unknown option {name!r}: {nearest(name, kinds)}")
            if bool(given) == (kinds[name] is bool):
                form = name if kinds[name] is bool else f"{name}=0.5"
                raise ConfigError(f"source {text!r}: write the option {name!r} as in `{policy},{form}`")
            try:
                values[name] = True if kinds[name] is bool else float(value)
            except ValueError:
                raise ConfigError(f"source {text!r}: {name} = {value!r} is not a number") from None
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"source {text!r}: {error}") from None


@dataclass(frozen=True)
class Player:
    """A source that is ready to play."""

    facts: dict[str, Any]  # what is remembered of it, plain data
    policy: Act
    noise: float
    correlation: float
    spec: EnvSpec

    def act(self) -> Act:
        """Its policy; noise begins anew with every call."""
        noisy = Noisy(self.policy, self.noise, self.correlation) if self.noise else self.policy
        return noisy if self.spec.discrete else partial(_clipped, noisy)


class Noisy:
    """A policy whose continuous actions are pushed by noise that remembers itself: a discrete Ornstein-Uhlenbeck
    process in its stationary state, of its own for every environment, agent and action feature.
    """

    def __init__(self, act: Act, std: float, correlation: float) -> None:
        self.policy, self.std, self.correlation = act, std, correlation
        self.push: Tensor | None = None

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        action, log_prob = self.policy(view)
        fresh = self.std * torch.randn_like(action)
        if self.push is None:
            self.push = fresh
        else:
            self.push = self.correlation * self.push + (1 - self.correlation**2) ** 0.5 * fresh
        return action + self.push, log_prob


def prepare(source: Source, task: str, env: Config, spec: EnvSpec, device: str) -> Player:
    """Load a source's policy.

    Args:
        source: whose.
        task: what is recorded.
        env: the environment's settings.
        spec: its facts.
        device: where policies compute.

    Raises:
        UserError: the run cannot be loaded, is of another task or other settings, or has no trained policy.
    """
    if source.noise and spec.discrete:
        raise ConfigError(f"noise = {source.noise} is for continuous actions, those of {task} are discrete: drop it")
    facts = source.to_dict()
    if source.policy == RANDOM:
        policy = random_policy(spec)
    else:
        agent = load(source.policy, device, task=task)
        _require_fit(agent, source.policy, env)
        policy = partial(agent.algorithm.act, mode=source.mode)
        names = ("algorithm", "preset", "seed")
        facts |= {name: getattr(agent.config, name) for name in names} | {"checkpoint": agent.seal}
    return Player(facts, policy, source.noise, source.correlation, spec)


def _require_fit(agent: Agent, run: str, env: Config) -> None:
    config = agent.config
    if config.env != env:
        ours, theirs = config.env.to_dict(), env.to_dict()
        changed = settings_line({name: value for name, value in ours.items() if theirs[name] != value})
        raise DatasetError(f"{run} was trained with {changed}: record with the same settings of the environment")
    if not agent.trained:
        raise DatasetError(f"{run} learnt a world model only, its policy is untrained: use `random`, or another run")


def _clipped(policy: Callable[[View], tuple[Tensor, Tensor]], view: View) -> tuple[Tensor, Tensor]:
    """What the environment carries out, and nothing where there is padding."""
    action, log_prob = policy(view)
    return action.clamp(-1, 1) * view.action_mask, log_prob
