"""Plots of a report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, zip_longest
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dima.analysis.html.page import DASHES, PALETTE, plot, plots
from dima.analysis.report.compare import Comparison
from dima.analysis.report.results import Aggregate, Improvement
from dima.analysis.report.runs import Run
from dima.analysis.report.statistics import (
    MIN_RESAMPLED,
    MIN_RUNS,
    Array,
    Interval,
    at_steps,
    interquartile_mean,
    mean_interval,
    performance_profile,
    resampled_interval,
)

_GRID = 60  # points of a mean curve where seeds were not evaluated at the same few steps
_MAX_MARKERS = 12  # of a curve; with more points it has none
_NARROW, _WIDE = 4.7, 5.8  # inches: two in a row, and alone
_PANELS = 4  # in a row of learning curves of several tasks
_FIRST = ("dima", "mappo", "happo", "hasac", "ensemble", "oracle")  # have the same colours in every report
_LETTER, _LINE, _HANDLE = 0.078, 0.19, 0.76  # inches: a letter's width, a line's height, a legend handle with gaps


def learning_curve(comparison: Comparison, task: str) -> Figure:
    """Team return over environment steps: thin lines for seeds, a thick one for their mean, and their range shaded.

    From :data:`MIN_RESAMPLED` seeds on the interval of their mean is shaded instead. The mean is pale where some seeds
    have no evaluations.
    """
    alone = len(comparison.compared_at) == 1
    width, height = (_WIDE, 3.6) if alone else (_NARROW, 3.3)
    figure, axes = plot(width, height, xlabel="environment steps", ylabel="team return")
    _curves(axes, comparison, task)
    _legend(figure)
    return figure


def learning_curves(comparison: Comparison) -> Figure:
    """:func:`learning_curve` of every task, side by side under one legend, for papers and slides."""
    tasks = list(comparison.compared_at)
    columns = min(len(tasks), _PANELS)
    rows = -(-len(tasks) // columns)
    figure, grid = plots(rows, columns, max(2.7 * columns, 6.6), 2.4 * rows + 0.4)
    for i, (axes, task) in enumerate(zip_longest(grid.flat, tasks)):
        if task is None:
            axes.remove()
            continue
        _curves(axes, comparison, task)
        axes.set_xlabel("environment steps" if i + columns >= len(tasks) else "")
        axes.set_ylabel("" if i % columns else "team return")
    _legend(figure)
    return figure


def progress_curve(comparison: Comparison, tasks: Sequence[str]) -> Figure:
    """Interquartile mean over tasks against the share of the steps compared at."""
    figure, axes = plot(_NARROW, 3.3, xlabel="share of the steps compared at", ylabel="normalised return")
    for algorithm in comparison.algorithms:
        runs = [comparison.scored(task, algorithm) for task in tasks]
        first = max(
            run.evaluated[0] / comparison.compared_at[task]
            for task, group in zip(tasks, runs, strict=True)
            for run in group
        )
        shares = np.unique(np.linspace(first, 1, _GRID))
        curves = []
        for task, group in zip(tasks, runs, strict=True):
            steps = np.minimum(shares * comparison.compared_at[task], min(run.evaluated[-1] for run in group))
            steps = np.maximum(steps, max(run.evaluated[0] for run in group))
            returns = np.stack([at_steps(run.evaluated, run.returns, steps) for run in group], axis=-1)
            curves.append(comparison.scales[task].normalise(returns))  # (G, runs)
        style = _style(comparison, algorithm)
        axes.plot(shares, interquartile_mean(curves), label=algorithm, linewidth=2, **style, **_mark(shares))
        intervals = [resampled_interval(interquartile_mean, [curve[i] for curve in curves]) for i in range(len(shares))]
        _band(axes, shares, intervals, style["color"])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _legend(figure)
    return figure


def aggregate_plot(comparison: Comparison, rows: Sequence[Aggregate]) -> Figure:
    """Interquartile mean of each algorithm with its interval."""
    figure, axes = _row_axes([row.algorithm for row in rows], "interquartile mean of the normalised return")
    for height, row in enumerate(rows):
        _draw_row(axes, height, row.iqm, row.iqm_interval, _style(comparison, row.algorithm)["color"])
    return figure


def improvement_plot(comparison: Comparison, rows: Sequence[Improvement]) -> Figure:
    """Probability of improvement of each pair with its interval, around 0.5, in the colour of the first."""
    figure, axes = _row_axes([f"{row.first}\nover {row.second}" for row in rows], "probability of improvement")
    axes.set_xlim(-0.03, 1.03)
    axes.axvline(0.5, color="black", linewidth=1, linestyle=(0, (2, 2)))
    for height, row in enumerate(rows):
        _draw_row(axes, height, row.probability, row.interval, _style(comparison, row.first)["color"])
    return figure


def profile_plot(comparison: Comparison, tasks: Sequence[str]) -> Figure:
    """Performance profile: share of runs that score above each normalised return.

    On one task no interval is drawn, since with a few seeds it covers nearly everything.
    """
    scores = {name: comparison.normalised(name, tasks) for name in comparison.algorithms}
    low = min(0.0, *(float(task.min()) for some in scores.values() for task in some))
    high = max(1.0, *(float(task.max()) for some in scores.values() for task in some))
    thresholds = np.linspace(low, high, 101)
    figure, axes = plot(_NARROW, 3.3, xlabel="normalised return τ", ylabel="share of runs above τ")
    for name, some in scores.items():
        style = _style(comparison, name)
        axes.step(thresholds, performance_profile(some, thresholds), where="post", label=name, linewidth=2, **style)
        interval = resampled_interval(lambda drawn: performance_profile(drawn, thresholds), some)
        if interval is not None and len(tasks) > 1:
            axes.fill_between(thresholds, *interval, color=style["color"], alpha=0.18, linewidth=0, step="post")
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _legend(figure)
    return figure


def _curves(axes: Axes, comparison: Comparison, task: str) -> None:
    """The learning curves of every algorithm on a task."""
    axes.set_title(task, loc="left", fontsize=10)
    for algorithm, group in comparison.groups[task].items():
        runs = [run for run in group if len(run.evaluated)]
        if runs:
            _curve(axes, comparison, algorithm, runs)
    scale = comparison.scales[task]
    if scale.origin == "given":
        for level in (scale.low, scale.high):
            axes.axhline(level, color="black", linewidth=0.8, linestyle=(0, (1, 3)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _curve(axes: Axes, comparison: Comparison, algorithm: str, runs: Sequence[Run]) -> None:
    style = _style(comparison, algorithm)
    grid = common_grid(runs)
    returns = np.stack([at_steps(run.evaluated, run.returns, grid) for run in runs], axis=-1)  # (G, runs)
    defined = ~np.isnan(returns)
    complete = defined.all(-1)
    average = np.where(defined.any(-1), np.nansum(returns, -1) / np.maximum(defined.sum(-1), 1), np.nan)
    mark = _mark(grid)
    axes.plot(grid, np.where(complete, average, np.nan), label=algorithm, linewidth=2, **style, **mark)
    if not complete.all():
        axes.plot(grid, average, linewidth=1.2, alpha=0.6, **style)
    if len(runs) > 1:
        for run in runs:
            axes.plot(run.evaluated, run.returns, linewidth=0.8, alpha=0.6, color=style["color"], linestyle="-")
    _band(axes, grid, [_spread(row[some]) for row, some in zip(returns, defined, strict=True)], style["color"])


def _spread(returns: Array) -> tuple[float, float] | None:
    """Range of a few seeds; of many, the interval of their mean."""
    if len(returns) < MIN_RESAMPLED:
        return (float(returns.min()), float(returns.max())) if len(returns) >= MIN_RUNS else None
    found = mean_interval([returns])
    return None if found is None else (found.low, found.high)


def common_grid(runs: Sequence[Run]) -> Array:
    """(G,) steps to average curves at: those of the evaluations if they are few, else evenly spaced ones."""
    steps = np.unique(np.concatenate([run.evaluated for run in runs]))
    return steps if len(steps) <= _GRID else np.linspace(steps[0], steps[-1], _GRID)


def _band(axes: Axes, x: Array, intervals: Sequence[tuple[Any, Any] | None], colour: str) -> None:
    ends = np.array([(np.nan, np.nan) if interval is None else interval for interval in intervals], float)
    if not np.isnan(ends).all():
        axes.fill_between(x, ends[:, 0], ends[:, 1], color=colour, alpha=0.18, linewidth=0)


def _style(comparison: Comparison, algorithm: str) -> dict[str, Any]:
    """Colour and dashes of an algorithm, the same in every plot; 36 differ."""
    i, n = _places(comparison)[algorithm], len(PALETTE)
    return {"color": PALETTE[i % n], "linestyle": DASHES[(i + i // n) % n]}


def _places(comparison: Comparison) -> dict[str, int]:
    """Place in the palette of every algorithm: its own where it has one, of variants the first's."""
    kinds = {name: run.algorithm for named in comparison.groups.values() for name, (run, *_) in named.items()}
    places: dict[str, int] = {}
    for name in comparison.algorithms:
        if kinds[name] in _FIRST and _FIRST.index(kinds[name]) not in places.values():
            places[name] = _FIRST.index(kinds[name])
    free = (place for place in count() if place not in places.values())
    for name in comparison.algorithms:
        if name not in places:
            places[name] = next(free)
    return places


def _mark(points: Array) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4} if len(points) <= _MAX_MARKERS else {}


def _row_axes(names: Sequence[str], xlabel: str) -> tuple[Figure, Axes]:
    """Axes with one row per name, the first on top."""
    labels = ["\n".join(line for part in name.split("\n") for line in wrap(part, 22)) for name in names]
    lines = max(name.count("\n") + 1 for name in labels)
    figure, axes = plot(_NARROW, 0.9 + (0.25 + _LINE * lines) * len(names), xlabel=xlabel)
    axes.set_yticks(range(len(names)), labels)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _draw_row(axes: Axes, height: int, value: float, interval: Interval | None, colour: str) -> None:
    if interval is not None:
        ends = (interval.low, interval.high)
        axes.plot(ends, [height, height], color=colour, linewidth=7, alpha=0.35, linestyle="-", solid_capstyle="butt")
    axes.plot([value], [height], color=colour, marker="o", markersize=7, linestyle="none")


def _legend(figure: Figure) -> None:
    labelled = dict(pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    columns = int(figure.get_figwidth() / (_HANDLE + _LETTER * max(map(len, labelled))))
    figure.legend(
        labelled.values(),
        labelled,
        loc="outside lower left",
        ncols=max(1, columns),
        handlelength=2.6,
        fontsize=10,
        frameon=False,
    )
