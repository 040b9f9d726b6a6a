"""The whole diagnosis of a trained team's world model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from dima.agent import Agent, load
from dima.analysis.diagnose.bootstrap import Resampling
from dima.analysis.diagnose.calibration import calibration
from dima.analysis.diagnose.config import DiagnosisConfig
from dima.analysis.diagnose.denoising import taking_shape
from dima.analysis.diagnose.episodes import Source, play_fresh, some_of, stored_episodes
from dima.analysis.diagnose.error import by_source, horizon_error
from dima.analysis.diagnose.forecasts import Foreteller
from dima.analysis.diagnose.influence import influence
from dima.analysis.diagnose.order import future_count, order_spread
from dima.analysis.diagnose.results import Diagnosis, SourceFacts
from dima.analysis.diagnose.reward import reward_error
from dima.analysis.diagnose.segments import choose_horizon, cut
from dima.analysis.diagnose.termination import termination
from dima.analysis.diagnose.units import measure
from dima.analysis.diagnose.value import value_ranking
from dima.datasets.reader import Dataset, Part
from dima.envs import make_env
from dima.errors import ConfigError, UserError
from dima.experience.collector import Act, random_policy
from dima.runtime.progress import Progress
from dima.runtime.provenance import protocol
from dima.storage.atomic import require_place
from dima.storage.run_folder import RunFolder
from dima.training.run_config import OfflineConfig
from dima.world_models.base import SequentialReveal

FOLDER = "diagnosis"  # inside a run folder
_PARTS: dict[Part, str] = {"held-out": "held out", "train": "trained on"}  # of a dataset, and how they are shown


def diagnose(
    run: str | Path,
    settings: DiagnosisConfig | None = None,
    *,
    also: Sequence[str | Path] = (),
    out: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Diagnosis:
    """Look at what the world model of a run gets right and wrong, and write ``diagnosis.json`` and ``.html``.

    Args:
        run: the run folder.
        settings: how much is played and foretold.
        also: folders of other runs on the same task, whose policies play too, besides the current policy, a random one
            and the earlier ones that the run kept.
        out: folder for the results; ``diagnosis/`` in the run folder by default.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: told of each phase; silent by default.

    Raises:
        UserError: a folder is missing or damaged, has no checkpoint or no world model, is of another task, or the
            horizon is longer than any episode.
    """
    agent, out = load(run, device), Path(run, FOLDER) if out is None else Path(out)
    require_place(out, "choose another --out")
    found = diagnose_agent(agent, settings, also=[load(other, device) for other in also], progress=progress)
    found.save(out)
    return found


def diagnose_agent(
    agent: Agent,
    settings: DiagnosisConfig | None = None,
    *,
    also: Sequence[Agent] = (),
    progress: Progress | None = None,
) -> Diagnosis:
    """The numbers alone; arguments as for :func:`diagnose`."""
    settings, progress = settings or DiagnosisConfig(), progress or Progress()
    model, env, seed = agent.world_model, agent.env, settings.seed
    make = partial(make_env, agent.config.task, agent.config.env)
    fresh = play_fresh(make, _policies(agent, also), settings.episodes, seed, agent.device, progress)
    held_out, trained = _recorded(agent, settings, progress)
    fresh += [held_out] if held_out is not None else []
    horizon = choose_horizon(fresh, settings.horizon)
    units = measure(env, [episode for source in fresh for episode in source.episodes])
    segments = cut(fresh, env.spec, model.context, horizon, settings.segments, seed)
    names = [source.name for source in fresh]
    resampling = Resampling(segments.episode, seed)
    foreteller = Foreteller(model, agent.device, seed, settings.batch)

    with progress.phase("foretell"):
        told, real = foreteller.foretell(segments), foreteller.reconstruct(segments)
    error = horizon_error(told, real, segments, units, resampling)
    error.by_source.update(by_source(told, segments, units, names, seed))
    sources = [_facts(source, int((segments.source == n).sum())) for n, source in enumerate(fresh)]
    with progress.phase("foretell what was trained on"):
        if trained is not None and max(map(len, trained.episodes)) >= horizon:
            old = cut([trained], env.spec, model.context, horizon, settings.segments, seed)
            error.by_source.update(by_source(foreteller.foretell(old), old, units, [trained.name], seed))
            sources.append(_facts(trained, len(old)))
    with progress.phase("draw futures"):
        many = segments.spread_out(settings.calibrated)
        futures = foreteller.futures(many, settings.futures)
        calibrated = calibration(futures, many, units, Resampling(many.episode, seed), seed)
    few = segments.spread_out(settings.starts)
    order = shape = None
    if isinstance(model, SequentialReveal):
        with progress.phase("compare orders", future_count(env.spec.n_agents, settings.orders)) as advance:
            order = order_spread(foreteller, few, units, settings.orders, seed, advance)
        with progress.phase("watch states take shape"):
            shape = taking_shape(foreteller, few, units, seed)
    with progress.phase("exchange actions", settings.starts) as advance:
        influenced = influence(foreteller, env, fresh, units, settings.starts, advance)
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
        reward=reward_error(told, segments, resampling, seed),
        termination=termination(told, segments),
        value=value_ranking(told, segments, names, resampling, seed),
        order=order,
        denoising=shape,
        influence=influenced,
    )


def _policies(agent: Agent, also: Sequence[Agent]) -> Mapping[str, Act]:
    """Who plays the fresh episodes."""
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


def _recorded(agent: Agent, settings: DiagnosisConfig, progress: Progress) -> tuple[Source | None, Source | None]:
    """Episodes kept from the world model, and episodes it was trained on; None where there are none."""
    if isinstance(agent.config, OfflineConfig):
        try:
            dataset = Dataset.open(agent.config.dataset)
            dataset.require(agent.config.task, agent.config.env, agent.env.spec)
            parts = {part: some_of(dataset.episodes(part), settings.episodes, settings.seed) for part in _PARTS}
        except UserError as error:  # the policies can still play
            progress.message(f"episodes of the dataset are left out: {error}")
            return None, None
        held_out, trained = (
            Source(f"dataset ({told})", parts[part], seen=part == "train") if parts[part] else None
            for part, told in _PARTS.items()
        )
        return held_out, trained
    with RunFolder.open(agent.folder) as folder:
        chunks = (chunk for _, chunk in folder.load().chunks)
        episodes = some_of(stored_episodes(chunks), 2 * settings.episodes, settings.seed)
    return None, Source("replay (trained on)", episodes, seen=True) if episodes else None


def _facts(source: Source, segments: int) -> SourceFacts:
    returns = [episode.team_return for episode in source.episodes]
    return SourceFacts(
        name=source.name,
        seen=source.seen,
        episodes=len(returns),
        steps=sum(map(len, source.episodes)),
        mean_return=sum(returns) / len(returns),
        ends=sum(bool(episode.terminated[-1]) for episode in source.episodes),
        segments=segments,
        seeds=list(source.seeds),
    )
