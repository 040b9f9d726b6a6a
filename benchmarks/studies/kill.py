"""Compare a run killed at random times and resumed with an uninterrupted one.

    python -m benchmarks.studies.kill [--kills 20] [--seed 0] [--budget 1] [--out results/kill]

Nothing but clocks may differ, bit for bit: every tensor and number of the last checkpoint, the replay's chunks, and
each record of ``metrics.jsonl``. With a budget of 0 only the first iteration after each start is saved,
so every kill loses iterations, which are repeated. Writes ``result.json`` and ``command.txt``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dima.runtime.machine import cores
from dima.storage.layout import CONFIG
from dima.storage.run_folder import RunFolder
from dima.storage.serialization import encode
from dima.training.run_config import RunConfig, build_config


@dataclass(frozen=True)
class Kind:
    """A kind of run that is killed."""

    algorithm: str
    steps: int  # environment steps of an iteration, about
    changes: dict[str, Any]  # of the config
    preset: str = "debug"
    task: str = "toy/switches"
    per_kill: int = 2  # iterations; where these take milliseconds, many: a run must outlast its kills


_SMALL_REPLAY = {"envs": 2, "learner": {"replay": {"capacity": 700}}}
_FEW_UPDATES = {
    "imaginations": 1,
    "world_model": {f"{part}_fit": {"updates": 20} for part in ("denoiser", "decoder", "reward")},
}
RUNS = {
    "dima": Kind("dima", 80, _SMALL_REPLAY),
    "mamba": Kind("mamba", 80, _SMALL_REPLAY),
    "marie": Kind("marie", 80, _SMALL_REPLAY),
    "mappo": Kind("mappo", 105, {"envs": 3, "learner": {"rollout": 35}}, per_kill=25),  # stops inside episodes of 30
    "ensemble": Kind("ensemble", 80, _SMALL_REPLAY),
    "happo": Kind("happo", 105, {"envs": 3, "learner": {"rollout": 35}}, per_kill=25),
    "hasac": Kind("hasac", 100, {"envs": 2, "learner": {"interval": 100}}, per_kill=10),
    "dima, quick": Kind("dima", 400, {"learner": _FEW_UPDATES}, preset="quick", task="toy/walk", per_kill=1),
    "mappo, small": Kind(
        "mappo", 200, {"envs": 2, "learner": {"rollout": 100}}, preset="small", task="toy/walk", per_kill=5
    ),
}
_PRELOAD = [
    "dima.training.online",
    "dima.algorithms.model_based",
    "dima.algorithms.mamba",
    "dima.algorithms.marie",
    "dima.algorithms.mappo",
    "dima.algorithms.happo",
    "dima.algorithms.hasac",
    "dima.world_models.ensemble",
    "dima.envs.toy",
    "torch._dynamo",
]
_PATIENCE = 600  # seconds after which an attempt counts as hung
_CLOCKS = "time/"


def small_run(name: str, folder: Path, iterations: int, budget: float = 1.0) -> RunConfig:
    """Config of the run that is killed: its name in ``RUNS``, number of iterations, folder and checkpoint budget."""
    kind = RUNS[name]
    fixed = {"run": str(folder), "device": "cpu", "threads": 1, "tensorboard": False, "evaluate_every": 4 * kind.steps}
    fixed |= {"checkpoint_budget": budget, "evaluation_episodes": 2, "steps": kind.steps * iterations}
    return build_config(kind.task, kind.algorithm, kind.preset, fixed | kind.changes)


def work(content: dict[str, Any], ready: Event) -> None:
    """What a user types after a crash: resume, or train where nothing was begun. Runs in a process of its own."""
    from dima.training.online import resume, train

    config = RunConfig.from_dict(content)
    ready.set()
    if (config.folder / CONFIG).exists():
        resume(config.folder)
    else:
        train(config)


def start(config: RunConfig) -> BaseProcess:
    """A process that begins to work on the run now.

    The library is imported once, by the server that these processes fork from.

    Raises:
        RuntimeError: it did not come up.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    ready = context.Event()
    process = context.Process(target=work, args=(config.to_dict(), ready))
    process.start()
    while not ready.wait(0.2):
        if process.exitcode is not None:
            raise RuntimeError(f"{config.folder}: the process did not start")
    return process


def finish(config: RunConfig) -> float:
    """Carry the run to its end, undisturbed; returns the seconds it took.

    Raises:
        RuntimeError: it failed or hung.
    """
    began = time.monotonic()
    process = start(config)
    process.join(_PATIENCE)
    if process.exitcode != 0:
        process.kill()
        raise RuntimeError(f"{config.folder}: the run ended with exit code {process.exitcode}")
    return time.monotonic() - began


def kill(config: RunConfig, delays: Sequence[float], unsaved: int = 0) -> list[dict[str, Any]]:
    """Start the run, SIGKILL it after each delay, in turn.

    Args:
        config: the run.
        delays: seconds.
        unsaved: each delay begins once so many iterations are finished and not saved.

    Returns:
        For each kill, the delay and the iterations saved and logged by then; fewer kills if the run ended first.

    Raises:
        RuntimeError: the run failed.
    """
    killed = []
    for delay in delays:
        process = start(config)
        while process.exitcode is None and logged(config.folder) - iterations(config.folder) < unsaved:
            process.join(0.05)
        process.join(delay)
        if process.exitcode == 0:
            break
        if process.exitcode is not None:
            raise RuntimeError(f"{config.folder}: exit code {process.exitcode} instead of a kill after {delay:.2f} s")
        process.kill()
        process.join()
        killed.append(
            {"seconds": round(delay, 3), "iterations": iterations(config.folder), "logged": logged(config.folder)}
        )
    return killed


def iterations(folder: Path) -> int:
    """Iterations that a run has saved, by its checkpoint."""
    if not (folder / CONFIG).exists():
        return 0
    with RunFolder.open(folder) as run:
        return int(run.load().tree["iterations"]) if run.has_checkpoint else 0


def logged(folder: Path) -> int:
    """Iterations that a run has finished, by its metrics."""
    if not (folder / CONFIG).exists():
        return 0
    with RunFolder.open(folder) as run:
        return max((record.get("iteration", 0) for record in run.records()), default=0)


def contents(folder: Path) -> dict[str, Any]:
    """Everything a run left, clocks excepted: tensors and plain values by name."""
    with RunFolder.open(folder) as run:
        saved = run.load()
        tree = {name: value for name, value in saved.tree.items() if name not in ("seconds", "wall")}
        text, tensors = encode({"checkpoint": tree, "replay": [list(pair) for pair in saved.chunks]})
        records = [{k: v for k, v in r.items() if not k.startswith(_CLOCKS)} for r in run.records()]
    return {"checkpoint.json": text, "metrics": records} | {name: tensor.clone() for name, tensor in tensors.items()}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what two runs do not share bit for bit."""
    return sorted(name for name in one.keys() | other.keys() if not _same(one.get(name), other.get(name)))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and _bits(one) == _bits(other)
    return type(one) is type(other) and bool(one == other)


def _bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def measure(name: str, kills: int, seed: int, folder: Path, budget: float = 1.0) -> dict[str, Any]:
    """Run once undisturbed and once with kills, and compare.

    Args:
        name: of ``RUNS``.
        kills: how many; the run has ``per_kill`` times as many iterations.
        seed: of the moments.
        folder: for both runs.
        budget: of the killed run's checkpoints; the other one saves every iteration.

    Returns:
        What happened, ready for JSON; ``differences`` is empty when all is well.
    """
    length = RUNS[name].per_kill * kills
    whole = small_run(name, folder / "whole" / name, length)
    broken = small_run(name, folder / "killed" / name, length, budget)
    seconds = finish(whole)
    count = iterations(whole.folder)
    moments = random.Random(seed)  # any time within start-up and the next iteration or two
    delays = [moments.uniform(0, 0.3 + 2.5 * seconds / count) for _ in range(kills)]
    killed = kill(broken, delays, unsaved=int(budget == 0))
    finish(broken)
    expected, got = contents(whole.folder), contents(broken.folder)
    return {
        "run": name,
        "task": whole.task,
        "steps": whole.steps,
        "iterations": count,
        "checkpoint_budget": budget,
        "lost_iterations": sum(one["logged"] - one["iterations"] for one in killed),
        "undisturbed_seconds": round(seconds, 2),
        "kills": killed,
        "compared": {"tensors": sum(isinstance(v, Tensor) for v in got.values()), "records": len(got["metrics"])},
        "differences": differences(expected, got),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN", help="of them all")
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--budget", type=float, default=1.0, help="share of the time for the killed run's checkpoints")
    parser.add_argument("--out", type=Path, default=Path("results/kill"), help="folder for what was found")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks.studies.kill", *sys.argv[1:]])
    (args.out / "command.txt").write_text(command + "\n", encoding="utf-8")
    found: list[dict[str, Any]] = []
    for name in args.runs:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(name, args.kills, args.seed, Path(folder), args.budget))
        result = {"torch": torch.__version__, "cores": cores(), "seed": args.seed, "runs": found}
        (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        tell(found[-1])
    return 1 if any(run["differences"] for run in found) else 0


def tell(run: dict[str, Any]) -> None:
    """Print what was found of a run."""
    verdict = "differs in " + ", ".join(run["differences"]) if run["differences"] else "equal, bit for bit"
    summary = f"{len(run['kills'])} kills, {run['iterations']} iterations, {run['lost_iterations']} repeated"
    print(f"{run['run']:<12} {summary}: {verdict}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
