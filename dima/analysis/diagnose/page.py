"""A diagnosis as ``diagnosis.json`` and as one self-contained page with its plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dima.analysis.diagnose import plots
from dima.analysis.diagnose.bootstrap import LEVEL, Curve
from dima.analysis.diagnose.error import MODEL, OBSERVATIONS, STATE, UNCHANGED
from dima.analysis.diagnose.findings import moments
from dima.analysis.diagnose.results import Diagnosis
from dima.analysis.html.page import Page
from dima.storage.atomic import disk_errors, write_text

DATA, PAGE = "diagnosis.json", "diagnosis.html"
_FAR = 10  # times that one curve is higher than another before both are drawn on a logarithmic scale


def save(diagnosis: Diagnosis, folder: Path) -> Path:
    """Write numbers, page and plots; the answer is the page's path.

    Raises:
        RunFolderError: the disk is full or read-only.
    """
    with disk_errors(folder, "choose another --out"):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / DATA, json.dumps(diagnosis.to_dict(), indent=1, allow_nan=False) + "\n")
    page(diagnosis).save(folder / PAGE, plots=True)
    return folder / PAGE


def page(diagnosis: Diagnosis) -> Page:
    """The whole page."""
    run, fresh = diagnosis.run, [source for source in diagnosis.sources if not source.seen]
    page = Page(
        f"What the world model foretells: {run['algorithm']} on {run['task']}",
        f"After {run['steps']:,} environment steps. {sum(s.segments for s in fresh)} segments of {diagnosis.horizon} "
        f"steps, cut from {sum(s.episodes for s in fresh)} fresh episodes that the world model has not seen, are "
        "foretold from their first step and their actions. Bands and ranges in brackets are "
        f"{LEVEL:.0%} bootstrap intervals; whole episodes are resampled.",
    )
    page.section("In short")
    page.facts(dict(sentence.split(": ", 1) for sentence in diagnosis.findings))
    for part in (_error, _calibration, _reward, _termination, _value, _order, _denoising, _influence, _protocol):
        part(page, diagnosis)
    return page


def _error(page: Page, diagnosis: Diagnosis) -> None:
    error = diagnosis.error
    page.section(
        "Error over the horizon",
        "One drawn future of each segment against what happened: mean absolute error, over state features, or over "
        "each agent's observation features and then over agents. “Nothing changes” expects the first step to last; "
        "“reconstruction” looks at the real state of each step, so what it misses, no foretelling can put right. "
        "One unit is a standard deviation of the feature in the fresh episodes.",
    )
    for what in (STATE, OBSERVATIONS):
        guesses = error.standardised[what]
        page.figure(plots.growth(guesses, False), f"error-{what}", f"Error of the {what} after each step.")
        page.figure(
            plots.growth(guesses, True), f"error-{what}-summed", f"The same for the {what}, summed over the steps."
        )
    for what, each in ((STATE, "kind of state feature"), (OBSERVATIONS, "agent's observation")):
        parts = {name: error.standardised[name] for name in error.parts(what)}
        if len(parts) > 1:
            page.figure(
                plots.growth_by_part(parts, False), f"error-{what}-parts", f"Error after each step, for each {each}."
            )
            page.figure(
                plots.growth_by_part(parts, True), f"error-{what}-parts-summed", "The same, summed over the steps."
            )
    sources = {name: curves[STATE] for name, curves in error.by_source.items()}
    page.figure(
        plots.curves(sources, "L1 error of a step", log=_far_apart(sources)),
        "error-sources",
        "State error by whose episodes are foretold. A model that has memorised is better on those it was trained on.",
    )
    steps = moments(diagnosis.horizon)
    head = ["", *(f"{step} ahead" for step in steps), *(f"sum to {step}" for step in steps[1:])]
    told = [
        what for what in error.raw if what in (STATE, OBSERVATIONS) or len(error.parts(what.partition(": ")[0])) > 1
    ]
    for unit, table in (("standard deviations", error.standardised), ("the environment's units", error.raw)):
        rows = [
            [f"{what}, {who}" if who != MODEL else what]
            + [table[what][who].step.at(step) for step in steps]
            + [table[what][who].cumulative.at(step) for step in steps[1:]]
            for what in told
            for who in ((MODEL, UNCHANGED) if what in (STATE, OBSERVATIONS) else (MODEL,))
        ]
        page.table(head, rows, f"Mean absolute error in {unit}, so many steps ahead and summed up.")
    if error.segments[-1] < error.segments[0]:
        lasting = ", ".join(f"{error.segments[step - 1]} for {step} steps" for step in steps)
        page.text(f"Segments that last so long: {lasting}; the task ended the others.")


def _far_apart(curves: Mapping[str, Curve]) -> bool:
    """Whether a few curves would press the others flat."""
    highest = [
        max(known) for curve in curves.values() if (known := [value for value in curve.mean if value is not None])
    ]
    return len(highest) > 1 and 0 < _FAR * min(highest) < max(highest)


def _calibration(page: Page, diagnosis: Diagnosis) -> None:
    found = diagnosis.calibration
    if not found:
        page.section("Calibration", "Nothing in these episodes ever varied.")
        return
    futures = next(iter(found.values())).futures
    page.section(
        "Calibration",
        f"{futures} futures of each segment that differ in noise alone. If reality might as well be one of them, it "
        "falls into every gap between them equally often (dotted). Heaped at the ends: the model is too sure of "
        "itself; in the middle: not sure enough.",
    )
    page.figure(plots.rank_histogram(found), "rank-histogram", "Rank of the truth among the futures.")
    page.figure(plots.coverage(found), "coverage", "Truths inside the central intervals; dotted: how many should be.")
    pairs: dict[str, Curve] = {}
    for what, result in found.items():
        pairs |= {f"spread, {what}": result.spread, f"error, {what}": result.error}
    page.figure(
        plots.curves(pairs, plots.DEVIATIONS),
        "spread",
        "Spread of the futures and error of their mean, root mean square; equal where the spread is right.",
    )
    page.facts({f"Correlation of spread and error, {what}": result.correlation for what, result in found.items()})


def _reward(page: Page, diagnosis: Diagnosis) -> None:
    reward = diagnosis.reward
    page.section(
        "Reward",
        "Of the same futures, in the environment's units. The yardstick expects the mean reward of these segments.",
    )
    page.figure(plots.reward_growth(reward), "reward-error", "Error of the reward, of a step and of the sum so far.")
    page.figure(plots.reward_scatter(reward), "reward-steps", "Foretold and real reward of single steps.")
    page.figure(
        plots.curves({"foretold minus real": reward.bias}, "bias"),
        "reward-bias",
        "Mean error of the reward: above zero the model hopes, below it fears.",
    )
    page.facts({"Correlation": reward.correlation, "Share of the variance foretold": reward.explained})


def _termination(page: Page, diagnosis: Diagnosis) -> None:
    found = diagnosis.termination
    page.section("Termination", "A time limit is no termination.")
    if not found.ends:
        page.text(f"The task never ended in the {found.steps:,} steps looked at, so there is nothing to recall.")
        if not found.foretold:
            page.text("Nor did the model foretell an end.")
            return
    page.facts(
        {
            "Steps": found.steps,
            "Real ends": found.ends,
            "Foretold ends (probability of at least a half)": found.foretold,
            "Precision": found.precision,
            "Recall": found.recall,
            "Brier score": found.brier,
        }
    )
    page.figure(
        plots.reliability(found),
        "termination-reliability",
        "Share of the steps that ended the task, by the probability foretold; on the dotted line it can be relied on.",
    )


def _value(page: Page, diagnosis: Diagnosis) -> None:
    value = diagnosis.value
    page.section(
        "Value",
        "A policy that learns in imagination needs the world model to rank what it might do. Imagined and real return "
        "of the same actions, undiscounted.",
    )
    page.figure(plots.value_scatter(value), "value-returns", f"Returns over {diagnosis.horizon} steps.")
    page.figure(
        plots.curves(value.by_source | {"all segments": value.correlation}, "rank correlation"),
        "value-correlation",
        "Rank correlation of imagined and real return, by length and by whose episodes.",
    )


def _order(page: Page, diagnosis: Diagnosis) -> None:
    order = diagnosis.order
    if order is None:
        page.section("Order of the agents", "This world model takes all agents in at once.")
        return
    page.section(
        "Order of the agents",
        f"The same segments under {len(order.orders)} orders with the same noise, under {order.members} noises in one "
        f"order, and under {order.members} other joint actions with the same noise and order.",
    )
    page.figure(
        plots.order_spread(order),
        "order-spread",
        "How far states spread apart. Orders should matter least of the three.",
    )
    steps = moments(diagnosis.horizon)
    rows = [
        [name, *(curve.at(step) for step in steps)]
        for name, curve in (("orders", order.order), ("noises", order.noise), ("actions", order.action))
    ]
    rows.append(["orders by noises", *(order.share_of_noise[step - 1] for step in steps)])
    rows.append(["orders by actions", *(order.share_of_action[step - 1] for step in steps)])
    page.table(["spread between", *map(str, steps)], rows, "Root mean square spread in standard deviations, by steps.")


def _denoising(page: Page, diagnosis: Diagnosis) -> None:
    shape = diagnosis.denoising
    if shape is None:
        return
    page.section(
        "How a next state takes shape",
        f"Agents are revealed in the order {', '.join(shape.order)}. The estimate of the next state should sharpen "
        "with each.",
    )
    page.figure(plots.stages(shape), "denoising-agents", "Error of the estimate once each agent has been revealed.")
    page.figure(
        plots.levels(shape), "denoising-levels", "The same for every level of a first step, by kind of feature."
    )


def _influence(page: Page, diagnosis: Diagnosis) -> None:
    found = diagnosis.influence
    page.section(
        "Whose action moves what",
        f"In {found.moments} real situations one agent's action is exchanged for a random one: how much does the next "
        "state change, in the world model and in the environment itself?",
    )
    if found.real is None:
        page.text("The environment does not repeat itself from its seed, so its own answer is not known.")
    page.figure(plots.influence(found), "influence", "Mean absolute change of each state feature, agent by agent.")


def _protocol(page: Page, diagnosis: Diagnosis) -> None:
    page.section("Protocol")
    page.table(
        ["episodes of", "trained on", "episodes", "steps", "mean return", "ended by the task", "segments"],
        [
            [s.name, "yes" if s.seen else "no", s.episodes, s.steps, s.mean_return, s.ends, s.segments]
            for s in diagnosis.sources
        ],
        "What was foretold.",
    )
    about = diagnosis.protocol
    machine, commit = about["machine"], about["commit"] or {"id": "unknown", "dirty": False}
    page.facts(
        dict(diagnosis.run)
        | {f"environment, {name}": value for name, value in diagnosis.config["env"].items()}
        | {f"diagnosis, {name}": value for name, value in diagnosis.settings.to_dict().items()}
        | {"dima": about["dima"], "commit": commit["id"] + " and changes" * commit["dirty"], "python": about["python"]}
        | {name: version for name, version in about["packages"].items() if version}
        | {"machine": f"{machine['system']}, {machine['cores']} cores, {machine['device']}"}
    )
