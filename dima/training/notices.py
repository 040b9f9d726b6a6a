"""What a run says besides its progress: what it is, how long it takes, what to choose instead."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, isinf, log10

import torch

from dima.algorithms.base import Algorithm
from dima.data import EnvSpec
from dima.envs.check import description
from dima.experience.evaluation import Evaluation
from dima.presets import GPU_SIZED, smaller_preset
from dima.runtime.pace import Pace
from dima.runtime.progress import duration
from dima.training.run_config import OfflineConfig, RunConfig

LONG = 3600.0  # seconds from which on a run says how long it will take


def opening(
    config: RunConfig, spec: EnvSpec, algorithm: Algorithm, device: torch.device, at_random: Evaluation | None
) -> str:
    """What a run is, in two lines.

    Args:
        config: of the run.
        spec: of its environment.
        algorithm: whose weights are counted.
        device: of its tensors.
        at_random: of a random policy, if it was evaluated.
    """
    task = f"{config.task}: {description(spec)}"
    if at_random is not None:
        task += f"; a random policy returns {at_random.mean:,.1f} ({len(at_random.returns)} episodes)"
    weights = sum(weight.numel() for weight in algorithm.parameters() if weight.requires_grad)
    learner = f"{config.algorithm}, preset {config.preset}, seed {config.seed}: {weights:,} weights on {device}"
    return f"{task}\n{learner}, run folder {config.folder}"


def gpu_advice(config: RunConfig, device: torch.device) -> str | None:
    """What to choose instead of a preset that is sized for a GPU, on a CPU."""
    smaller = smaller_preset(config.algorithm, config.preset)
    if device.type != "cpu" or config.preset not in GPU_SIZED or smaller is None:
        return None
    return (
        f"dima: the preset {config.preset} is sized for a GPU and may take days on this CPU: "
        f"--preset {smaller} is sized for a CPU"
    )


def duration_advice(
    config: RunConfig, pace: Pace, device: torch.device, spent: float, step: int, target: int, least: int = 0
) -> str | None:
    """How long a run takes and what to choose instead, if that is above ``LONG``.

    Args:
        config: of the run.
        pace: of its iterations so far.
        device: of its tensors.
        spent: seconds since it started or was resumed.
        step: steps made so far.
        target: steps of the whole run.
        least: steps below which nothing is learnt.
    """
    if not pace.reliable or pace.seconds_per_step is None:
        return None
    whole = spent + pace.seconds_per_step * max(0, target - step)
    if whole <= LONG:
        return None
    unit = "iterations" if isinstance(config, OfflineConfig) else "steps"
    exactly, hour = ("about", "an hour") if pace.share == "whole" else ("at least", "at least an hour")
    fit = _two_digits(step + (LONG - spent) / pace.seconds_per_step)
    choices = [f"--{unit} {fit} takes {hour}" if fit > least else f"give fewer --{unit}"]
    if smaller := smaller_preset(config.algorithm, config.preset):
        choices.insert(0, f"--preset {smaller} is smaller")
    return f"dima: at this pace the whole run takes {exactly} {duration(whole)} on {device}: {', '.join(choices)}"


def reward_advice(largest: float, limits: Mapping[str, tuple[float, float]]) -> str | None:
    """What to choose instead where rewards are too small or too large to be learnt as they are.

    Args:
        largest: size of the largest so far; 0 says nothing about their size.
        limits: ``reward_limits`` of what learns from them.
    """
    outside = {flag: limit for flag, limit in limits.items() if not limit[0] <= largest <= limit[1]}
    if not largest or not outside:
        return None
    least, most = max(low for low, _ in outside.values()), min(high for _, high in outside.values())
    bounds = f"{least:g} and more" if isinf(most) else f"{least:g} to {most:g}"
    return (
        f"dima: the largest reward so far is {largest:.2g} in size, these settings learn from {bounds}: "
        f"use preset small, or {' '.join(outside)}"
    )


def _two_digits(number: float) -> int:
    """Rounded down to two significant digits."""
    if number < 1:
        return 0
    unit = 10 ** max(0, floor(log10(number)) - 1)
    return int(number // unit * unit)
