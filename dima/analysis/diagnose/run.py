"""Diagnosis of a trained world model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from dima.agent import Agent, load
from dima.analysis.diagnose import page
from dima.analysis.diagnose.bootstrap import Bootstrap
from dima.analysis.diagnose.calibration import calibration, termination_error
from dima.analysis.diagnose.config import DiagnosisConfig
from dima.analysis.diagnose.episodes import (
    EpisodeSource,
    feature_scales,
    play_fresh,
    replay_episodes,
    reservoir_sample,
)
from dima.analysis.diagnose.error import error_by_source, horizon_error, return_ranking, reward_error
from dima.analysis.diagnose.influence import influence
from dima.analysis.diagnose.results import Diagnosis, SourceSummary
from dima.analysis.diagnose.reveal import denoising_error, forecast_count, order_sensitivity
from dima.analysis.diagnose.rollouts import Forecaster, choose_horizon, cut_segments
from dima.config import user_path
from dima.data import Act
from dima.datasets.reader import Dataset, Part
from dima.envs import make_env
from dima.errors import ConfigError, UserError
from dima.experience.episodes import random_policy
from dima.registry import Named, typed_name
from dima.runtime.progress import Progress
from dima.runtime.provenance import protocol
from dima.storage.atomic import read_errors, require_writable, results_folder
from dima.storage.run_folder import RunFolder
from dima.training.run_config import OfflineConfig
from dima.world_models.base import SequentialReveal

FOLDER = "diagnosis"  # inside a run folder
_PARTS: dict[Part, str] = {"held-out": "held out", "train": "trained on"}  # of a dataset, with display names


def diagnose(
    run: str | os.PathLike[str] | Agent,
    settings: DiagnosisConfig | None = None,
    *,
    also: Sequence[str | os.PathLike[str] | Agent] = (),
    out: str | Path | None = None,
    device: str = "auto",
    task: Named | None = None,
    algorithm: Named | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Measure the errors of a run's world model, and write ``diagnosis.json`` and ``diagnosis.html``.

    Args:
        run: the run folder, or the agent loaded from it.
        settings: sample sizes.
        also: other runs on the same task whose policies play, too, besides the current policy, a random one and the
            earlier ones that the run kept.
        out: folder for the results; ``diagnosis/`` in the run folder by default.
        device: ``auto``, ``cpu`` or ``cuda``; for folders that are loaded here.
        task: the runs' task, repeated: consent to import it, where it is ``package.module:factory``.
        algorithm: likewise the run's algorithm, where it is ``package.module:Name``; also of other runs that name it.
        progress: shows each phase; silent by default.

    Raises:
        UserError: a folder is missing or damaged, has no checkpoint or no world model, is of another task, or the
            horizon is longer than any episode; as :func:`dima.load`.
    """
    agent = run if isinstance(run, Agent) else load(run, device, task=task, algorithm=algorithm)
    others = [one if isinstance(one, Agent) else _load_other(one, device, task, algorithm) for one in also]
    out = results_folder(agent.folder, FOLDER) if out is None else user_path(out)
    require_writable(out, "choose another --out")
    diagnosis = diagnose_agent(agent, settings, also=others, progress=progress)
    page.save(diagnosis, out)
    return diagnosis


def diagnose_agent(
    agent: Agent,
    settings: DiagnosisConfig | None = None,
    *,
    also: Sequence[Agent] = (),
    progress: Progress | None = None,
) -> Diagnosis:
    """Diagnose without writing anything; arguments as for :func:`diagnose`."""
    settings, progress = settings or DiagnosisConfig(), progress or Progress()
    model, env, seed = agent.world_model, agent.env, settings.seed
    make = partial(make_env, agent.config.task, agent.config.env)
    fresh = play_fresh(make, _policies(agent, also), settings.episodes, seed, agent.device, progress)
    held_out, trained_on = _recorded(agent, settings, progress)
    fresh += [held_out] if held_out is not None else []
    horizon = choose_horizon(fresh, settings.horizon)
    scales = feature_scales(env, [episode for source in fresh for episode in source.episodes])
    segments = cut_segments(fresh, env.spec, model.context, horizon, settings.segments, seed)
    names = [source.name for source in fresh]
    bootstrap = Bootstrap(segments.episode, seed)
    forecaster = Forecaster(model, agent.device, seed, settings.batch)

    with progress.phase("forecast"):
        predicted, reconstructed = forecaster.forecast(segments), forecaster.reconstruct(segments)
    error = horizon_error(predicted, reconstructed, segments, scales, bootstrap)
    error.by_source.update(error_by_source(predicted, segments, scales, names, seed))
    sources = [_summary(source, int((segments.source == n).sum())) for n, source in enumerate(fresh)]
    with progress.phase("forecast training episodes"):
        if trained_on is not None and max(map(len, trained_on.episodes)) >= horizon:
            old = cut_segments([trained_on], env.spec, model.context, horizon, settings.segments, seed)
            error.by_source.update(error_by_source(forecaster.forecast(old), old, scales, [trained_on.name], seed))
            sources.append(_summary(trained_on, len(old)))
    with progress.phase("sample forecasts"):
        many = segments.subset(settings.calibration_segments)
        sampled = forecaster.sample(many, settings.samples)
        calibrated = calibration(sampled, many, scales, Bootstrap(many.episode, seed), seed)
    few = segments.subset(settings.starts)
    order = denoising = None
    if isinstance(model, SequentialReveal):
        with progress.phase("compare orders", forecast_count(env.spec.n_agents, settings.orders)) as advance:
            order = order_sensitivity(forecaster, few, scales, settings.orders, seed, advance)
        with progress.phase("denoise"):
            denoising = denoising_error(forecaster, few, scales, seed)
    with progress.phase("replace actions", settings.starts) as advance:
        influences = influence(forecaster, env, fresh, scales, settings.starts, advance)
    config = agent.config
    return Diagnosis(
        run={
            "task": config.task,
            "algorithm": config.algorithm,
            "preset": config.preset,
            "seed": config.seed,
            "steps": agent.steps,
            **({"simulator": agent.simulator} if agent.simulator else {}),
        },
        settings=settings.override({"horizon": horizon}),
        config=config.to_dict(),
        protocol=protocol(str(agent.device)),
        sources=sources,
        error=error,
        calibration=calibrated,
        reward=reward_error(predicted, segments, bootstrap, seed),
        termination=termination_error(predicted, segments),
        returns=return_ranking(predicted, segments, names, bootstrap, seed),
        order=order,
        denoising=denoising,
        influence=influences,
    )


def _load_other(run: str | os.PathLike[str], device: str, task: Named | None, algorithm: Named | None) -> Agent:
    """Load another run, whose algorithm the user agreed to if it is the one that was typed."""
    with RunFolder.open(run) as folder:
        named = folder.config().get("algorithm")
    return load(run, device, task=task, algorithm=algorithm if typed_name(algorithm) == named else None)


def _policies(agent: Agent, also: Sequence[Agent]) -> Mapping[str, Act]:
    """Policies that play fresh episodes, by display name."""
    policies: dict[str, Act] = {
        "policy, drawn": agent.algorithm.act,
        "policy, mode": partial(agent.algorithm.act, mode=True),
        "random": random_policy(agent.env.spec),
    }
    policies |= {f"policy at {steps:,} steps": act for steps, act in agent.earlier_policies().items()}
    for other in also:
        name = f"{other.folder.name} at {other.steps:,} steps, drawn"
        if (other.config.task, other.config.env) != (agent.config.task, agent.config.env):
            raise ConfigError(
                f"also = {other.folder} is a run of {other.config.task} ({other.config.env}), this one of "
                f"{agent.config.task} ({agent.config.env}): give runs of the same task and settings"
            )
        if name in policies:
            raise ConfigError(f"also = {other.folder} is given twice, or another folder of its name: rename one")
        policies[name] = other.algorithm.act
    return policies


def _recorded(
    agent: Agent, settings: DiagnosisConfig, progress: Progress
) -> tuple[EpisodeSource | None, EpisodeSource | None]:
    """Recorded episodes: held out from the world model, and trained on; None where there are none."""
    if isinstance(agent.config, OfflineConfig):
        try:
            dataset = Dataset.open(agent.config.dataset)
            dataset.require(agent.config.task, agent.config.env, agent.env.spec)
            parts = {
                part: reservoir_sample(dataset.episodes(part), settings.episodes, settings.seed) for part in _PARTS
            }
        except UserError as error:  # the policies can still play
            progress.warn(f"episodes of the dataset are left out: {error}")
            return None, None
        held_out, trained_on = (
            EpisodeSource(f"dataset ({shown})", parts[part], trained_on=part == "train") if parts[part] else None
            for part, shown in _PARTS.items()
        )
        return held_out, trained_on
    with RunFolder.open(agent.folder) as folder, read_errors(f"{agent.folder}:", folder.mismatch):
        chunks = (chunk for _, chunk in folder.load().chunks)
        episodes = reservoir_sample(replay_episodes(chunks), 2 * settings.episodes, settings.seed)
    return None, EpisodeSource("replay (trained on)", episodes, trained_on=True) if episodes else None


def _summary(source: EpisodeSource, segments: int) -> SourceSummary:
    returns = [episode.team_return for episode in source.episodes]
    return SourceSummary(
        name=source.name,
        trained_on=source.trained_on,
        episodes=len(returns),
        steps=sum(map(len, source.episodes)),
        mean_return=sum(returns) / len(returns),
        terminations=sum(bool(episode.terminated[-1]) for episode in source.episodes),
        segments=segments,
        seeds=list(source.seeds),
    )
