"""Time and error of an imagined step by team size and reveal groups.

    python -m benchmarks.studies.growth --settings "" denoiser.group_size=5 --out results/speed/growth
    python -m benchmarks.studies.growth --settings "" denoiser.group_size=5 --runs RUN... --out results/speed/growth

Without ``--runs``: time of an imagined step of a batch for teams of 2 to 32, on a swimmer of always 64 segments
(``mamujoco/manysegmentswimmer-NxM``) and on the synthetic ``toy/linear``, whose state does not grow at all; random
data, full sizes of a preset. With them: the held-out error of world models that ``dima fit`` made, as they are and
under other settings, which change neither weights nor training. A setting is written ``field=value,...``,
fields as in the world model's config; "" is none.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.speed.cost import Counter
from benchmarks.speed.learners import build
from benchmarks.speed.settings import changes_of, said
from benchmarks.speed.timing import CLOCKS, Timing
from dima.agent import load
from dima.algorithms.model_based import ModelBased
from dima.datasets.reader import Dataset
from dima.runtime.device import pick_device
from dima.runtime.provenance import protocol
from dima.training.run_config import OfflineConfig, TrainConfig, build_config
from dima.training.validation import HeldOut, state_std
from dima.world_models.dima.model import DimaWorldModel
from dima.world_models.rollout import imagine

AGENTS = (2, 4, 8, 10, 16, 32)
SEGMENTS = 64  # of the swimmer in all, or as near as its agents' equal shares come
STEPS = 3  # imagined in a call
HORIZON, HELD_OUT = 15, 256
SWIMMER, LINEAR = "mamujoco/manysegmentswimmer", "toy/linear"


def config_of(family: str, agents: int, preset: str, setting: str, seed: int) -> TrainConfig:
    """A run of so many agents."""
    changes: dict[str, Any] = {"seed": seed, "learner": {"world_model": changes_of(setting)}}
    if family == SWIMMER:
        return build_config(f"{SWIMMER}-{agents}x{SEGMENTS // agents}", "dima", preset, changes)
    return build_config(LINEAR, "dima", preset, changes | {"env": {"n_agents": agents}})


def times(
    family: str, agents: list[int], settings: list[str], preset: str, batch: int, seed: int, timing: Timing
) -> list[dict[str, Any]]:
    """Seconds and operations of an imagined step of a batch, every team and setting in turn."""
    calls, rows = {}, []
    for count in agents:
        for setting in settings:
            torch.manual_seed(seed)
            learner = build(config_of(family, count, preset, setting, seed), str(timing.device))
            calls[f"{count} {setting}"] = call = _rollout(learner, batch)
            with Counter() as counter:
                call()
            row = {"family": family, "agents": count, "setting": setting, "state": learner.spec.state_dim}
            rows.append(row | {"flops": counter.flops / STEPS})
    seconds = timing.each(calls)
    return [row | {"seconds": median(seconds[f"{row['agents']} {row['setting']}"]) / STEPS} for row in rows]


def _rollout(learner: ModelBased, batch: int) -> Any:
    start = learner.replay.gather(learner.replay.recent(batch), learner.world_model.context - 1, 0)
    return lambda: imagine(learner.world_model, learner.act, start, STEPS)


def errors(run: Path, settings: list[str], device: torch.device) -> list[dict[str, Any]]:
    """Held-out errors of one fitted model as it is and under other settings."""
    agent = load(run, str(device))
    config, model = agent.config, agent.world_model
    assert isinstance(config, OfflineConfig) and isinstance(model, DimaWorldModel)
    dataset = Dataset.open(config.dataset)
    episodes, scale = dataset.episodes("held-out"), state_std(dataset.episodes("train"), dataset.spec)
    held_out = HeldOut(episodes, scale, dataset.spec, model.context, HORIZON, HELD_OUT, device)
    found = []
    for setting in settings:
        changed = model.config.override(changes_of(setting)).build(dataset.spec).to(device).eval()
        changed.load_state_dict(model.state_dict())
        measured = held_out.errors(changed)
        facts = {"run": run.name, "agents": dataset.spec.n_agents, "setting": setting}
        facts |= {"seed": config.seed, "group_size": model.config.denoiser.group_size}
        found.append(facts | {name: measured[name] for name in ("state_1", f"state_{HORIZON}", "persistence_1")})
    return found


def times_table(rows: list[dict[str, Any]]) -> str:
    """Times by team, and relative to two agents with the preset's own settings."""
    lines = ["| task | agents | setting | ms a step | GFLOP | times a team of two |", "|---|---|---|---|---|---|"]
    for row in rows:
        first = next(r for r in rows if r["family"] == row["family"])
        times_first = f"{row['seconds'] / first['seconds']:.2f}"
        cells = [row["family"], str(row["agents"]), said(row["setting"]), f"{row['seconds'] * 1e3:.4g}"]
        lines.append("| " + " | ".join([*cells, f"{row['flops'] / 1e9:.4g}", times_first]) + " |")
    return "\n".join(lines)


def errors_table(rows: list[dict[str, Any]]) -> str:
    """Errors by model and setting."""
    lines = ["| model | agents | setting | state, step 1 | state, step 15 |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [f"{row[name]:.4f}" for name in ("state_1", f"state_{HORIZON}")]
        lines.append(f"| {row['run']} | {row['agents']} | {said(row['setting'])} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=[""], help="settings to compare")
    parser.add_argument("--agents", nargs="+", type=int, default=list(AGENTS), help="teams to time")
    parser.add_argument("--families", nargs="+", default=[SWIMMER, LINEAR], choices=(SWIMMER, LINEAR))
    parser.add_argument("--runs", nargs="+", type=Path, help="runs of `dima fit`: measure errors in place of times")
    parser.add_argument("--preset", default="small", help="whose sizes to time")
    parser.add_argument("--batch", type=int, default=600, help="rollouts in a step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="cpu: of this process alone, on a busy machine")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/speed/growth"), help="folder for results")
    args = parser.parse_args()
    device = pick_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    if args.runs:
        for run in args.runs:
            rows += errors(run, args.settings, device)
    else:
        timing = Timing(device, args.repeats, clock=args.clock)
        for family in args.families:
            rows += times(family, args.agents, args.settings, args.preset, args.batch, args.seed, timing)
    table = errors_table(rows) if args.runs else times_table(rows)
    facts = {"command": shlex.join(["python", "-m", "benchmarks.studies.growth", *sys.argv[1:]])}
    facts |= {"protocol": protocol(str(device)), "preset": args.preset, "threads": torch.get_num_threads()}
    path = args.out / ("errors.json" if args.runs else f"times-{args.preset}-{device.type}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")
    path.with_suffix(".md").write_text(table + "\n")
    print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
