"""Calls of ours and of the authors of a method, in turn, and what an iteration of them costs."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dima.data import EnvSpec
from dima.experience.replay import Rows
from dima.runtime.machine import keep_freed_memory
from dima.runtime.provenance import protocol

Side = Mapping[str, Callable[[], object]]  # a call of each part


def rows(spec: EnvSpec, batch: int, length: int) -> Rows:
    """Random rows (batch, length) of one long episode."""
    shape, choices = (batch, length, spec.n_agents, spec.action_dim), torch.arange(spec.action_dim)
    chosen = torch.randint(spec.action_dim, shape[:-1])[..., None] == choices
    return Rows(
        state=torch.randn(batch, length, spec.state_dim),
        obs=torch.randn(*shape[:-1], spec.obs_dim),
        action_mask=torch.ones(shape, dtype=torch.bool),
        action=chosen.float() if spec.discrete else 2 * torch.rand(shape) - 1,
        reward=torch.randn(batch, length),
        terminated=torch.zeros(batch, length, dtype=torch.bool),
        episode=torch.zeros(batch, length, dtype=torch.long),
        valid=torch.ones(batch, length, dtype=torch.bool),
        acted=torch.ones(batch, length, dtype=torch.bool),
    )


def measure(sides: Mapping[str, Side], often: Mapping[str, int], turns: int) -> dict[str, Any]:
    """Medians over the turns of each part's calls, their sum over an iteration, and ratios of theirs to ours.

    Args:
        sides: ``ours`` and ``theirs``.
        often: calls of each part in an iteration.
        turns: timed calls of each part and side.

    Returns:
        ``wall`` and ``cpu`` seconds (``cpu``: of this process, which waiting for other programs does not lengthen) and
        ``operations``, PyTorch's count of those of matrix products, in units of 1e9.
    """
    keep_freed_memory()
    found: dict[str, Any] = {}
    for part in often:
        calls: dict[str, Any] = {side: {"wall": [], "cpu": []} for side in sides}
        for side, parts in sides.items():  # warms up, too
            with FlopCounterMode(display=False) as counter:
                parts[part]()
            calls[side]["operations"] = [counter.get_total_flops() / 1e9]
        for turn in range(turns):
            for side in list(sides) if turn % 2 == 0 else reversed(list(sides)):
                wall, cpu = time.perf_counter(), time.process_time()
                sides[side][part]()
                calls[side]["wall"].append(time.perf_counter() - wall)
                calls[side]["cpu"].append(time.process_time() - cpu)
        found[part] = {side: {key: statistics.median(v) for key, v in call.items()} for side, call in calls.items()}
    found["iteration"] = {
        side: {
            key: sum(often[part] * found[part][side][key] for part in often) for key in ("wall", "cpu", "operations")
        }
        for side in sides
    }
    for costs in found.values():
        costs["ratio"] = {key: costs["theirs"][key] / value for key, value in costs["ours"].items()}
    return found


def report(settings: Mapping[str, Any], found: Mapping[str, Any], out: Path | None) -> None:
    """Print what was found as JSON, and write it to a file."""
    text = json.dumps({"settings": settings, **found, "protocol": protocol("cpu")}, indent=1, default=str)
    print(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
