"""Diagnosis as ``diagnosis.json`` and as a self-contained page with plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dima.analysis.diagnose import plots
from dima.analysis.diagnose.bootstrap import CONFIDENCE, Curve
from dima.analysis.diagnose.calibration import THRESHOLD
from dima.analysis.diagnose.error import MODEL, PERSISTENCE
from dima.analysis.diagnose.results import Diagnosis, summary_steps
from dima.analysis.html.page import Page
from dima.analysis.targets import OBSERVATIONS, SINGULAR, STATE
from dima.storage.atomic import write_errors, write_text

DATA, PAGE = "diagnosis.json", "diagnosis.html"
_AVERAGED = {STATE: "state features", OBSERVATIONS: "each agent's observation features and then over agents"}
_LOG_RATIO = 10  # between the highest and the lowest curve, above which the scale is logarithmic


def save(diagnosis: Diagnosis, folder: Path) -> Path:
    """Write ``diagnosis.json``, ``diagnosis.html`` and ``plots/``; returns the page's path.

    Raises:
        RunFolderError: the disk is full or read-only.
    """
    with write_errors(folder, "choose another --out"):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / DATA, json.dumps(diagnosis.to_dict(), indent=1, allow_nan=False) + "\n")
    build_page(diagnosis).save(folder / PAGE, plots=True)
    return folder / PAGE


def build_page(diagnosis: Diagnosis) -> Page:
    """The page, without writing it."""
    run, fresh = diagnosis.run, [source for source in diagnosis.sources if not source.trained_on]
    page = Page(
        f"World-model diagnosis: {run['algorithm']} on {run['task']}",
        f"After {run['steps']:,} environment steps. {sum(s.segments for s in fresh)} segments of {diagnosis.horizon} "
        f"steps, cut from {sum(s.episodes for s in fresh)} episodes that the world model was not trained on, are "
        "forecast from their first step and the real actions. Bands and ranges in brackets are "
        f"{CONFIDENCE:.0%} bootstrap intervals over episodes.",
        diagnosis.verdicts,
    )
    page.section("Numbers")
    page.facts(dict(sentence.split(": ", 1) for sentence in diagnosis.findings))
    for part in (_error, _calibration, _reward, _termination, _returns, _order, _denoising, _influence, _protocol):
        part(page, diagnosis)
    return page


def _error(page: Page, diagnosis: Diagnosis) -> None:
    error = diagnosis.error
    main = error.main
    averaged = ", or ".join(f"over {_AVERAGED[target]}" for target in error.targets)
    page.section(
        "Error over the horizon",
        f"Mean absolute error (L1) of one sampled forecast of each segment: {averaged}, in standard deviations of the "
        "features in these episodes. Persistence predicts that nothing changes after the start. Reconstruction encodes "
        f"and decodes the real {SINGULAR[main]} of each step: the error that remains without forecasting.",
    )
    for target in error.targets:
        predictors = error.standardised[target]
        page.figure(plots.error_curves(predictors, False), f"error-{target}", f"Error of the {target} at each step.")
    by_part = {
        (target, each): {name: error.standardised[name] for name in error.parts(target)}
        for target, each in ((STATE, "kind of state feature"), (OBSERVATIONS, "agent's observation"))
        if len(error.parts(target)) > 1
    }
    for (target, each), parts in by_part.items():
        page.figure(plots.error_by_part(parts, False), f"error-{target}-parts", f"Error at each step, by {each}.")
    sources = {name: curves[main] for name, curves in error.by_source.items()}
    page.figure(
        plots.curves(sources, "L1 error at each step", log=_far_apart(sources)),
        "error-sources",
        f"{SINGULAR[main].capitalize()} error by the policy that played the episodes. An overfitted model is better on "
        "those it was trained on.",
    )
    with page.fold("Errors summed over steps"):
        for target in error.targets:
            summed = plots.error_curves(error.standardised[target], True)
            page.figure(summed, f"error-{target}-summed", f"Error of the {target}, summed over steps.")
        for (target, each), parts in by_part.items():
            summed = plots.error_by_part(parts, True)
            page.figure(summed, f"error-{target}-parts-summed", f"Error summed over steps, by {each}.")
    with page.fold("Errors as tables"):
        _error_tables(page, diagnosis)


def _error_tables(page: Page, diagnosis: Diagnosis) -> None:
    error, steps = diagnosis.error, summary_steps(diagnosis.horizon)
    head = ["", *(f"step {step}" for step in steps), *(f"sum to {step}" for step in steps[1:])]
    targets = [name for name in error.raw if name in error.targets or len(error.parts(name.partition(": ")[0])) > 1]
    for unit, table in (("standard deviations", error.standardised), ("the environment's units", error.raw)):
        rows = [
            [f"{target}, {who}" if who != MODEL else target]
            + [table[target][who].step.at(step) for step in steps]
            + [table[target][who].cumulative.at(step) for step in steps[1:]]
            for target in targets
            for who in ((MODEL, PERSISTENCE) if target in error.targets else (MODEL,))
        ]
        page.table(head, rows, f"Mean absolute error in {unit}, at single steps and summed over steps.")
    if error.segments[-1] < error.segments[0]:
        lasting = ", ".join(f"{error.segments[step - 1]} have {step} steps" for step in steps)
        page.text(f"Number of segments: {lasting}; the others terminated earlier.")


def _far_apart(curves: Mapping[str, Curve]) -> bool:
    """Whether some curves would be flattened by others on a linear scale."""
    highest = [
        max(known) for curve in curves.values() if (known := [value for value in curve.mean if value is not None])
    ]
    return len(highest) > 1 and 0 < _LOG_RATIO * min(highest) < max(highest)


def _calibration(page: Page, diagnosis: Diagnosis) -> None:
    found = diagnosis.calibration
    if not found:
        page.section("Calibration", "All features are constant in these episodes.")
        return
    samples = next(iter(found.values())).samples
    page.section(
        "Calibration",
        f"{samples} forecasts of each segment that differ in their noise alone. If they are calibrated, the true value "
        "has every rank among them equally often (dotted line). A U-shaped histogram means overconfidence, a dome "
        "underconfidence.",
    )
    page.figure(plots.rank_histogram(found), "rank-histogram", "Rank histogram of the true value among the forecasts.")
    page.figure(plots.coverage(found), "coverage", "Coverage of the central intervals; dotted: nominal coverage.")
    page.figure(
        plots.spread_skill(found),
        "spread-skill",
        "Standard deviation of the forecasts and root mean square error of their mean; equal if calibrated.",
    )
    page.facts(
        {
            f"Correlation of standard deviation and error, {target}": result.std_error_correlation
            for target, result in found.items()
        }
    )


def _reward(page: Page, diagnosis: Diagnosis) -> None:
    reward = diagnosis.reward
    page.section(
        "Reward",
        "Predicted rewards of the same forecasts, in the environment's units. The baseline predicts the mean reward of "
        "these segments.",
    )
    page.figure(plots.reward_error(reward), "reward-error", "Error of the reward at each step, and of the sum so far.")
    page.figure(plots.reward_scatter(reward), "reward-steps", "Predicted and real reward of single steps.")
    page.figure(
        plots.reward_bias(reward),
        "reward-bias",
        "Bias of the reward: above zero the model is optimistic, below zero pessimistic.",
    )
    page.facts({"Correlation": reward.correlation, "R²": reward.r2})


def _termination(page: Page, diagnosis: Diagnosis) -> None:
    found = diagnosis.termination
    page.section("Termination", "A time limit is not a termination.")
    if not found.terminations:
        page.text(f"There is no termination in the {found.steps:,} real steps, so recall is undefined.")
        if not found.predicted:
            page.text("The model predicted none.")
            return
    page.facts(
        {
            "Steps": found.steps,
            "Real terminations": found.terminations,
            f"Predicted terminations (p ≥ {THRESHOLD})": found.predicted,
            "Precision": found.precision,
            "Recall": found.recall,
            "Brier score": found.brier,
        }
    )
    page.figure(
        plots.reliability(found),
        "termination-reliability",
        "Reliability diagram: share of steps that terminated by predicted probability; dotted: calibrated.",
    )


def _returns(page: Page, diagnosis: Diagnosis) -> None:
    returns = diagnosis.returns
    page.section(
        "Return",
        "To learn in imagination, a policy needs the world model to rank behaviours as the environment does. Imagined "
        "and real undiscounted returns of the same actions.",
    )
    page.figure(plots.return_scatter(returns), "return-scatter", f"Returns over {diagnosis.horizon} steps.")
    page.figure(
        plots.return_correlation(returns),
        "return-correlation",
        "Rank correlation of imagined and real returns over the horizon, by policy.",
    )


def _order(page: Page, diagnosis: Diagnosis) -> None:
    order = diagnosis.order
    if order is None:
        page.section("Order of the agents", "This world model processes all agents at once.")
        return
    page.section(
        "Order of the agents",
        f"The same segments under {len(order.orders)} orders of the agents with the same noise, under {order.variants} "
        f"noises in one order, and under {order.variants} other joint actions with the same noise and order. The order "
        "should matter least.",
    )
    page.figure(
        plots.order_sensitivity(order),
        "order-sensitivity",
        "Standard deviation of the predicted state over orders, noises and actions.",
    )
    steps = summary_steps(diagnosis.horizon)
    rows = [
        [name, *(curve.at(step) for step in steps)]
        for name, curve in (("orders", order.order), ("noises", order.noise), ("actions", order.action))
    ]
    rows.append(["ratio of orders to noises", *(order.order_noise_ratio[step - 1] for step in steps)])
    rows.append(["ratio of orders to actions", *(order.order_action_ratio[step - 1] for step in steps)])
    with page.fold("Variation as a table"):
        page.table(
            ["variation of", *(f"step {step}" for step in steps)],
            rows,
            "Standard deviation of the predicted state, in standard deviations of the data.",
        )


def _denoising(page: Page, diagnosis: Diagnosis) -> None:
    denoising = diagnosis.denoising
    if denoising is None:
        return
    page.section(
        "Error during denoising",
        f"Agents are revealed in the order {', '.join(denoising.order)}. The error of the estimated next state should "
        "fall with each.",
    )
    page.figure(plots.stages(denoising), "denoising-agents", "Error of the estimate after each agent is revealed.")
    page.figure(
        plots.noise_levels(denoising),
        "denoising-levels",
        "Error at each noise level of the first step, by kind of feature.",
    )


def _influence(page: Page, diagnosis: Diagnosis) -> None:
    found, watched = diagnosis.influence, SINGULAR[diagnosis.error.main]
    page.section(
        "Influence of each agent's action",
        f"At {found.time_steps} real time steps one agent's action is replaced by a random one. How much does the next "
        f"{watched} change, in the world model and in the environment?",
    )
    if found.real is None:
        page.text("The environment is not reproducible from its seed, so the real influence is unknown.")
    page.figure(plots.influence(found), "influence", f"Mean absolute change of each {watched} feature, by agent.")


def _protocol(page: Page, diagnosis: Diagnosis) -> None:
    page.section("Protocol")
    page.table(
        ["episodes of", "trained on", "episodes", "steps", "mean return", "terminations", "segments"],
        [
            [s.name, "yes" if s.trained_on else "no", s.episodes, s.steps, s.mean_return, s.terminations, s.segments]
            for s in diagnosis.sources
        ],
        "Episodes that segments were cut from.",
    )
    about = diagnosis.protocol
    machine, commit = about["machine"], about["commit"] or {"id": "unknown", "dirty": False}
    page.facts(
        dict(diagnosis.run)
        | {f"environment, {name}": value for name, value in diagnosis.config["env"].items()}
        | {f"diagnosis, {name}": value for name, value in diagnosis.settings.to_dict().items()}
        | {
            "dima": about["dima"],
            "commit": commit["id"] + " and uncommitted changes" * commit["dirty"],
            "python": about["python"],
        }
        | {name: version for name, version in about["packages"].items() if version}
        | {"machine": f"{machine['system']}, {machine['cores']} cores, {machine['device']}"}
    )
