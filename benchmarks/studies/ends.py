"""Held-out prediction of terminations and rewards by gradient steps.

    dima dataset record mamujoco/ant-4x2 --sources random RUN --steps 40000 --held-out 0.5 --out DATASET
    python -m benchmarks.studies.ends DATASET --out results/ends.json --settings "" reward.next_state=false

Fits the reward model to the recorded episodes, under each of the settings (fields of the world model, ``""``: as the
preset has them), and after some numbers of gradient steps predicts these and the held-out episodes from true states.
Reported: the skill of termination predictions over the base rate (1 minus the ratio of the log-losses), their recall at
p > 0.5, the expected number of terminations, and the explained variance of the reward.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.speed.settings import changes_of, said
from dima.datasets.reader import Dataset
from dima.experience.replay import Replay
from dima.nn.optim import Fitter
from dima.runtime.provenance import protocol
from dima.training.run_config import build_config
from dima.world_models.dima.model import DimaModelConfig, DimaWorldModel


@torch.no_grad()
def judge(model: DimaWorldModel, replay: Replay) -> dict[str, float]:
    """Prediction errors of the reward model on every stored step, segment by segment."""
    length = model.config.reward.segment
    rows = replay.segments(torch.arange(replay.oldest, replay.newest - length, length), length + 1)
    batch = model.segments(rows)
    predicted = model.reward(batch.state, batch.action, batch.episode, batch.next_state)
    acted = batch.weight > 0
    real = batch.terminated[acted].float()
    end = (1 - predicted.continuation[acted]).clamp(1e-6, 1 - 1e-6)
    base_rate = F.binary_cross_entropy(real.mean().expand_as(real), real)
    reward = batch.reward[acted]
    return {
        "ends": real.sum().item(),
        "skill": (1 - F.binary_cross_entropy(end, real) / base_rate).item(),
        "recall": ((end > 0.5) & (real > 0)).sum().item() / max(1.0, real.sum().item()),
        "predicted": end.sum().item(),
        "reward": (1 - (predicted.reward[acted] - reward).square().mean() / reward.var()).item(),
    }


def study(
    dataset: Dataset, settings: dict[str, Any], preset: str, updates: Sequence[int], seed: int
) -> list[dict[str, Any]]:
    """Prediction errors after each number of gradient steps, fitted and held out."""
    config = build_config(dataset.task, "dima", preset, {"learner": {"world_model": settings}}).learner.world_model
    assert isinstance(config, DimaModelConfig)
    torch.manual_seed(seed)
    model, spec = config.build(dataset.spec), dataset.spec
    train, held_out = dataset.episodes("train"), dataset.episodes("held-out")
    model.update_statistics(train)
    replay, others = (Replay.of(episodes, spec, "cpu", model.visit_counters) for episodes in (train, held_out))
    objective = model.objectives()["reward"]
    fitter = Fitter(model.reward, objective.fit)
    found, done = [], 0
    for target in updates:
        model.train()
        with fitter.fitting():
            for _ in range(target - done):
                fitter.step(objective.loss(objective.sample(replay))[0])
        done = target
        model.eval()
        found.append({"updates": done, "fitted": judge(model, replay), "held out": judge(model, others)})
        print(json.dumps(found[-1]), file=sys.stderr)
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Held-out errors, a row for each number of gradient steps."""
    lines = ["| settings | updates | skill | recall | predicted / real | reward R² |", "|---|---|---|---|---|---|"]
    for result in results:
        for one in result["course"]:
            errors = one["held out"]
            lines.append(
                f"| {said(result['settings'])} | {one['updates']} | {errors['skill']:.2f} | {errors['recall']:.2f} | "
                f"{errors['predicted']:.0f} / {errors['ends']:.0f} | {errors['reward']:.3f} |"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of `dima dataset record`")
    parser.add_argument("--settings", nargs="+", default=[""], metavar="FIELD=VALUE,...", help="to compare")
    parser.add_argument("--preset", default="small", help="whose sizes to use")
    parser.add_argument("--updates", nargs="+", type=int, default=[500, 1000, 2000], help="gradient steps, increasing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset = Dataset.open(args.dataset)
    results = [
        {"settings": text, "course": study(dataset, changes_of(text), args.preset, args.updates, args.seed)}
        for text in args.settings
    ]
    command = shlex.join(["python", "-m", "benchmarks.studies.ends", *sys.argv[1:]])
    facts = {"command": command, "seed": args.seed, "protocol": protocol("cpu")}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
