"""Seconds, operations, share of peak speed and memory of every part."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.speed.cost import Cost, Counter, parameters
from benchmarks.speed.learners import build
from benchmarks.speed.timing import Timing, peak_memory
from benchmarks.speed.units import KEEPING, Unit, learning_units, living_units, sampling_units, steps_of_a_iteration
from dima.algorithms.model_based import ModelBased
from dima.training.run_config import TrainConfig


def measure(config: TrainConfig, timing: Timing, top: float) -> dict[str, Any]:
    """Measure every part of an iteration and scale it.

    Args:
        config: of the run.
        timing: of each part, after a call that warms up and is counted.
        top: operations per second the device can do at most.

    Returns:
        Plain data for JSON: ``parts`` (a call of each), ``inside`` (the imagination, split), ``iteration`` (each part
        as often as an iteration makes it, and their sum), ``million`` (hours of a million steps at that pace),
        ``keeping`` (share of the iteration that goes to replay sampling, checkpoint and log).
    """
    torch.manual_seed(config.seed)
    learner = build(config, str(timing.device))
    units = learning_units(learner, timing.share) | sampling_units(learner)
    parts = {name: _part(unit, timing) for name, unit in units.items()}
    inside = inside_imagination(learner, units["imagination"], timing)
    with tempfile.TemporaryDirectory() as folder, living_units(config, timing.device, Path(folder) / "run") as living:
        parts |= {name: _part(unit, timing) for name, unit in living.items()}
        units |= living
    for part in [*parts.values(), *inside.values()]:
        part["ceiling"] = part["flops"] / part["seconds"] / top if part["flops"] else None
    scaled = {
        name: {key: parts[name][key] * unit.often for key in ("seconds", "flops")} for name, unit in units.items()
    }
    whole = {key: sum(scaled[n][key] for n, unit in units.items() if not unit.within) for key in ("seconds", "flops")}
    return {
        "parts": parts,
        "inside": inside,
        "often": {name: unit.often for name, unit in units.items()},
        "iteration": scaled | {"iteration": whole},
        "million": whole["seconds"] * 1e6 / steps_of_a_iteration(config, learner.spec) / 3600,
        "keeping": sum(scaled[name]["seconds"] for name in KEEPING) / whole["seconds"],
        "parameters": {
            "denoiser": parameters(learner.world_model.denoiser),
            "reward": parameters(learner.world_model.reward),
            "decoder": parameters(learner.world_model.decoder),
            "actor": parameters(learner.ppo.actor),
            "critic": parameters(learner.ppo.critic),
        },
    }


def _part(unit: Unit, timing: Timing) -> dict[str, Any]:
    def prepared() -> None:
        if unit.before is not None:
            unit.before()

    prepared()
    with Counter() as count:
        memory = peak_memory(unit.call, timing.device)
    seconds = []
    for _ in range(timing.repeats):
        prepared()
        seconds.append(timing.seconds(unit.call))
    return {"seconds": median(seconds), "all": seconds, "flops": count.flops, "memory": memory}


def inside_imagination(learner: ModelBased, unit: Unit, timing: Timing) -> dict[str, dict[str, Any]]:
    """The cost of an imagined batch by component; the sampler's is without its networks."""
    with Counter() as count:
        counted = _split(learner, unit, timing, count)
    timed = _split(learner, unit, timing, Counter())  # a counter at work would slow small operations down
    whole = sum(cost.seconds for cost in timed.values())
    return {
        name: {"seconds": cost.seconds, "flops": counted[name].flops, "share": cost.seconds / whole}
        for name, cost in timed.items()
    }


def _split(learner: ModelBased, unit: Unit, timing: Timing, count: Counter) -> dict[str, Cost]:
    model: Any = learner.world_model
    costs: dict[str, Cost] = {}
    places = [
        ("start", model, "start"),
        ("policy", learner.ppo.actor, "act"),
        ("condition", model.denoiser, "encode_actions"),
        ("network", model.denoiser, "denoise"),
        ("sampler", model, "next_state"),
        ("decoder", model, "observe"),
        ("reward", model.reward, "step"),
        ("reward", model.reward, "predict"),
    ]
    with timing.watching(places, costs, count), timing.cost_of("all", costs, count):
        unit.call()
    whole = costs.pop("all")
    costs["sampler"] = costs["sampler"] + (costs["condition"] + costs["network"]) * -1
    costs["the rest"] = whole + sum(costs.values(), Cost()) * -1
    return costs
