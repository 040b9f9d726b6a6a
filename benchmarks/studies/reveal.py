"""Sequential against joint: returns at data budgets, of policies learnt in either world model.

    python -m benchmarks.studies.reveal dexhands/bottle-cap --out results/dexhands/reveal
    python -m benchmarks.studies.reveal TASK --preset small --budgets 10000 20000 30000 --seeds 0 1 2 --out FOLDER

In ``sequential`` each noise level sees the action of its agent, as the preset has it; in ``joint`` every level sees all
of them (``denoiser.reveal = all``), on as many levels. A run goes to the largest budget; its return at a budget is
the last evaluation up to there. Runs are kept in ``--runs`` and the results written after each. Started again with the
same arguments, it skips what is finished and resumes what is not, from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.speed.settings import changes_of
from dima.analysis.report.runs import read_run
from dima.errors import UserError
from dima.runtime.progress import choose_progress
from dima.runtime.provenance import protocol
from dima.storage.run_folder import RunFolder
from dima.training.online import resume, train
from dima.training.run_config import RunConfig, TrainConfig, build_config

FORMS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "joint": {"learner": {"world_model": {"denoiser": {"reveal": "all"}}}},
}
ELSEWHERE = ("steps", "run", "device", "threads")  # settings that a resumed run may have otherwise
BUDGETS = [100_000, 150_000, 200_000, 250_000, 300_000]


def config_of(args: argparse.Namespace, form: str, seed: int, run: Path) -> TrainConfig:
    """A run to the largest budget."""
    config = build_config(args.task, "dima", args.preset, changes_of(",".join(args.settings)))
    facts = {"seed": seed, "steps": max(args.budgets), "run": str(run), "device": args.device}
    facts |= {} if args.threads is None else {"threads": args.threads}
    return config.override(facts).override(FORMS[form])


def make_run(config: TrainConfig) -> bool:
    """Train, or resume, one run; False if it was asked to stop.

    Raises:
        UserError: the folder holds a run with other settings, or training failed.
    """
    progress = choose_progress(quiet=False)
    if not config.folder.exists():
        return train(config, progress=progress).finished
    kept = RunConfig.from_dict(RunFolder.open(config.folder).config(), where=config.folder).to_dict()
    if any(kept.get(name) != value for name, value in config.to_dict().items() if name not in ELSEWHERE):
        raise UserError(f"{config.folder} holds a run with other settings: choose other --runs")
    run = read_run(config.folder)
    if run.status == "finished" and run.steps >= config.steps:
        return True
    return resume(config.folder, steps=config.steps, progress=progress).finished


def returns_at(folder: Path, budgets: list[int]) -> dict[int, float]:
    """The last evaluation up to each budget that the run has reached."""
    run = read_run(folder)
    found = {}
    for budget in budgets:
        before = run.returns[run.evaluated <= budget]
        if len(before) and run.steps >= budget:
            found[budget] = float(before[-1])
    return found


def table(results: list[dict[str, Any]], budgets: list[int]) -> str:
    """Mean and standard deviation over seeds, a row for each form."""
    head = ["form", "seeds", *(f"{budget:,}" for budget in budgets)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for form in FORMS:
        own = [result["returns"] for result in results if result["form"] == form]
        cells = [form, str(len(own))]
        for budget in budgets:
            values = [returns[budget] for returns in own if budget in returns]
            spread = f" ± {statistics.stdev(values):,.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):,.1f}{spread}" if values else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="any task, such as dexhands/bottle-cap")
    parser.add_argument("--preset", default="published", help="of the algorithm dima (default: %(default)s)")
    parser.add_argument(
        "--budgets", type=int, nargs="+", default=BUDGETS, help="environment steps (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="*", default=[], metavar="FIELD=VALUE", help="of both forms' config")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="of PyTorch; default: as `dima train`")
    parser.add_argument("--runs", type=Path, help="folder of the run folders; default: runs/reveal/<task>")
    parser.add_argument("--out", type=Path, required=True, help="folder for reveal.json and table.md")
    args = parser.parse_args()
    args.budgets = sorted(args.budgets)
    runs = args.runs or Path("runs") / "reveal" / args.task
    facts = {"task": args.task, "preset": args.preset, "settings": args.settings, "protocol": protocol(args.device)}
    facts |= {"command": shlex.join(["python", "-m", "benchmarks.studies.reveal", *sys.argv[1:]])}
    results: list[dict[str, Any]] = []
    try:
        for seed in args.seeds:
            for form in FORMS:
                config = config_of(args, form, seed, runs / f"{form}-{args.preset}-seed{seed}")
                if not make_run(config):
                    return 130
                result = {"form": form, "seed": seed, "run": str(config.folder)}
                results.append(result | {"returns": returns_at(config.folder, args.budgets)})
                args.out.mkdir(parents=True, exist_ok=True)
                (args.out / "reveal.json").write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")
                (args.out / "table.md").write_text(table(results, args.budgets) + "\n")
                print(table(results, args.budgets))
    except UserError as error:
        print(f"reveal: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
