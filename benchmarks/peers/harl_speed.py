"""Environment steps per second of collection and update, ours against HARL's, in turn.

    OMP_NUM_THREADS=1 python -m benchmarks.peers.harl_speed mamujoco/halfcheetah-2x3 --harl HARL \\
        --algorithm mappo --out FILE

The two live in processes of their own and take turns, an iteration each (collection of fresh steps, and the update
they are for; no evaluation, logging or saving), so that a machine with other work slows both alike. Both have the
settings that HARL's authors tuned, ours as the preset `published`. HARL's environments stand in its own vectorisers:
in the one that it takes by itself for more than one copy, a process for each, or with ``--harl-in-process`` in the one
that it takes for a single copy, in the learner's process, as ours are. ``cpu`` counts the processor seconds of all
processes of a side, which waiting for other programs does not lengthen. HASAC's tuned runs of ten million steps have a
full replay, of a million steps, for nine tenths of their time. With ``--full-replay`` both replays are filled, with
copies of the random play that they start from, before anything counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.peers.harl import ALGORITHMS, HarlRun
from dima import build_config
from dima.experience.transitions import Transitions
from dima.runtime.progress import Progress
from dima.runtime.provenance import protocol
from dima.training.loop import seeded
from dima.training.online import Trainer

FOREVER = 10**9  # steps: the iterations are counted here


class Turns:
    """The other end's leave to make an iteration, and what the iteration took."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.steps = pipe, 0

    def begin(self) -> None:
        """Wait for one's turn."""
        if not self.pipe.recv():
            raise SystemExit
        self.wall, self.cpu = time.perf_counter(), _cpu()

    def end(self, steps: int) -> None:
        """Tell what was done since; ``steps`` counts from the start."""
        done, self.steps = steps - self.steps, steps
        self.pipe.send({"steps": done, "wall": time.perf_counter() - self.wall, "cpu": _cpu() - self.cpu})


def ours(pipe: Connection, args: argparse.Namespace) -> None:
    """Iterations of the library."""
    torch.set_num_threads(args.threads)
    config = build_config(args.task, args.algorithm, "published", {"threads": args.threads, "steps": FOREVER})
    with seeded(config, torch.device("cpu")), Trainer(config, torch.device("cpu"), Progress()) as trainer:
        turns = Turns(pipe)
        while True:
            turns.begin()
            trainer.learn()
            turns.end(trainer.step)
            replay = trainer.algorithm.replay
            if args.full_replay and isinstance(replay, Transitions) and replay.kept < replay.time_steps:
                for store in replay.store.values():
                    store.copy_(store[torch.arange(len(store)) % replay.kept])
                replay.count = replay.time_steps


def harls(pipe: Connection, args: argparse.Namespace) -> None:
    """Iterations of HARL."""
    torch.set_num_threads(args.threads)
    run = HarlRun(args.harl, args.task, args.algorithm, seed=0, steps=FOREVER, processes=not args.harl_in_process)
    turns = Turns(pipe)

    def after_iteration(step: int) -> None:
        turns.end(step)
        buffer = getattr(run.runner, "buffer", None)
        if args.full_replay and buffer is not None and buffer.cur_size < buffer.buffer_size:
            copies = np.arange(buffer.buffer_size) % buffer.cur_size
            for name, rows in vars(buffer).items():  # an array of rows, or a list of them
                if isinstance(rows, np.ndarray) and len(rows) == buffer.buffer_size:
                    setattr(buffer, name, rows[copies])
                elif isinstance(rows, list) and all(isinstance(of_agent, np.ndarray) for of_agent in rows):
                    setattr(buffer, name, [of_agent[copies] for of_agent in rows])
            buffer.cur_size = buffer.buffer_size
        turns.begin()

    turns.begin()
    run.learn(after_iteration)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Iterations in turn; the first ones, in which HASAC fills its replay, are thrown away."""
    context = multiprocessing.get_context("spawn")
    sides: dict[str, Connection] = {}
    for name, body in (("ours", ours), ("harl", harls)):
        here, there = context.Pipe()
        context.Process(target=_served, args=(body, there, args)).start()
        sides[name] = here
    iterations: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for turn in range(args.iterations + args.discard):
        for name in (list(sides), list(sides)[::-1])[turn % 2]:  # nobody always comes second
            sides[name].send(True)
            iterations[name].append(sides[name].recv())
    for side in sides.values():
        side.send(False)
    return summed_up({name: done[args.discard :] for name, done in iterations.items()})


def summed_up(iterations: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of steps per second, and of the ratio of neighbouring iterations."""
    result: dict[str, Any] = {"iterations": iterations}
    for clock in ("wall", "cpu"):
        rates = {name: [one["steps"] / one[clock] for one in done] for name, done in iterations.items()}
        ratios = [a / b for a, b in zip(rates["ours"], rates["harl"], strict=True)]
        result |= {f"{name} steps per {clock} second": statistics.median(found) for name, found in rates.items()}
        result[f"{clock} ratio"] = statistics.median(ratios)
        result[f"{clock} ratio, quartiles"] = statistics.quantiles(ratios, n=4)[::2]
    return result


def _served(body: Callable[[Connection, argparse.Namespace], None], pipe: Connection, args: argparse.Namespace) -> None:
    body(pipe, args)


def _cpu() -> float:
    """Processor seconds of this process and its living children."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    children = (child.cpu_times() for child in psutil.Process().children(recursive=True))
    return used.ru_utime + used.ru_stime + sum(one.user + one.system for one in children)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--harl", type=Path, required=True, help="a clone of HARL")
    parser.add_argument("--algorithm", choices=ALGORITHMS, required=True)
    parser.add_argument("--iterations", type=int, default=10, help="that count")
    parser.add_argument("--discard", type=int, default=2, help="iterations before them")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, on both sides")
    parser.add_argument(
        "--harl-in-process", action="store_true", help="HARL's environments without processes of their own"
    )
    parser.add_argument("--full-replay", action="store_true", help="as full as it is for most of a tuned run")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    result = {key: str(value) for key, value in vars(args).items() if key not in ("out", "harl")}
    result |= protocol("cpu") | compare(args)
    for key, value in result.items():
        if "second" in key or "ratio" in key:
            print(key, value)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
