"""Search a learning rate from nothing, and train the best one again beside a bad default.

    python -m benchmarks.studies.search [--spec examples/search.yaml] [--default 1e-6] [--seeds 10 11 12] [--out FOLDER]

The winner of a search was chosen by its returns, so those flatter it: seeds that the search did not use decide. Writes
``result.json``, the search's file of all trials, and ``command.txt``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import dima
from dima.analysis.report.runs import read_run
from dima.config import read_yaml
from dima.runtime.machine import cores
from dima.sweeps.progress import choose_sweep_progress


def returns(spec: dict[str, Any], settings: dict[str, Any], seeds: list[int], out: Path) -> list[float]:
    """Last evaluation returns of runs with these settings, one for each seed."""
    plain = {name: value for name, value in spec.items() if name != "search"}
    plain |= {"settings": spec["settings"] | settings, "seeds": seeds}
    result = dima.sweep(plain, out=out, progress=choose_sweep_progress())
    if result.status:
        raise RuntimeError(f"{out}: the runs failed or were interrupted")
    return [float(read_run(run.folder).returns[-1]) for run in result.runs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, default=Path("examples/search.yaml"), help="a sweep with one search")
    parser.add_argument("--default", type=float, default=1e-6, help="the bad default of the searched field")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12], help="of the comparison")
    parser.add_argument("--out", type=Path, default=Path("results/search"), help="folder for what was found")
    args = parser.parse_args()
    spec = read_yaml(args.spec)
    (field,) = spec["search"]["fields"]
    with tempfile.TemporaryDirectory() as folder:
        searched = dima.sweep(args.spec, out=Path(folder, "search"), progress=choose_sweep_progress())
        if searched.status:
            raise RuntimeError("the search failed or was interrupted")
        ((point, best),) = searched.best.items()
        found = {"default": {field: args.default}, "best": dict(best.settings)}
        compared = {
            name: {"settings": settings, "returns": returns(spec, settings, args.seeds, Path(folder, name))}
            for name, settings in found.items()
        }
        shutil.rmtree(args.out, ignore_errors=True)
        args.out.mkdir(parents=True)
        shutil.copy(Path(folder, "search", f"{point}-search.json"), args.out / "search.json")
    statuses = [run.status for run in searched.runs]
    result = {
        "spec": spec,
        "cores": cores(),
        "runs": {status: statuses.count(status) for status in sorted(set(statuses))},
        "best_trial": best.number,
        "objective": best.value,
        "seeds": args.seeds,
        "compared": compared,
    }
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    command = shlex.join(["python", "-m", "benchmarks.studies.search", *sys.argv[1:]])
    (args.out / "command.txt").write_text(command + "\n", encoding="utf-8")
    for name, one in compared.items():
        print(f"{name:<8} {one['settings']}: {statistics.fmean(one['returns']):.1f}  {one['returns']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
