"""Held-out errors of fitted world models in float32 and bf16.

    python -m benchmarks.speed.precision RUN... --dataset DATASET --out results/speed/precision.json

RUN is a folder of `dima train` or `dima fit`. Both precisions draw the same noise from the same weights, so their
errors differ by rounding alone. bf16 must not change the error of one step by more than 1 %.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from dima.agent import Agent, load
from dima.datasets.reader import Dataset
from dima.runtime.device import Precision, autocast, require_precision
from dima.runtime.provenance import protocol
from dima.training.validation import HeldOut, state_std

ALLOWED = 0.01  # relative change of a one-step error
PRECISIONS: tuple[Precision, ...] = ("float32", "bf16")


def judge(agent: Agent, dataset: Dataset, horizon: int, segments: int) -> dict[str, Any]:
    """Errors in each precision, and how far those of one step are apart."""
    model, device = agent.world_model, agent.device
    require_precision(device, "bf16")
    scale = state_std(dataset.episodes("train"), dataset.spec)
    held_out = HeldOut(dataset.episodes("held-out"), scale, dataset.spec, model.context, horizon, segments, device)
    errors: dict[str, dict[str, float]] = {}
    for precision in PRECISIONS:
        with autocast(device, precision):
            errors[precision] = held_out.errors(model)
    first = ("state_1", "obs_1")
    change = {name: errors["bf16"][name] / errors["float32"][name] - 1 for name in first}
    return {"errors": errors, "change": change, "within": all(abs(value) < ALLOWED for value in change.values())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of `dima train` or `dima fit`")
    parser.add_argument("--dataset", type=Path, required=True, help="folder of `dima dataset record`")
    parser.add_argument("--horizon", type=int, default=15)
    parser.add_argument("--segments", type=int, default=1024)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset, found = Dataset.open(args.dataset), []
    for run in args.runs:
        agent = load(run, device=args.device)
        name = {"preset": agent.config.preset, "seed": agent.config.seed}
        found.append({"run": run.name} | name | judge(agent, dataset, args.horizon, args.segments))
        changes = ", ".join(f"{name} {value:+.3%}" for name, value in found[-1]["change"].items())
        print(f"{run.name}: bf16 changes {changes}")
    command = shlex.join(["python", "-m", "benchmarks.speed.precision", *sys.argv[1:]])
    facts = {"command": command, "protocol": protocol(args.device), "horizon": args.horizon, "segments": args.segments}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(facts | {"found": found}, indent=1) + "\n")
    return 0 if all(one["within"] for one in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
