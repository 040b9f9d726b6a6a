"""Plot the error over the horizon of every variant of :mod:`benchmarks.studies.forms`.

    python -m benchmarks.studies.forms_curves results/forms/halfcheetah-2x3 results/forms/ant-4x2 --out docs/forms.png

One plot for each task; colours are reveal schemes, dashes are action paths, a band spans the seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.studies.forms import FORMS, read_results
from dima.analysis.diagnose.error import MODEL, PERSISTENCE
from dima.analysis.html.figures import DASHES, PALETTE, as_png, plots
from dima.analysis.targets import STATE

REVEALS = ("one", "cumulative", "all", "ensemble")
PATHS = {"condition+input": "-", "condition": (0, (4, 2)), "mean": "-", "member": (0, (4, 2))}
PATHS |= {"condition+input, change": (0, (1, 1))}


def draw(tasks: dict[str, list[dict[str, Any]]]) -> Figure:
    """One plot a task, from what :mod:`benchmarks.studies.forms` wrote of it."""
    figure, grid = plots(1, len(tasks), width=max(7.2, 4.3 * len(tasks)), height=6.4, sharey=True)
    for axes, (task, results) in zip(grid[0], tasks.items(), strict=True):
        for form in FORMS:
            if mine := [curve_of(result, MODEL) for result in results if result["form"] == form]:
                reveal, path = form.split(", ", 1)
                _line(axes, np.stack(mine), form, PALETTE[REVEALS.index(reveal)], PATHS[path])
        persistence = np.stack([curve_of(result, PERSISTENCE) for result in results])
        _line(axes, persistence, PERSISTENCE, "black", DASHES[2])
        axes.set(title=task, xlabel="forecast horizon (steps)", ylim=(0, None))
    grid[0, 0].set_ylabel("L1 error of the state, standard deviations")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2 if len(tasks) == 1 else 3, frameon=False, fontsize=9
    )
    return figure


def curve_of(result: dict[str, Any], who: str) -> np.ndarray:
    """(H,) error of the state at each step."""
    return np.array(result["error"][STATE][who]["step"]["mean"], dtype=float)


def _line(axes: Axes, seeds: np.ndarray, label: str, color: str, dashes: Any) -> None:
    ahead = np.arange(1, seeds.shape[1] + 1)
    axes.plot(ahead, seeds.mean(0), label=label, color=color, linestyle=dashes, linewidth=1.5)
    axes.fill_between(ahead, seeds.min(0), seeds.max(0), color=color, alpha=0.12, linewidth=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+", help="folders that `benchmarks.studies.forms` wrote")
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    args = parser.parse_args()
    tasks = {path.name: read_results(path) for path in args.studies}
    args.out.write_bytes(as_png(draw(tasks)))
    print(args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
