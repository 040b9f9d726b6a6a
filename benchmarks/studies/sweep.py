"""Compare a sweep whose runs, Ray workers and command are killed at random with an undisturbed one.

    python -m benchmarks.studies.sweep [--kills 12] [--seed 0] [--steps 6000] [--out results/sweep-kills]

Two algorithms and three seeds on ``toy/walk``, two runs at a time on a local Ray. Nothing but clocks may differ, bit
for bit, in any run: every tensor and number of the last checkpoint, the replay, each record of ``metrics.jsonl``. No
finished iteration may be lost, which is checked after each kill. Writes ``result.json`` and ``command.txt``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

import dima
from benchmarks.studies.kill import contents, differences, iterations
from dima.config import write_yaml
from dima.runtime.machine import cores
from dima.sweeps.progress import choose_sweep_progress

TARGETS = ("run", "worker", "command")
_RETRIES = 100  # of a run: every kill but those of the command uses one
_PATIENCE = 600  # seconds without a run at work after which something hangs


def sweep_file(folder: Path, steps: int) -> dict[str, Any]:
    """Content of the sweep's file."""
    settings = {"steps": steps, "evaluate_every": steps // 2, "threads": 1, "device": "cpu", "tensorboard": False}
    return {
        "tasks": ["toy/walk"],
        "algorithms": ["mappo", "happo"],
        "presets": ["debug"],
        "seeds": [0, 1, 2],
        "settings": settings | {"checkpoint_budget": 1.0},
        "retries": _RETRIES,
        "out": str(folder),
    }


def start(path: Path) -> subprocess.Popen[bytes]:
    """The command, in a session of its own."""
    command = [sys.executable, "-m", "dima", "sweep", str(path)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def at_work(folder: Path, command: subprocess.Popen[bytes]) -> list[tuple[int, Path]]:
    """Process id and folder of the runs at work; waits for one. None once the command ended."""
    deadline = time.monotonic() + _PATIENCE
    while command.poll() is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no run of {folder} is at work")
        locks = [lock for lock in folder.glob("toy/walk/*/run.lock") if (lock.parent / "checkpoint").exists()]
        held = [(int(text), lock.parent) for lock in locks if (text := lock.read_text())]
        if found := [(pid, run) for pid, run in held if psutil.pid_exists(pid)]:
            return found
        time.sleep(0.02)
    return []


def kill_one(target: str, pid: int, command: subprocess.Popen[bytes]) -> None:
    """SIGKILL a run, the worker of Ray that it belongs to, or the command."""
    if target == "command":
        command.kill()
        command.wait()
        return
    try:  # the worker is the parent of the server that runs are forked from
        victim = pid if target == "run" else psutil.Process(pid).parent().parent().pid  # type: ignore[union-attr]
        os.kill(victim, signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError, AttributeError):
        return  # the run ended meanwhile


def disturbed(folder: Path, path: Path, kills: int, moments: random.Random) -> list[dict[str, Any]]:
    """Carry a sweep out while its parts are killed in turn; returns the kills."""
    killed: list[dict[str, Any]] = []
    command = start(path)
    while len(killed) < kills and command.poll() is None:
        time.sleep(moments.uniform(0, 3))
        if not (found := at_work(folder, command)):
            break
        pid, run = moments.choice(found)
        target, saved = TARGETS[len(killed) % len(TARGETS)], iterations(run)
        kill_one(target, pid, command)
        kept = iterations(run)
        killed.append({"target": target, "run": run.name, "iterations": saved, "kept": kept})
        if target == "command":
            command = start(path)
    if command.wait() != 0:
        raise RuntimeError(f"the sweep of {folder} ended with status {command.returncode}")
    return killed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12, help="SIGKILLs, of a run, a worker and the command in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--steps", type=int, default=6_000, help="environment steps of a run")
    parser.add_argument("--out", type=Path, default=Path("results/sweep-kills"), help="folder for what was found")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        whole, broken, path = Path(temporary, "whole"), Path(temporary, "killed"), Path(temporary, "sweep.yaml")
        write_yaml(path, sweep_file(broken, args.steps))
        undisturbed = dima.sweep(sweep_file(whole, args.steps), progress=choose_sweep_progress())
        if undisturbed.status:
            raise RuntimeError(f"the undisturbed sweep ended with status {undisturbed.status}")
        killed = disturbed(broken, path, args.kills, random.Random(args.seed))
        runs = {
            run.name: {
                "iterations": iterations(run.folder),
                "differences": differences(contents(run.folder), contents(broken / run.name)),
            }
            for run in undisturbed.runs
        }
    lost = sum(one["kept"] < one["iterations"] for one in killed)
    result = {"torch": torch.__version__, "cores": cores(), "seed": args.seed, "steps": args.steps}
    result |= {"kills": killed, "kills_that_lost_iterations": lost, "runs": runs}
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    command = shlex.join(["python", "-m", "benchmarks.studies.sweep", *sys.argv[1:]])
    (args.out / "command.txt").write_text(command + "\n", encoding="utf-8")
    for name, one in runs.items():
        verdict = "differs in " + ", ".join(one["differences"]) if one["differences"] else "equal, bit for bit"
        print(f"{name:<32} {one['iterations']} iterations: {verdict}")
    print(f"{len(killed)} kills, of which {lost} lost finished iterations")
    return 1 if lost or any(one["differences"] for one in runs.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
