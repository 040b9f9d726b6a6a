"""Training throughput when several runs share a device.

    python -m benchmarks.speed.seeds mamujoco/halfcheetah-2x3 --preset small --steps 8000 --threads 1

Trains 1, 2, 4 and 8 seeds at once by ``dima train --seeds``, a process each. A run's pace is the median time of its
iterations that learn all there is to learn, so that start-up and first iterations do not count; together
they make as many iterations in a minute as their paces add up to.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dima.errors import UserError
from dima.runtime.device import pick_device
from dima.runtime.multi_progress import RunsLines
from dima.runtime.provenance import protocol
from dima.storage.run_folder import RunFolder
from dima.training.multi_seed import seed_config, train_seeds
from dima.training.run_config import TrainConfig, build_config

COUNTS = (1, 2, 4, 8)


def pace(folder: Path, skip: int) -> float:
    """Iterations a minute of a run, the first ``skip`` left out."""
    with RunFolder.open(folder) as run:
        iterations = [record["time/iteration"] for record in run.records() if "time/iteration" in record]
    if len(iterations) <= skip:
        raise UserError(
            f"{folder}: {len(iterations)} iterations are too few, the first {skip} do not count: raise --steps"
        )
    return 60 / median(iterations[skip:])


def together(config: TrainConfig, count: int, folder: Path, skip: int) -> dict[str, Any]:
    """Train ``count`` seeds at once: the pace of each, their sum, and the wall seconds of everything."""
    config, seeds = config.override({"run": str(folder / f"of-{count}")}), list(range(count))
    began = time.perf_counter()
    outcomes = train_seeds(config, seeds, progress=RunsLines())
    seconds = time.perf_counter() - began
    for outcome in outcomes:
        if outcome.summary is None:
            raise UserError(f"seed {outcome.seed} of {count} failed: {outcome.error}")
    paces = [pace(seed_config(config, seed).folder, skip) for seed in seeds]
    return {"paces": paces, "iterations_a_minute": sum(paces), "seconds": seconds}


def table(found: dict[int, dict[str, Any]]) -> str:
    """Throughput by number of runs, and how many times that of the fewest it is."""
    fewest = found[min(found)]["iterations_a_minute"] / min(found)
    lines = ["| runs at once | iterations a minute, all | times one run's | each run's pace |", "|---|---|---|---|"]
    for count, row in sorted(found.items()):
        all_, each = row["iterations_a_minute"], row["iterations_a_minute"] / count
        lines.append(f"| {count} | {all_:.3g} | {all_ / fewest:.2f} | {each / fewest:.0%} |")
    return "\n".join(lines)


def measure(config: TrainConfig, counts: Sequence[int], skip: int) -> dict[int, dict[str, Any]]:
    """:func:`together` for each count, in folders that are gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return {count: together(config, count, Path(folder), skip) for count in counts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="what is learnt")
    parser.add_argument("--preset", default="small", help="of the algorithm dima")
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS, help="runs at once")
    parser.add_argument("--steps", type=int, default=8_000, help="environment steps of each run")
    parser.add_argument("--skip", type=int, default=3, help="first iterations that do not count, as they learn less")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("results/speed/seeds"), help="folder for what was found")
    args = parser.parse_args()
    device = pick_device(args.device)
    changes = {"steps": args.steps, "evaluate_every": args.steps, "threads": args.threads, "device": device.type}
    config = build_config(args.task, "dima", args.preset, changes)
    facts = {"command": shlex.join(["python", "-m", "benchmarks.speed.seeds", *sys.argv[1:]])}
    facts |= {"protocol": protocol(str(device)), "config": config.to_dict()}
    found = measure(config, args.counts, args.skip)
    path = args.out / f"{args.task.split('/')[-1]}-{args.preset}-{device.type}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts | {"found": found}, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(found) + "\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
