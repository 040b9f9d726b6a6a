"""Held-out prediction error by reveal scheme and action conditioning.

    dima dataset record mamujoco/halfcheetah-2x3 --sources random RUN --steps 120000 --episode-steps 500 --out DATASET
    python -m benchmarks.studies.forms DATASET --out results/forms/halfcheetah-2x3 --work runs/forms

Every variant is fitted to the same recorded episodes: ``reveal`` (one agent per level, cumulative, all) by
``action_path`` (condition, condition and input), the two best ones again with ``target = change``, and the ensemble of
one-step networks as a baseline, on several seeds each. A model is a run of ``dima fit`` under ``--work``, without a
reward model; its errors on held-out episodes go into a JSON file under ``--out``. Finished results are kept, so the
same command continues an interrupted study, and several commands with different ``--seeds`` or ``--forms`` may share
it. Ends with a table over everything under ``--out``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks.speed.cost import Counter, parameters
from dima.agent import load
from dima.analysis.diagnose.bootstrap import Bootstrap
from dima.analysis.diagnose.episodes import EpisodeSource, FeatureScales, feature_scales
from dima.analysis.diagnose.error import (
    MODEL,
    OLD_NAMES,
    PERSISTENCE,
    RECONSTRUCTION,
    ErrorCurves,
    horizon_error,
)
from dima.analysis.diagnose.reveal import order_sensitivity
from dima.analysis.diagnose.rollouts import Forecaster, Segments, cut_segments
from dima.analysis.targets import OBSERVATIONS, STATE
from dima.datasets.reader import Dataset
from dima.envs import make_env
from dima.runtime.progress import Lines
from dima.runtime.provenance import protocol
from dima.training.offline import fit, fit_config
from dima.training.online import resume
from dima.training.run_config import OfflineConfig
from dima.world_models.base import SequentialReveal, WorldModel
from dima.world_models.ensemble import EnsembleWorldModel

HORIZON, SHOWN = 50, (1, 15, 20, 50)  # steps of a segment; those in the table
SEGMENTS, ORDERS, ORDER_STEPS = 512, 24, 15
DIFFUSION = {
    f"{reveal}, {path}": {"reveal": reveal, "action_path": path, "target": "state"}
    for reveal in ("one", "cumulative", "all")
    for path in ("condition", "condition+input")
}
DIFFUSION |= {
    f"{form}, change": DIFFUSION[form] | {"target": "change"}
    for form in ("cumulative, condition+input", "all, condition+input")
}
ENSEMBLE = {"ensemble, mean": "mean", "ensemble, member": "member"}  # one fit, two ways to predict
FORMS = (*DIFFUSION, *ENSEMBLE)
KEPT = (STATE, OBSERVATIONS)  # errors of single agents and of parts of the state are not shown
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # 97.5 % quantile of Student's t, by number of seeds


def config_of(form: str, seed: int, args: argparse.Namespace) -> OfflineConfig:
    """The run that fits a form, or the ensemble."""
    common = {"seed": seed, "iterations": args.iterations, "evaluate_every": args.iterations, "threads": args.threads}
    fits = {"updates": args.updates, "batch": args.batch}
    if form in ENSEMBLE:
        name, model = "ensemble", {"dynamics_fit": fits}
    else:
        name = form.replace(", ", "_")
        model = {"denoiser": DIFFUSION[form], "denoiser_fit": fits, "reward_fit": {"updates": 0}}
    model["decoder_fit"] = fits
    common["run"] = str(args.work / f"{name}-seed{seed}")
    algorithm = "ensemble" if form in ENSEMBLE else "dima"
    config = fit_config(args.dataset, algorithm, args.preset, common | {"learner": {"world_model": model}})
    return config if form in ENSEMBLE else config.override({"learner": {"world_model": args.world_model}})


def fitted(config: OfflineConfig) -> tuple[WorldModel[Any], float]:
    """The world model of a run, which is begun or gone on with as needed, and the seconds this took."""
    began = time.perf_counter()
    if (config.folder / "metrics.jsonl").exists():
        resume(config.folder, progress=Lines())
    else:
        fit(config, progress=Lines())
    return load(config.folder).world_model, time.perf_counter() - began


def held_out(dataset: Dataset, context: int) -> Segments:
    """Segments of the held-out episodes, the same for every model."""
    source = EpisodeSource("held out", dataset.episodes("held-out"))
    return cut_segments([source], dataset.spec, context, HORIZON, SEGMENTS, seed=0)


def flops_of_a_step(model: WorldModel[Any], segments: Segments) -> float:
    """Operations of one imagined step of one row, from state to observations."""
    rows = segments.start
    latent, counter = model.start(rows), Counter()
    with torch.no_grad(), counter:
        model.observe(model.step(latent, segments.action[:, 0]).latent)
    return counter.flops / len(segments)


def judge(model: WorldModel[Any], dataset: Dataset, scales: FeatureScales, starts: int) -> dict[str, Any]:
    """Everything the tables need of one fitted model; orders are compared from so many ``starts``."""
    segments = held_out(dataset, model.context)
    bootstrap = Bootstrap(segments.episode, seed=0)
    forecaster = Forecaster(model, torch.device("cpu"))
    predicted, reconstructed = forecaster.forecast(segments), forecaster.reconstruct(segments)
    error = horizon_error(predicted, reconstructed, segments, scales, bootstrap).standardised
    found: dict[str, Any] = {
        "error": {what: {who: _means(growth) for who, growth in error[what].items()} for what in KEPT},
        "flops": flops_of_a_step(model, segments),
        "parameters": parameters(model),
    }
    if starts and isinstance(model, SequentialReveal):
        few = segments.subset(starts)
        few = Segments(few.rows[:, : few.context + ORDER_STEPS], few.context, few.source)
        sensitivity = order_sensitivity(forecaster, few, scales, ORDERS, seed=0)
        names = ("order", "noise", "action")
        found["spread"] = {name: getattr(sensitivity, name).mean for name in names}
        found["order_by_noise"] = sensitivity.order_noise_ratio
    return found


def _means(growth: ErrorCurves) -> dict[str, dict[str, list[float | None]]]:
    """Table and picture show intervals over seeds; those over segments are not kept."""
    return {"step": {"mean": growth.step.mean}, "cumulative": {"mean": growth.cumulative.mean}}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Results that a study wrote into a folder, in the names of today."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*-seed*.json"))]
    for result in results:
        result["error"] = {
            target: {OLD_NAMES.get(who, who): curves for who, curves in predictors.items()}
            for target, predictors in result["error"].items()
        }
    return results


def table(results: list[dict[str, Any]]) -> str:
    """Cumulative L1 errors of the observations, standardised: mean over seeds ± half of Student's 95 % interval."""
    steps = [f"state, step {h}" for h in SHOWN[:2]]
    head = ["form", "seeds", *(f"H = {h}" for h in SHOWN), *steps, "order / noise", "MFLOP"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for form in sorted({r["form"] for r in results}, key=FORMS.index):
        mine = [r for r in results if r["form"] == form]
        cumulative = [[r["error"][OBSERVATIONS][MODEL]["cumulative"]["mean"][h - 1] for r in mine] for h in SHOWN]
        state = [[r["error"][STATE][MODEL]["step"]["mean"][h - 1] for r in mine] for h in SHOWN[:2]]
        order = [r["order_by_noise"][-1] for r in mine if "order_by_noise" in r]
        cells = [form, str(len(mine)), *map(spread_of, [*cumulative, *state]), spread_of(order) if order else ""]
        lines.append("| " + " | ".join([*cells, f"{mean(r['flops'] for r in mine) / 1e6:,.1f}"]) + " |")
    for who in (PERSISTENCE, RECONSTRUCTION):
        sums = [[r["error"][OBSERVATIONS][who]["cumulative"]["mean"][h - 1] for r in results] for h in SHOWN]
        state = [[r["error"][STATE][who]["step"]["mean"][h - 1] for r in results] for h in SHOWN[:2]]
        lines.append("| " + " | ".join([who, "", *(f"{mean(v):.3g}" for v in [*sums, *state]), "", ""]) + " |")
    return "\n".join(lines)


def spread_of(values: list[float]) -> str:
    """Mean over seeds, and half the width of its interval."""
    if len(values) < 2:
        return f"{values[0]:.3g}"
    half = STUDENT.get(len(values), 2.0) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.3g} ± {half:.2g}"


def keep_table(folder: Path, table: str) -> None:
    """Print a table, and write it to ``table.md`` in the folder of its results."""
    (folder / "table.md").write_text(table + "\n")
    print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of `dima dataset record`")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS, metavar="FORM", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--preset", default="small", help="whose sizes to use")
    parser.add_argument(
        "--world-model", type=json.loads, default={}, metavar="JSON", help="other sizes of the diffusion"
    )
    parser.add_argument("--iterations", type=int, default=10, help="saves on the way, of --updates each")
    parser.add_argument("--updates", type=int, default=200, help="gradient steps of each part in an iteration")
    parser.add_argument("--batch", type=int, default=256, help="transitions in a gradient step")
    parser.add_argument("--starts", type=int, default=32, help="states from which orders are compared; 0: not at all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/forms"), help="folder for the models")
    parser.add_argument("--out", type=Path, required=True, help="folder for what was found")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset = Dataset.open(args.dataset)
    env = make_env(dataset.task, dataset.env)
    scales = feature_scales(env, dataset.episodes("train"))
    env.close()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for form in args.forms:
            path = args.out / f"{form.replace(', ', '_')}-seed{seed}.json"
            if path.exists():
                continue
            config = config_of(form, seed, args)
            model, seconds = fitted(config)
            if isinstance(model, EnsembleWorldModel):
                model.config = model.config.override({"draw": ENSEMBLE[form]})
            facts = {"form": form, "seed": seed, "seconds": seconds, "config": config.to_dict() | {"run": None}}
            command = shlex.join(["python", "-m", "benchmarks.studies.forms", *sys.argv[1:]])
            content = (
                facts | {"command": command, "protocol": protocol("cpu")} | judge(model, dataset, scales, args.starts)
            )
            path.write_text(json.dumps(content) + "\n")
            print(f"{path}: {content['error'][STATE][MODEL]['step']['mean'][0]:.3f}", file=sys.stderr)
    results = read_results(args.out)
    keep_table(args.out, table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
