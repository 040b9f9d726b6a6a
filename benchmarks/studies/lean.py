"""Held-out prediction error by network size.

    python -m benchmarks.studies.lean DATASET --out results/lean/halfcheetah-2x3 --work runs/lean
    python -m benchmarks.studies.lean DATASET --part reward --out results/lean/halfcheetah-2x3 --work runs/lean

Every size is fitted to the same recorded episodes. ``denoiser`` sweeps the action Perceiver (latents x width x depth)
under the published U-Net and schedule and measures the state error after 1 and 15 steps; ``reward`` sweeps the reward
model (width x layers x layers over agents) and measures the reward error along real states. A model is a run of ``dima
fit`` under ``--work``; its errors go into a JSON file under ``--out``. Finished results are kept, and those that
another process is computing are skipped: the same command may be started several times, on several machines that share
the folders. Ends with a table.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.speed.cost import Counter, parameters
from benchmarks.speed.learners import random_episode
from benchmarks.studies.forms import STUDENT, fitted, keep_table, spread_of
from dima.datasets.reader import Dataset
from dima.errors import RunFolderError
from dima.experience.replay import Replay, ReplayConfig
from dima.runtime.provenance import protocol
from dima.storage.lock import FolderLock
from dima.storage.run_folder import RunFolder
from dima.training.offline import fit_config
from dima.training.run_config import OfflineConfig
from dima.world_models.base import clip_action
from dima.world_models.dima.model import DimaWorldModel

HORIZON, SEGMENTS = 15, 256
SIZES = {  # the first is the published one
    "denoiser": ("32x512x2", "16x256x2", "8x256x2", "8x128x1", "4x128x1", "4x64x1"),
    "reward": ("256x6x3", "256x6x1", "256x3x1", "128x3x1", "128x2x1", "64x2x1"),
}
MEASURES = {"denoiser": ("state_1", f"state_{HORIZON}"), "reward": ("reward", "continuation")}


def size_of(part: str, size: str) -> dict[str, int]:
    """The settings of a size."""
    width, one, two = map(int, size.split("x"))
    if part == "reward":
        return {"dim": width, "layers": one, "action_layers": two}
    return {
        "latents": width,
        "latent_dim": one,
        "depth": two,
        "heads": max(1, one // 64),
        "token_dim": min(256, one),
    }


def config_of(part: str, size: str, seed: int, args: argparse.Namespace) -> OfflineConfig:
    """The run that fits one part of a size."""
    fits: dict[str, Any] = {"updates": args.updates}
    fits |= {name: value for name in ("batch", "lr", "warmup") if (value := getattr(args, name)) is not None}
    model: dict[str, Any] = {f"{name}_fit": {"updates": 0} for name in ("denoiser", "reward", "decoder")}
    model[f"{part}_fit"] = fits
    sizes = size_of(part, size)
    model[part] = {"encoder": sizes} if part == "denoiser" else sizes
    common = {"seed": seed, "iterations": args.iterations, "evaluate_every": args.iterations, "threads": args.threads}
    common |= {"evaluation_segments": SEGMENTS, "evaluation_horizon": HORIZON, "tensorboard": False}
    common |= {"run": str(args.work / f"{part}-{size}-seed{seed}"), "learner": {"world_model": model}}
    return fit_config(args.dataset, "dima", args.preset, common)


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process holds the folder's lock."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(folder)
    except RunFolderError:
        yield False
        return
    try:
        yield True
    finally:
        lock.close()


def judge(part: str, model: DimaWorldModel, dataset: Dataset, run: Path) -> dict[str, Any]:
    """Held-out errors and costs of a fitted size."""
    if part == "reward":
        errors = reward_errors(model, dataset)
    else:
        with RunFolder.open(run) as folder:
            last = folder.records()[-1]
        errors = {name.removeprefix("held_out/"): value for name, value in last.items() if "/state" in name}
        errors |= {name.removeprefix("held_out/"): value for name, value in last.items() if "/persistence" in name}
    return {"errors": errors, "parameters": parameters(getattr(model, part))} | flops(part, model)


@torch.no_grad()
def reward_errors(model: DimaWorldModel, dataset: Dataset) -> dict[str, float]:
    """Along real held-out states: mean absolute error of a step's reward in standard deviations, its explained share,
    and the negative log-likelihood of continuation."""
    replay = Replay.of(dataset.episodes("held-out"), model.spec, "cpu")
    length = model.config.reward.segment
    rows = replay.segments(torch.arange(0, replay.newest - length, length), length + 1)
    state, now = model.state_scale.normalize(rows.state), rows[:, :-1]
    predicted = model.reward(state[:, :-1], clip_action(now.action, model.spec), now.episode, state[:, 1:])
    real, gap = now.reward[now.acted].double(), (predicted.reward - now.reward)[now.acted].double()
    continuation = F.binary_cross_entropy(predicted.continuation[now.acted], (~now.terminated[now.acted]).float())
    return {
        "reward": float(gap.abs().mean() / real.std()),
        "explained": float(1 - gap.square().mean() / real.var()),
        "continuation": float(continuation),
    }


def flops(part: str, model: DimaWorldModel) -> dict[str, float]:
    """Operations of one gradient step, and of one imagined step of one row, whole model."""
    replay = Replay(ReplayConfig(capacity=1_000), model.spec, "cpu", model.visit_counters)
    replay.add(random_episode(model.spec, 999))
    start = replay.gather(replay.recent(8), model.context - 1, 0)
    with torch.no_grad(), Counter() as step:
        model.observe(model.step(model.start(start), start.action[:, -1]).latent)
    with Counter() as update:
        objective = model.objectives()[part]
        objective.loss(objective.sample(replay))[0].backward()
    return {"flops_step": step.flops / 8, "flops_update": update.flops}


def table(results: list[dict[str, Any]]) -> str:
    """Errors by part and size: mean over seeds ± half of Student's 95 % interval; ``=``: meets the published one's."""
    lines = []
    for part in sorted({r["part"] for r in results}):
        names = MEASURES[part]
        head = ["size", "seeds", "weights", "GFLOP an update", "MFLOP an imagined step", *names]
        lines += ["", "| " + " | ".join([part, *head[1:]]) + " |", "|" + "---|" * len(head)]
        of_size = {}
        for result in results:
            if result["part"] == part:
                of_size.setdefault(result["size"], []).append(result)
        first = of_size.get(SIZES[part][0])
        for size, mine in sorted(of_size.items(), key=lambda item: -item[1][0]["flops_update"]):
            cells = [size, str(len(mine)), f"{mine[0]['parameters']:,}"]
            cells += [f"{mine[0]['flops_update'] / 1e9:,.4g}", f"{mine[0]['flops_step'] / 1e6:,.4g}"]
            for name in names:
                values = [r["errors"][name] for r in mine]
                same = first and first is not mine and _overlap(values, [r["errors"][name] for r in first])
                cells.append(spread_of(values) + (" =" if same else ""))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines[1:])


def _overlap(one: list[float], other: list[float]) -> bool:
    """Whether the intervals of two means meet; False where one of them is a single value."""
    if min(len(one), len(other)) < 2:
        return False
    reach = sum(STUDENT.get(len(v), 2.0) * stdev(v) / len(v) ** 0.5 for v in (one, other))
    return abs(mean(one) - mean(other)) <= reach


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of `dima dataset record`")
    parser.add_argument("--part", default="denoiser", choices=SIZES)
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", help="default: six, the published one first")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--preset", default="published", help="whose settings to use otherwise")
    parser.add_argument("--iterations", type=int, default=10, help="saves on the way, of --updates each")
    parser.add_argument("--updates", type=int, default=200, help="gradient steps in an iteration")
    parser.add_argument("--batch", type=int, help="examples in a gradient step; default: the preset's")
    parser.add_argument("--lr", type=float, help="learning rate; default: the preset's")
    parser.add_argument("--warmup", type=int, help="steps over which it rises; default: the preset's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/lean"), help="folder for the models")
    parser.add_argument("--out", type=Path, required=True, help="folder for what was found")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset = Dataset.open(args.dataset)
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for size in args.sizes or SIZES[args.part]:
            name = f"{args.part}-{size}-seed{seed}"
            with claimed(args.work / "claims" / name) as free:
                path = args.out / f"{name}.json"
                if not free or path.exists():
                    continue
                config = config_of(args.part, size, seed, args)
                model, seconds = fitted(config)
                assert isinstance(model, DimaWorldModel)
                facts = {"part": args.part, "size": size, "seed": seed, "seconds": seconds}
                facts |= {"config": config.to_dict() | {"run": None}, "protocol": protocol("cpu")}
                facts["command"] = shlex.join(["python", "-m", "benchmarks.studies.lean", *sys.argv[1:]])
                content = facts | judge(args.part, model, dataset, config.folder)
                path.write_text(json.dumps(content) + "\n")
                print(f"{path}: {content['errors']}", file=sys.stderr)
    results = [json.loads(path.read_text()) for path in sorted(args.out.glob("*-seed*.json"))]
    keep_table(args.out, table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
