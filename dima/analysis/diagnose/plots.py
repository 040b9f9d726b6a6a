"""Plots of a diagnosis."""

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
from dima.analysis.diagnose.calibration import Calibration, TerminationError
from dima.analysis.diagnose.error import (
    MODEL,
    PERSISTENCE,
    RECONSTRUCTION,
    ErrorCurves,
    ReturnRanking,
    RewardError,
)
from dima.analysis.diagnose.influence import Influence
from dima.analysis.diagnose.reveal import DenoisingError, OrderSensitivity
from dima.analysis.html.figures import (
    BASELINE,
    BASELINE_LINE,
    DASHES,
    IMAGINED,
    IMAGINED_LINE,
    PALETTE,
    REAL,
    plot,
    plots,
)
from dima.analysis.targets import OBSERVATIONS, STATE

HORIZON = "forecast horizon (steps)"
DEVIATIONS = "standard deviations"
_STEP_ERROR, _SUMMED_ERROR = "L1 error at each step", "summed L1 error"
_PAIR = (4.8, 3.4)  # inches: two in a row
_WIDE = 6.4  # inches: still readable on a phone
_STYLES: dict[str, dict[str, Any]] = {
    MODEL: IMAGINED_LINE,
    PERSISTENCE: BASELINE_LINE,
    RECONSTRUCTION: IMAGINED_LINE | {"linestyle": ":"},  # what the model makes of the real state
}
_TARGETS = {STATE: PALETTE[0], OBSERVATIONS: PALETTE[1]}
_MAX_FEATURE_LABELS = 36  # with more features, their kinds label the axis
_BAND_ALPHA, _CROWDED = 0.18, 4  # of an interval; with more curves than so many it is paler
_HEAT = LinearSegmentedColormap.from_list("heat", ["#f4f1ea", BASELINE, "#1b1e23"])


def error_curves(predictors: Mapping[str, ErrorCurves], cumulative: bool) -> Figure:
    """Error of the model and its baselines over the horizon, at each step or summed."""
    figure, axes = plot(*_PAIR, xlabel=HORIZON, ylabel=_SUMMED_ERROR if cumulative else _STEP_ERROR)
    _predictors(axes, predictors, cumulative)
    _legend(figure, axes)
    return figure


def error_by_part(parts: Mapping[str, Mapping[str, ErrorCurves]], cumulative: bool) -> Figure:
    """The same in small plots, one for each group of features or agent."""
    columns = min(2, len(parts))
    rows = -(-len(parts) // columns)
    figure, grid = plots(rows, columns, width=_WIDE, height=0.6 + 2.1 * rows, sharex=True)
    for axes, (name, predictors) in zip(grid.flat, parts.items(), strict=False):
        _predictors(axes, predictors, cumulative)
        axes.set_title(name.partition(": ")[2])
    for axes in list(grid.flat)[len(parts) :]:
        axes.remove()
    for axes in list(grid.flat)[max(0, len(parts) - columns) : len(parts)]:  # the lowest of each column
        axes.set_xlabel(HORIZON)
        axes.tick_params(labelbottom=True)
    figure.supylabel(_SUMMED_ERROR if cumulative else _STEP_ERROR, fontsize=11)
    _legend(figure, grid[0, 0], columns=3)
    return figure


def curves(
    named: Mapping[str, Curve], ylabel: str, log: bool = False, styles: Mapping[str, dict[str, Any]] | None = None
) -> Figure:
    """Several curves over the horizon, in the palette's colours but for those with a style of their own."""
    figure, axes = plot(*_PAIR, xlabel=HORIZON, ylabel=ylabel)
    for place, (name, curve) in enumerate(named.items()):
        style = (styles or {}).get(name, _style(place))
        _curve(axes, curve, name, style, band=_BAND_ALPHA if len(named) <= _CROWDED else _BAND_ALPHA / 3)
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    if len(named) > 1:
        _legend(figure, axes)
    return figure


def rank_histogram(found: Mapping[str, Calibration]) -> Figure:
    """Rank of the true value among the sampled forecasts; uniform if calibrated."""
    figure, grid = plots(1, len(found), width=_WIDE, height=3, sharey=True)
    for axes, (target, result) in zip(grid[0], found.items(), strict=True):
        ranks = np.arange(len(result.rank_histogram))
        axes.bar(ranks, result.rank_histogram, width=0.9, color=_TARGETS[target], alpha=0.65, label="all steps")
        first = np.append(result.first_rank_histogram, result.first_rank_histogram[-1])
        axes.step(np.arange(len(first)) - 0.5, first, where="post", color="black", linestyle="-", label="first step")
        axes.axhline(1 / len(ranks), color="black", linewidth=1, linestyle=":")
        axes.set(title=target, xlabel="forecasts below the true value")
    grid[0, 0].set_ylabel("share of true values")
    _legend(figure, grid[0, 0])
    return figure


def coverage(found: Mapping[str, Calibration]) -> Figure:
    """Coverage of the central intervals; dotted: nominal coverage."""
    figure, axes = plot(*_PAIR, xlabel=HORIZON, ylabel="share of true values inside")
    for target, result in found.items():
        for place, (level, curve) in enumerate(result.coverage.items()):
            _curve(axes, curve, f"{level} interval, {target}", _of_target(target, place))
            axes.axhline(float(level.rstrip("%")) / 100, color="black", linewidth=1, linestyle=":")
    axes.set_ylim(0, 1)
    _legend(figure, axes)
    return figure


def spread_skill(found: Mapping[str, Calibration]) -> Figure:
    """Standard deviation of the forecasts and error of their mean; equal if calibrated."""
    named, styles = {}, {}
    for target, result in found.items():
        for place, (what, curve) in enumerate((("RMSE", result.rmse), ("standard deviation", result.std))):
            named[f"{what}, {target}"], styles[f"{what}, {target}"] = curve, _of_target(target, place)
    return curves(named, DEVIATIONS, styles=styles)


def reward_bias(reward: RewardError) -> Figure:
    """Mean of predicted minus real reward."""
    name = "predicted minus real"
    return curves({name: reward.bias}, "bias", styles={name: _STYLES[MODEL]})


def return_correlation(returns: ReturnRanking) -> Figure:
    """Rank correlation of imagined and real returns, by policy and over all segments."""
    every = "all segments"
    black = {"color": "black", "linestyle": "-", "linewidth": 2}
    return curves(returns.by_source | {every: returns.correlation}, "rank correlation", styles={every: black})


def reward_scatter(reward: RewardError) -> Figure:
    """Predicted against real reward of single steps."""
    return _scatter({"steps": (reward.real, reward.predicted)}, "real reward", "predicted reward")


def reward_error(reward: RewardError) -> Figure:
    """Error of the reward at each step and of the sum so far, with the baseline's."""
    figure, grid = plots(1, 2, width=_WIDE, height=2.8)
    for axes, (model, baseline), label in zip(
        grid[0],
        ((reward.step, reward.baseline_step), (reward.cumulative, reward.baseline_cumulative)),
        ("error of the reward", "error of the sum"),
        strict=True,
    ):
        _curve(axes, model, MODEL, _STYLES[MODEL])
        _curve(axes, baseline, "mean reward", _STYLES[PERSISTENCE])
        axes.set(xlabel=HORIZON, ylabel=label)
        axes.set_ylim(bottom=0)
    _legend(figure, grid[0, 0])
    return figure


def reliability(found: TerminationError) -> Figure:
    """Share of steps that terminated by predicted probability; marker size grows with the number of steps."""
    figure, axes = plot(*_PAIR, xlabel="predicted probability of termination", ylabel="observed frequency")
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":")
    predicted, observed = ([getattr(one, name) for one in found.reliability] for name in ("predicted", "observed"))
    axes.plot(predicted, observed, **_STYLES[MODEL])
    size = [20 + 40 * np.log10(one.steps) for one in found.reliability]
    axes.scatter(predicted, observed, s=size, color=IMAGINED)
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    return figure


def return_scatter(returns: ReturnRanking) -> Figure:
    """Imagined against real returns of whole segments, by policy."""
    clouds = {
        name: (
            [real for real, source in zip(returns.real, returns.source, strict=True) if source == name],
            [value for value, source in zip(returns.imagined, returns.source, strict=True) if source == name],
        )
        for name in returns.by_source
    }
    return _scatter(clouds, "real return", "imagined return")


def order_sensitivity(order: OrderSensitivity) -> Figure:
    """Standard deviation of the predicted state over orders, noises and actions."""
    named = {"over orders": order.order, "over noises": order.noise, "over actions": order.action}
    return curves(named, DEVIATIONS, log=any(value for value in order.order.mean))


def stages(denoising: DenoisingError) -> Figure:
    """Error of the estimated next state after each agent is revealed."""
    named = {f"given {_listed(stage.agents)}": stage.error for stage in denoising.stages}
    return curves(named, "L1 error of the estimate")


def noise_levels(denoising: DenoisingError) -> Figure:
    """Error of the estimate at each noise level of the first step, by group of features."""
    figure, axes = plot(*_PAIR, xlabel="noise level, and the agents it is given", ylabel="L1 error of the estimate")
    places = np.arange(1, len(denoising.level_agents) + 1)
    for n, (name, errors) in enumerate(denoising.level_errors.items()):
        axes.plot(places, errors, label=name, marker="o", markersize=4, **_style(n))
    axes.set_xticks(places, [f"{k}\n{_listed(seen)}" for k, seen in zip(places, denoising.level_agents, strict=True)])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


def influence(found: Influence) -> Figure:
    """Change of each feature by agent, imagined and, where known, real."""
    maps = {"imagined": found.imagined} | ({"real": found.real} if found.real is not None else {})
    top = max(max(map(max, rows)) for rows in maps.values()) or 1.0
    features, agents = len(found.features), len(found.agents)
    height = 1.6 + len(maps) * (0.5 + 0.3 * agents)
    figure, grid = plots(len(maps), 1, width=_WIDE, height=height, sharex=True)
    for axes, (name, rows) in zip(grid[:, 0], maps.items(), strict=True):
        mesh = axes.pcolormesh(np.array(rows), cmap=_HEAT, vmin=0, vmax=top, edgecolors="face", linewidth=0.1)
        axes.set_title(name, color=REAL if name == "real" else IMAGINED)
        axes.set_yticks(np.arange(agents) + 0.5, found.agents)
        axes.invert_yaxis()
        axes.grid(False)
    if features <= _MAX_FEATURE_LABELS:
        axes.set_xticks(np.arange(features) + 0.5, found.features, rotation=90, fontsize=8)
    else:
        runs = [(kind, len(list(run))) for kind, run in groupby(found.kinds)]
        ends = np.cumsum([length for _, length in runs])
        axes.set_xticks([end - length / 2 for end, (_, length) in zip(ends, runs, strict=True)], [k for k, _ in runs])
        axes.tick_params(axis="x", rotation=90, labelsize=8)
    figure.colorbar(mesh, ax=list(grid[:, 0]), label=f"change, {DEVIATIONS}", shrink=0.9)
    return figure


def _predictors(axes: Axes, predictors: Mapping[str, ErrorCurves], cumulative: bool) -> None:
    for who, found in predictors.items():
        _curve(axes, found.cumulative if cumulative else found.step, who, _STYLES[who])
    axes.set_ylim(bottom=0)


def _curve(axes: Axes, curve: Curve, label: str, style: Mapping[str, Any], band: float = _BAND_ALPHA) -> None:
    """A line with its interval as a band."""
    steps = np.arange(1, len(curve.mean) + 1)
    mean, low, high = (np.array(side, dtype=float) for side in (curve.mean, curve.low, curve.high))
    axes.plot(steps, mean, label=label, marker="o" if len(steps) == 1 else None, **style)
    axes.fill_between(steps, low, high, color=style["color"], alpha=band, linewidth=0)


def _legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Above the plot, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=9, frameon=False)


def _style(place: int) -> dict[str, Any]:
    """Colour and dashes of a curve; 36 differ."""
    n = len(PALETTE)
    return {"color": PALETTE[place % n], "linestyle": DASHES[(place + place // n) % n]}


def _of_target(target: str, place: int) -> dict[str, Any]:
    """A target has one colour; what is told of it differs by dashes."""
    return {"color": _TARGETS[target], "linestyle": DASHES[place]}


def _scatter(clouds: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str) -> Figure:
    figure, axes = plot(*_PAIR, xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    for place, (name, (x, y)) in enumerate(clouds.items()):
        color = PALETTE[place % len(PALETTE)] if len(clouds) > 1 else IMAGINED
        axes.scatter(x, y, s=9, alpha=0.6, color=color, label=name, linewidths=0)
    every = [value for cloud in clouds.values() for side in cloud for value in side]
    axes.plot([min(every), max(every)], [min(every), max(every)], color="black", linewidth=1, linestyle=":")
    if len(clouds) > 1:
        _legend(figure, axes)
    return figure


def _listed(agents: Sequence[str]) -> str:
    """Some agents' names, short enough for an axis."""
    return " + ".join(agents) if len(agents) <= 2 else f"{len(agents)} agents"
