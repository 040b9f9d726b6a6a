"""Errors of predicted states, observations, rewards and returns over the horizon.

State and observation errors are mean absolute errors (L1), as in the DIMA paper's evaluation, next to two baselines:
persistence, which predicts that nothing changes, and the model's reconstruction of the real states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dima.analysis.diagnose.bootstrap import Bootstrap, Curve, pearson, spearman
from dima.analysis.diagnose.episodes import FeatureScales
from dima.analysis.diagnose.rollouts import Predictions, Segments
from dima.analysis.targets import OBSERVATIONS, STATE

MODEL, PERSISTENCE, RECONSTRUCTION = "model", "persistence", "reconstruction"
OLD_NAMES = {"nothing changes": PERSISTENCE}  # in results that earlier versions wrote
MAX_POINTS = 400  # of a scatter plot
_RANK_RESAMPLES = 200  # a rank correlation is slow to resample


@dataclass(frozen=True)
class ErrorCurves:
    """Error after each step, and summed over the steps up to it; means over the segments that have the step."""

    step: Curve
    cumulative: Curve


Table = dict[str, dict[str, ErrorCurves]]  # by target, such as "state: joint positions", then by predictor


@dataclass(frozen=True)
class HorizonError:
    """Mean absolute errors; of the observations, averaged over an agent's features, then over agents."""

    standardised: Table  # in standard deviations of the data
    raw: Table  # in the environment's units
    advantage: dict[str, Curve]  # persistence's error of a step minus the model's, standardised, by target
    by_source: dict[str, dict[str, Curve]]  # the model's error of a step, standardised, by source, then target
    segments: list[int]  # number of segments that have each step

    @property
    def targets(self) -> list[str]:
        """What the model predicts: the state, where it does, and observations."""
        return [target for target in (STATE, OBSERVATIONS) if target in self.standardised]

    @property
    def main(self) -> str:
        """The target of results that are about one only."""
        return self.targets[0]

    def parts(self, target: str) -> list[str]:
        """Targets that are a part of ``target``: groups of state features, or agents' observations."""
        return [name for name in self.standardised if name.startswith(f"{target}: ")]


def horizon_error(
    predicted: Predictions,
    reconstructed: Predictions,
    segments: Segments,
    scales: FeatureScales,
    bootstrap: Bootstrap,
) -> HorizonError:
    """Compute state and observation errors over the horizon, ``by_source`` still empty.

    Args:
        predicted: one forecast of each segment.
        reconstructed: of the segments' real states.
        segments: what really happened.
        scales: of the features.
        bootstrap: of these segments.
    """
    persistent = Predictions(
        state=segments.start.state[:, -1:].expand_as(segments.state),
        obs=segments.start.obs[:, -1:].expand_as(segments.obs),
        reward=predicted.reward,
        continuation=predicted.continuation,
    )
    predictors = {MODEL: predicted, PERSISTENCE: persistent, RECONSTRUCTION: reconstructed}

    def table(errors: dict[str, dict[str, Tensor]]) -> Table:
        return {
            target: {
                who: ErrorCurves(
                    bootstrap.mean(errors[who][target], segments.alive),
                    bootstrap.mean(errors[who][target].cumsum(1), segments.alive),
                )
                for who in errors
            }
            for target in errors[MODEL]
        }

    standardised, raw = (
        {who: absolute_errors(values, segments, scales, in_units) for who, values in predictors.items()}
        for in_units in (False, True)
    )
    advantage = {target: standardised[PERSISTENCE][target] - error for target, error in standardised[MODEL].items()}
    return HorizonError(
        standardised=table(standardised),
        raw=table(raw),
        advantage={target: bootstrap.mean(values, segments.alive) for target, values in advantage.items()},
        by_source={},
        segments=segments.alive.sum(0).tolist(),
    )


def error_by_source(
    predicted: Predictions, segments: Segments, scales: FeatureScales, names: Sequence[str], seed: int
) -> dict[str, dict[str, Curve]]:
    """The model's standardised error of a step, separately for the segments of each source."""
    errors = absolute_errors(predicted, segments, scales)
    curves = {}
    for index, name in enumerate(names):
        chosen = segments.source == index
        if chosen.any():
            bootstrap = Bootstrap(segments.episode[chosen], seed)
            curves[name] = {
                target: bootstrap.mean(errors[target][chosen], segments.alive[chosen])
                for target in (STATE, OBSERVATIONS)
                if target in errors
            }
    return curves


def absolute_errors(
    predicted: Predictions, segments: Segments, scales: FeatureScales, raw: bool = False
) -> dict[str, Tensor]:
    """Mean absolute error (B, H) of the state, of each feature group, of the observations and of each agent's.

    Without the state where it is not predicted.

    Args:
        predicted: the predictions.
        segments: what really happened.
        scales: of the features.
        raw: in the environment's units instead of standard deviations.
    """
    errors = {}
    if predicted.state is not None:
        state = (predicted.state - segments.state).abs() / (1.0 if raw else scales.state_scale)
        errors[STATE] = state.mean(-1)
        errors |= {f"{STATE}: {name}": state[..., features].mean(-1) for name, features in scales.groups.items()}
    obs = (predicted.obs - segments.obs).abs() / (1.0 if raw else scales.obs_scale)
    per_agent = (obs * scales.obs_valid).sum(-1) / scales.obs_valid.sum(-1)  # (B, H, N)
    errors[OBSERVATIONS] = per_agent.mean(-1)
    return errors | {f"{OBSERVATIONS}: {name}": per_agent[..., n] for n, name in enumerate(scales.agents)}


@dataclass(frozen=True)
class RewardError:
    """Errors of predicted rewards in the environment's units; the baseline predicts the segments' mean reward."""

    step: Curve  # mean absolute error of a step's reward
    cumulative: Curve  # mean absolute error of the sum of rewards so far
    baseline_step: Curve
    baseline_cumulative: Curve
    bias: Curve  # mean of predicted minus real
    correlation: float | None  # between predicted and real reward of a step
    r2: float | None  # coefficient of determination of a step's reward; None where the real reward is constant
    real: list[float]  # a random sample of steps
    predicted: list[float]  # of the same steps


def reward_error(predicted: Predictions, segments: Segments, bootstrap: Bootstrap, seed: int) -> RewardError:
    """Compare predicted and real rewards of all real steps."""
    alive, real = segments.alive, segments.reward
    difference = predicted.reward - real
    mean = real[alive].double().mean().float()
    baseline = (mean - real) * alive
    variance = real[alive].double().var(correction=0)
    steps = alive.nonzero()
    sample = steps[torch.randperm(len(steps), generator=torch.Generator().manual_seed(seed))[:MAX_POINTS]].unbind(1)
    return RewardError(
        step=bootstrap.mean(difference.abs(), alive),
        cumulative=bootstrap.mean(difference.cumsum(1).abs(), alive),
        baseline_step=bootstrap.mean(baseline.abs(), alive),
        baseline_cumulative=bootstrap.mean(baseline.cumsum(1).abs(), alive),
        bias=bootstrap.mean(difference, alive),
        correlation=pearson(predicted.reward[alive], real[alive]),
        r2=float(1 - difference[alive].double().square().mean() / variance) if variance > 0 else None,
        real=real[sample].tolist(),
        predicted=predicted.reward[sample].tolist(),
    )


@dataclass(frozen=True)
class ReturnRanking:
    """Rank correlation of imagined and real returns, undiscounted, of the same actions."""

    correlation: Curve  # over all segments, of the returns up to each step
    by_source: dict[str, Curve]  # among the segments of one policy, which are harder to rank
    real: list[float]  # (B,) returns over the whole segment
    imagined: list[float]  # (B,)
    source: list[str]  # (B,) name of the segment's source


def return_ranking(
    predicted: Predictions, segments: Segments, names: Sequence[str], bootstrap: Bootstrap, seed: int
) -> ReturnRanking:
    """Compare how imagined and real returns rank the segments; after its end a segment keeps its return."""
    real = (segments.reward * segments.alive).cumsum(1)
    imagined = imagined_returns(predicted)
    by_source = {}
    for index, name in enumerate(names):
        chosen = segments.source == index
        if chosen.any():
            by_source[name] = _rank_correlation(
                real[chosen], imagined[chosen], Bootstrap(segments.episode[chosen], seed)
            )
    return ReturnRanking(
        correlation=_rank_correlation(real, imagined, bootstrap),
        by_source=by_source,
        real=real[:, -1].tolist(),
        imagined=imagined[:, -1].tolist(),
        source=[names[index] for index in segments.source.tolist()],
    )


def imagined_returns(predicted: Predictions) -> Tensor:
    """(B, H) expected sum of the rewards up to each step, weighted by the predicted continuations."""
    reached = predicted.continuation.roll(1, dims=1)
    reached[:, 0] = 1
    return (predicted.reward * reached.cumprod(1)).cumsum(1)


def _rank_correlation(real: Tensor, imagined: Tensor, bootstrap: Bootstrap) -> Curve:
    x, y = real.double().numpy(), imagined.double().numpy()

    def statistic(chosen: np.ndarray) -> np.ndarray:
        return np.array([spearman(x[chosen, h], y[chosen, h]) for h in range(x.shape[1])])

    return bootstrap.statistic(statistic, _RANK_RESAMPLES)
