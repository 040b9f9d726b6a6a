"""The numbers of a diagnosis, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dima.analysis.diagnose.bootstrap import Curve
from dima.analysis.diagnose.calibration import Calibration
from dima.analysis.diagnose.denoising import TakingShape
from dima.analysis.diagnose.error import MODEL, RECONSTRUCTION, UNCHANGED, Growth
from dima.analysis.diagnose.influence import Influence
from dima.analysis.diagnose.order import OrderSpread
from dima.analysis.diagnose.reward import RewardError
from dima.analysis.diagnose.termination import Termination
from dima.analysis.diagnose.value import ValueRanking
from dima.analysis.html.figures import DASHES, PALETTE, plot, plots

STEPS = "steps ahead"
DEVIATIONS = "standard deviations"
_PAIR = (4.8, 3.4)  # inches: two in a row
_WIDE = 6.4  # inches: still readable on a phone
_LOOKS = {MODEL: 0, UNCHANGED: 1, RECONSTRUCTION: 2}  # places in the palette
_MOST_NAMES = 36  # features that can be named one by one
_BAND, _CROWD = 0.18, 4  # how dark an interval is; with more curves than so many they are paler
_HEAT = LinearSegmentedColormap.from_list("heat", ["#f4f1ea", PALETTE[0], "#0b1f45"])


def growth(guesses: Mapping[str, Growth], cumulative: bool) -> Figure:
    """Error over the horizon beside its yardsticks, of a step or summed up."""
    figure, axes = plot(*_PAIR, xlabel=STEPS, ylabel="summed L1 error" if cumulative else "L1 error of a step")
    _guesses(axes, guesses, cumulative)
    _legend(figure, axes)
    return figure


def growth_by_part(parts: Mapping[str, Mapping[str, Growth]], cumulative: bool) -> Figure:
    """The same for every group of features or agent, one small plot each."""
    columns = min(2, len(parts))
    rows = -(-len(parts) // columns)
    figure, grid = plots(rows, columns, width=_WIDE, height=0.6 + 2.1 * rows, sharex=True)
    for axes, (name, guesses) in zip(grid.flat, parts.items(), strict=False):
        _guesses(axes, guesses, cumulative)
        axes.set_title(name.partition(": ")[2])
    for axes in list(grid.flat)[len(parts) :]:
        axes.remove()
    for axes in list(grid.flat)[max(0, len(parts) - columns) : len(parts)]:  # the lowest of each column
        axes.set_xlabel(STEPS)
        axes.tick_params(labelbottom=True)
    figure.supylabel("summed L1 error" if cumulative else "L1 error of a step", fontsize=11)
    _legend(figure, grid[0, 0], columns=3)
    return figure


def curves(named: Mapping[str, Curve], ylabel: str, log: bool = False) -> Figure:
    """Several curves over the horizon."""
    figure, axes = plot(*_PAIR, xlabel=STEPS, ylabel=ylabel)
    for place, (name, curve) in enumerate(named.items()):
        _curve(axes, curve, name, place, band=_BAND if len(named) <= _CROWD else _BAND / 3)
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    if len(named) > 1:
        _legend(figure, axes)
    return figure


def rank_histogram(found: Mapping[str, Calibration]) -> Figure:
    """Where the truth falls among the futures; flat is right, a U is overconfident, a hill too careful."""
    figure, grid = plots(1, len(found), width=_WIDE, height=3, sharey=True)
    for axes, (what, result) in zip(grid[0], found.items(), strict=True):
        gaps = np.arange(len(result.histogram))
        axes.bar(gaps, result.histogram, width=0.9, color=PALETTE[0], alpha=0.65, label="all steps")
        first = np.append(result.first_histogram, result.first_histogram[-1])
        axes.step(np.arange(len(first)) - 0.5, first, where="post", color=PALETTE[1], label="first step")
        axes.axhline(1 / len(gaps), color="black", linewidth=1, linestyle=":")
        axes.set(title=what, xlabel="futures below the truth")
    grid[0, 0].set_ylabel("share of the truths")
    _legend(figure, grid[0, 0])
    return figure


def coverage(found: Mapping[str, Calibration]) -> Figure:
    """How many truths the central intervals hold; dotted: how many they should."""
    figure, axes = plot(*_PAIR, xlabel=STEPS, ylabel="share of truths inside")
    lines = [(level, what, curve) for what, result in found.items() for level, curve in result.coverage.items()]
    for place, (level, what, curve) in enumerate(lines):
        _curve(axes, curve, f"{level} interval, {what}", place)
        axes.axhline(float(level.rstrip("%")) / 100, color="black", linewidth=1, linestyle=":")
    axes.set_ylim(0, 1)
    _legend(figure, axes)
    return figure


def reward_scatter(reward: RewardError) -> Figure:
    """Foretold against real reward of single steps."""
    return _scatter({"steps": (reward.real, reward.told)}, "real reward of a step", "foretold")


def reward_growth(reward: RewardError) -> Figure:
    """Error of a step's reward, and of the sum so far, beside a constant guess."""
    figure, grid = plots(1, 2, width=_WIDE, height=2.8)
    for axes, (told, constant), label in zip(
        grid[0],
        ((reward.step, reward.constant_step), (reward.cumulative, reward.constant_cumulative)),
        ("error of a step's reward", "error of the sum"),
        strict=True,
    ):
        _curve(axes, told, MODEL, 0)
        _curve(axes, constant, "always the mean", 1)
        axes.set(xlabel=STEPS, ylabel=label)
        axes.set_ylim(bottom=0)
    _legend(figure, grid[0, 0])
    return figure


def reliability(found: Termination) -> Figure:
    """Share of steps that ended the task against the foretold probability; the larger, the more steps."""
    figure, axes = plot(*_PAIR, xlabel="foretold probability of an end", ylabel="share that ended")
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":")
    size = [20 + 40 * np.log10(step.steps) for step in found.reliability]
    axes.plot([step.told for step in found.reliability], [step.real for step in found.reliability], color=PALETTE[0])
    axes.scatter(
        [step.told for step in found.reliability], [step.real for step in found.reliability], s=size, color=PALETTE[0]
    )
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    return figure


def value_scatter(value: ValueRanking) -> Figure:
    """Imagined against real returns of whole segments, by whose they are."""
    clouds = {
        name: (
            [real for real, source in zip(value.real, value.source, strict=True) if source == name],
            [told for told, source in zip(value.imagined, value.source, strict=True) if source == name],
        )
        for name in value.by_source
    }
    return _scatter(clouds, "real return of a segment", "imagined")


def order_spread(order: OrderSpread) -> Figure:
    """What orders, noises and actions change."""
    named = {"between orders": order.order, "between noises": order.noise, "between actions": order.action}
    return curves(named, f"spread, {DEVIATIONS}", log=any(value for value in order.order.mean))


def stages(shape: TakingShape) -> Figure:
    """Error of the expected next state once each agent has been revealed."""
    named = {f"sees {_listed(stage.agents)}": stage.error for stage in shape.stages}
    return curves(named, "L1 error of the estimate")


def levels(shape: TakingShape) -> Figure:
    """Error of the estimate at every denoising level of the first step, by group of features."""
    figure, axes = plot(*_PAIR, xlabel="denoising level, and what it sees", ylabel="L1 error of the estimate")
    places = np.arange(1, len(shape.level_agents) + 1)
    for n, (name, errors) in enumerate(shape.levels.items()):
        axes.plot(places, errors, label=name, marker="o", markersize=4, **_look(n))
    axes.set_xticks(places, [f"{k}\n{_listed(seen)}" for k, seen in zip(places, shape.level_agents, strict=True)])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


def influence(found: Influence) -> Figure:
    """Whose action moves which feature, imagined and, where known, real."""
    maps = {"imagined": found.imagined} | ({"real": found.real} if found.real is not None else {})
    top = max(max(map(max, rows)) for rows in maps.values()) or 1.0
    features, agents = len(found.features), len(found.agents)
    height = 1.6 + len(maps) * (0.5 + 0.3 * agents)
    figure, grid = plots(len(maps), 1, width=_WIDE, height=height, sharex=True)
    for axes, (name, rows) in zip(grid[:, 0], maps.items(), strict=True):
        mesh = axes.pcolormesh(np.array(rows), cmap=_HEAT, vmin=0, vmax=top, edgecolors="face", linewidth=0.1)
        axes.set_title(name)
        axes.set_yticks(np.arange(agents) + 0.5, found.agents)
        axes.invert_yaxis()
        axes.grid(False)
    if features <= _MOST_NAMES:
        axes.set_xticks(np.arange(features) + 0.5, found.features, rotation=90, fontsize=8)
    else:
        runs = [(kind, len(list(run))) for kind, run in groupby(found.kinds)]
        ends = np.cumsum([length for _, length in runs])
        axes.set_xticks([end - length / 2 for end, (_, length) in zip(ends, runs, strict=True)], [k for k, _ in runs])
        axes.tick_params(axis="x", rotation=90, labelsize=8)
    figure.colorbar(mesh, ax=list(grid[:, 0]), label=f"change, {DEVIATIONS}", shrink=0.9)
    return figure


def _guesses(axes: Axes, guesses: Mapping[str, Growth], cumulative: bool) -> None:
    for who, found in guesses.items():
        _curve(axes, found.cumulative if cumulative else found.step, who, _LOOKS[who])
    axes.set_ylim(bottom=0)


def _curve(axes: Axes, curve: Curve, label: str, place: int, band: float = _BAND) -> None:
    """A line with its interval as a band."""
    steps = np.arange(1, len(curve.mean) + 1)
    mean, low, high = (np.array(side, dtype=float) for side in (curve.mean, curve.low, curve.high))
    look = _look(place)
    axes.plot(steps, mean, label=label, marker="o" if len(steps) == 1 else None, **look)
    axes.fill_between(steps, low, high, color=look["color"], alpha=band, linewidth=0)


def _legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Above the plot, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=9, frameon=False)


def _look(place: int) -> dict[str, Any]:
    """Of a curve: 36 differ."""
    n = len(PALETTE)
    return {"color": PALETTE[place % n], "linestyle": DASHES[(place + place // n) % n]}


def _scatter(clouds: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str) -> Figure:
    figure, axes = plot(*_PAIR, xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    for place, (name, (x, y)) in enumerate(clouds.items()):
        axes.scatter(x, y, s=9, alpha=0.6, color=PALETTE[place % len(PALETTE)], label=name, linewidths=0)
    every = [value for cloud in clouds.values() for side in cloud for value in side]
    axes.plot([min(every), max(every)], [min(every), max(every)], color="black", linewidth=1, linestyle=":")
    if len(clouds) > 1:
        _legend(figure, axes)
    return figure


def _listed(agents: Sequence[str]) -> str:
    """Some agents' names, short enough for an axis."""
    return " + ".join(agents) if len(agents) <= 2 else f"{len(agents)} agents"
