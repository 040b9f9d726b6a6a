"""Calibration of sampled futures, and predicted terminations.

    dima dataset record mamujoco/ant-4x2 --sources random RUN --steps 120000 --held-out 0.17 --out DATASET
    python -m benchmarks.studies.spread DATASET --out results/spread.json --settings "" denoiser.sigma_offset=0

Fits denoiser and reward model to the recorded steps under each of the settings (fields of the world model, ``""``: as
the preset has them), samples several futures from held-out states under the real actions, and reports for some
horizons, over all state features in standard deviations: the error of one sample and of the samples' mean, the
spread-skill ratio (1 is calibrated), the coverage of the samples' range; and the expected against the real number of
terminations.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.settings import changes_of, said
from dima.datasets.reader import Dataset
from dima.experience.replay import Replay
from dima.runtime.progress import Progress
from dima.runtime.provenance import protocol
from dima.training.run_config import build_config
from dima.world_models.dima.model import DimaModelConfig, DimaWorldModel
from dima.world_models.fitting import WorldModelFitter
from dima.world_models.rollout import forecast

STEPS = (1, 5, 10, 15)  # horizons of the table


@torch.no_grad()
def judge(model: DimaWorldModel, replay: Replay, starts: int, draws: int) -> dict[str, Any]:
    """Compare samples from random stored steps with the real future."""
    horizon = max(STEPS)
    anchor = replay.recent(starts)
    start, real = replay.gather(anchor, model.context - 1, 0), replay.gather(anchor, 0, horizon)
    forecasts = [forecast(model, start, real.action[:, :horizon]) for _ in range(draws)]
    scale = model.state_scale.scale
    drawn, truth = torch.stack([one.state for one in forecasts]) / scale, real.state / scale
    rows = {}
    for step in STEPS:
        here = real.valid[:, step]
        if not here.any():  # no episode is that long
            continue
        futures, happened = drawn[:, here, step], truth[here, step]
        off = (futures.mean(0) - happened).square().mean().sqrt()
        spread = (futures.var(0).mean() * (draws + 1) / draws).sqrt()  # what the mean's error is expected to be
        inside = (futures.amin(0) <= happened) & (happened <= futures.amax(0))
        rows[str(step)] = {
            "draw": (futures[0] - happened).abs().mean().item(),
            "mean": (futures.mean(0) - happened).abs().mean().item(),
            "spread": (spread / off).item(),
            "inside": inside.float().mean().item(),
        }
    acted = real.acted[:, :horizon]
    ends = torch.stack([(1 - one.continuation) * acted for one in forecasts]).sum((1, 2)).mean().item()
    return {"steps": rows, "predicted": ends, "ends": (real.terminated[:, :horizon] & acted).sum().item()}


def study(dataset: Dataset, settings: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Fit under these settings, then forecast held-out episodes."""
    fits = {name: {"updates": args.updates} for name in ("denoiser_fit", "reward_fit")} | {
        "decoder_fit": {"updates": 0}
    }
    changes = {"learner": {"world_model": fits}}
    config = build_config(dataset.task, "dima", args.preset, changes).override({"learner": {"world_model": settings}})
    assert isinstance(config.learner.world_model, DimaModelConfig)  # type: ignore[attr-defined]
    torch.manual_seed(args.seed)
    model = config.learner.world_model.build(dataset.spec).eval()  # type: ignore[attr-defined]
    train, held_out = dataset.episodes("train"), dataset.episodes("held-out")
    model.update_statistics(train)
    replay, others = (Replay.of(episodes, dataset.spec, "cpu", model.visit_counters) for episodes in (train, held_out))
    WorldModelFitter(model).fit(replay, Progress())
    torch.manual_seed(args.seed)
    return judge(model, others, args.starts, args.draws)


def table(results: list[dict[str, Any]]) -> str:
    """A row for each of the settings and horizons."""
    head = "| settings | step | one sample | samples' mean | spread/skill | coverage | ends predicted / real |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for result in results:
        ends = f"{result['predicted']:.0f} / {result['ends']:.0f}"
        for step, row in result["steps"].items():
            lines.append(
                f"| {result['settings']} | {step} | {row['draw']:.3f} | {row['mean']:.3f} | {row['spread']:.2f} | "
                f"{row['inside']:.0%} | {ends} |"
            )
            ends = ""
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="its folder")
    parser.add_argument("--settings", nargs="+", default=[""], metavar="FIELD=VALUE,...", help="of the world model")
    parser.add_argument("--preset", default="small", help="of the algorithm dima")
    parser.add_argument("--updates", type=int, default=1_500, help="gradient steps of denoiser and reward model")
    parser.add_argument("--starts", type=int, default=1_000, help="held-out steps that forecasts start from")
    parser.add_argument("--draws", type=int, default=9, help="sampled futures of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; a table is written next to it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset, results = Dataset.open(args.dataset), []
    for setting in args.settings:
        results.append({"settings": said(setting)} | study(dataset, changes_of(setting), args))
        print(table(results[-1:]), file=sys.stderr)
    command = shlex.join(["python", "-m", "benchmarks.studies.spread", *sys.argv[1:]])
    facts = {"command": command, "seed": args.seed, "protocol": protocol("cpu"), "results": results}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(facts, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(table(results) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
