"""Calls of ours and of the authors of a method, in turn, and what an iteration of them costs.

Each side lives in a process of its own, with the memory allocator that its runs have: ours keep freed memory
(:func:`dima.runtime.machine.keep_freed_memory`), others return it to the system, unless told to keep it as well.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dima.data import EnvSpec
from dima.experience.replay import Rows
from dima.runtime.machine import keep_freed_memory
from dima.runtime.provenance import protocol

Side = Mapping[str, Callable[[], object]]  # a call of each part
Costs = dict[str, float]
COSTS = ("wall", "cpu", "operations")
KEEP = {False: ("ours",), True: ("ours", "theirs")}  # sides that keep freed memory, by --same-allocator


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


def measure(
    sides: Mapping[str, Callable[[], Side]], often: Mapping[str, int], turns: int, keep: tuple[str, ...] = KEEP[False]
) -> dict[str, Any]:
    """Medians over the turns of each part's calls, their sum over an iteration, and ratios of theirs to ours.

    Args:
        sides: build ``ours`` and ``theirs``, each in a process of its own; can be pickled.
        often: calls of each part in an iteration.
        turns: timed calls of each part and side.
        keep: sides whose processes keep freed memory.

    Returns:
        ``wall`` and ``cpu`` seconds (``cpu``: of that process, which waiting for other programs does not lengthen) and
        ``operations``, PyTorch's count of those of matrix products, in units of 1e9.
    """
    found: dict[str, Any] = {}
    with ExitStack() as held:
        calls = {side: held.enter_context(_process(build, side in keep)) for side, build in sides.items()}
        for part in often:
            costs: dict[str, list[Costs]] = {side: [] for side in sides}
            for call in calls.values():
                call(part, True)  # warms up
            for turn in range(turns):
                for side in list(sides) if turn % 2 == 0 else reversed(list(sides)):
                    costs[side].append(calls[side](part, False))
            found[part] = {
                side: {key: statistics.median(cost[key] for cost in taken) for key in COSTS}
                for side, taken in costs.items()
            }
    found["iteration"] = {
        side: {key: sum(often[part] * found[part][side][key] for part in often) for key in COSTS} for side in sides
    }
    for costs_of in found.values():
        costs_of["ratio"] = {key: costs_of["theirs"][key] / value for key, value in costs_of["ours"].items()}
    return found


@contextmanager
def _process(build: Callable[[], Side], keep: bool) -> Iterator[Callable[[str, bool], Costs]]:
    """A process that builds a side; its calls, one at a time, by name of the part."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(build, keep, there), daemon=True)
    process.start()
    there.close()

    def call(part: str, count: bool) -> Costs:
        here.send((part, count))
        costs: Costs = here.recv()
        return costs

    try:
        yield call
    finally:
        here.close()
        process.join()


def _serve(build: Callable[[], Side], keep: bool, pipe: Connection) -> None:
    if keep:
        keep_freed_memory()
    side, operations = build(), dict[str, float]()
    while True:
        try:
            part, count = pipe.recv()
        except EOFError:
            return
        if count:
            with FlopCounterMode(display=False) as counter:
                side[part]()
            operations[part] = counter.get_total_flops() / 1e9
        wall, cpu = time.perf_counter(), time.process_time()
        side[part]()
        now = time.perf_counter(), time.process_time()
        pipe.send({"wall": now[0] - wall, "cpu": now[1] - cpu, "operations": operations[part]})


def report(settings: Mapping[str, Any], found: Mapping[str, Any], out: Path | None) -> None:
    """Print what was found as JSON, and write it to a file."""
    text = json.dumps({"settings": settings, **found, "protocol": protocol("cpu")}, indent=1, default=str)
    print(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
