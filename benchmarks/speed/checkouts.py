"""Time of an iteration here against another checkout, in turns.

    git worktree add ../before 8da52b3
    python -m benchmarks.speed.checkouts ../before mamujoco/halfcheetah-2x3 --preset small

Both train the same task by ``dima train`` with the same preset, each by its own meaning of it, up to ``--first`` steps,
and then by ``dima resume`` in turns (A B B A) of ``--stretch`` steps each, so that a machine's good and bad minutes
fall on both. A ratio is the median over neighbouring iterations. Evaluations do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.timing import ratio
from dima.errors import UserError
from dima.runtime.provenance import protocol
from dima.storage.metrics import read_metrics


@dataclass
class Contender:
    """A run of one checkout.

    Args:
        checkout: where its code is.
        run: its run folder.
    """

    checkout: Path
    run: Path

    def begin(self, args: argparse.Namespace) -> None:
        """Train up to the first steps."""
        given = ["--preset", args.preset, "--seed", str(args.seed), "--steps", str(args.first)]
        self._dima("train", args.task, *given, "--run", str(self.run), "--quiet")

    def go_on(self, steps: int) -> None:
        """Carry the run on to so many steps."""
        self._dima("resume", str(self.run), "--steps", str(steps), "--quiet")

    def iterations(self) -> list[tuple[int, float]]:
        """(steps at its end, seconds) of every iteration."""
        records = read_metrics(self.run / "metrics.jsonl")  # in today's names, whichever version wrote them
        return [(r["step"], r["time/iteration"] - r.get("time/evaluate", 0)) for r in records if "time/iteration" in r]

    def commit(self) -> str:
        """What is checked out."""
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=self.checkout, capture_output=True, text=True)
        return head.stdout.strip() or "unknown"

    def _dima(self, *args: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(self.checkout)}
        command = [sys.executable, "-m", "dima", *args]
        done = subprocess.run(command, cwd=self.checkout, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{self.checkout}: {shlex.join(command[2:])} failed: {done.stderr.strip()[-300:]}")


def in_turns(contenders: list[Contender], args: argparse.Namespace) -> dict[str, Any]:
    """The seconds of each contender's iterations, the first ones apart, and how they compare."""
    for contender in contenders:
        contender.begin(args)
    for turn in range(args.turns):
        for contender in contenders[:: 1 if turn % 2 == 0 else -1]:
            contender.go_on(args.first + (turn + 1) * args.stretch)
    finished = [contender.iterations() for contender in contenders]
    early, late = (
        [[s for step, s in mine if (step > args.first) == after] for mine in finished] for after in (False, True)
    )
    here, there = late
    return {
        "commits": [contender.commit() for contender in contenders],
        "first iterations": early,
        "iterations": late,
        "median": [median(mine) for mine in late],
        "ratio": ratio(there, here),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout's folder")
    parser.add_argument("task", help="what is learnt")
    parser.add_argument("--preset", default="small", help="of the algorithm dima")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=5_000, help="environment steps before the turns begin")
    parser.add_argument("--stretch", type=int, default=2_000, help="environment steps of a turn")
    parser.add_argument("--turns", type=int, default=4, help="of each")
    parser.add_argument("--out", type=Path, default=Path("results/speed/checkouts"), help="folder for what was found")
    args = parser.parse_args()
    if not (args.other / "dima").is_dir():
        parser.error(f"{args.other} is no checkout of dima: make one by git worktree add {args.other} COMMIT")
    with tempfile.TemporaryDirectory() as folder:
        sides = {"here": Path(__file__).parents[2], "there": args.other.resolve()}
        contenders = [Contender(checkout, Path(folder) / name) for name, checkout in sides.items()]
        found = in_turns(contenders, args)
    command = shlex.join(["python", "-m", "benchmarks.speed.checkouts", *sys.argv[1:]])
    path = args.out / f"{args.task.split('/')[-1]}-{args.preset}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"command": command, "protocol": protocol("cpu"), **found}, indent=1) + "\n")
    here, there = found["median"]
    print(f"an iteration takes {here:.1f} s here, {there:.1f} s there: {found['ratio']:.2f} times as long")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
