"""Plot the error over the horizon, and the change with the order of agents, of the world models of every method.

    python -m benchmarks.studies.accuracy DATASET --forms small "ensemble, mean" marie mamba --seeds 0 1 2 \
        --out results/horizon/TASK
    python -m benchmarks.studies.horizon results/horizon/* --out docs/horizon.png

From what :mod:`benchmarks.studies.accuracy` wrote; a column for each task, a band spans the seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dima.analysis.html.figures import DASHES, PALETTE, as_png, plots

NAMES = {"small": "DIMA", "marie": "MARIE", "mamba": "MAMBA", "ensemble, mean": "ensemble"}


def read(folder: Path) -> list[dict[str, Any]]:
    """Results of a task."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*-seed*.json"))]


def draw(tasks: dict[str, list[dict[str, Any]]]) -> Figure:
    """Errors above, changes with the order below."""
    figure, grid = plots(2, len(tasks), width=max(7.2, 3.6 * len(tasks)), height=6.4, sharey="row")
    for (above, below), (task, results) in zip(grid.T, tasks.items(), strict=True):
        for (form, name), color in zip(NAMES.items(), PALETTE, strict=False):
            mine = [result for result in results if result["form"] == form]
            if not mine:
                continue
            _line(above, [result["curve"] for result in mine], name, color)
            orders = [result["order"] for result in mine if result["order"]]
            if orders:
                _line(below, [order["order"] for order in orders], name, color)
                noise = np.mean([order["noise"] for order in orders], axis=0)
                below.plot(np.arange(1, len(noise) + 1), noise, color=color, linestyle=DASHES[1], linewidth=1)
        above.set(title=task)
        below.set(xlabel="forecast horizon (steps)")
    for axes in grid[:, 0]:
        axes.set_ylim(0, None)  # once all are drawn, since a row shares its scale
    grid[0, 0].set_ylabel("L1 error of the state (std)")
    grid[1, 0].set_ylabel("change with the order of agents\n(std; dashed: of draws alone)")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _line(axes: Axes, seeds: list[list[float]], label: str, color: str) -> None:
    curves = np.array(seeds)
    ahead = np.arange(1, curves.shape[1] + 1)
    axes.plot(ahead, curves.mean(0), label=label, color=color, linewidth=1.5)
    axes.fill_between(ahead, curves.min(0), curves.max(0), color=color, alpha=0.12, linewidth=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+", help="folders that `benchmarks.studies.accuracy` wrote")
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    args = parser.parse_args()
    tasks = {path.name: read(path) for path in args.studies}
    if empty := [name for name, results in tasks.items() if not results]:
        parser.error(f"{empty[0]} holds no results of benchmarks.studies.accuracy")
    args.out.write_bytes(as_png(draw(tasks)))
    print(args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
