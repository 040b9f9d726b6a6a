"""Commands on runs: train, resume, evaluate."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dima.cli.answer import answer
from dima.cli.help import asks_short_help, help_text
from dima.cli.options import name_of, parse
from dima.cli.positional import Device, choose, preset_values, the_task
from dima.config import Config, Count, Whole
from dima.errors import ConfigError
from dima.runtime.summary import Summary, seeds_table, settings_line
from dima.runtime.verdicts import Verdict
from dima.training.run_config import TrainConfig, build_config

if TYPE_CHECKING:
    from dima.agent import Agent


@dataclass(frozen=True)
class TrainOptions:
    config: Annotated[TrainConfig, tyro.conf.arg(name="", prefix_name=False)]
    seeds: tuple[Whole, ...] = ()  # train with these seeds in parallel, in a process and a run folder each
    callbacks: tuple[str, ...] = ()  # of your own, package.module:Name of each, or dima:KeepBest
    overwrite: bool = False  # replace an existing run
    quiet: bool = False  # print nothing but warnings and errors
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class ResumeOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    steps: Count | None = None  # total environment steps; default: as configured
    iterations: Count | None = None  # total iterations, for a run of `dima fit`
    task: str | None = None  # the run's task, repeated: consent to import it if it is package.module:factory
    algorithm: str | None = None  # likewise the run's algorithm, if it is package.module:Name
    callbacks: tuple[str, ...] = ()  # those of the run, repeated; none: continue without them
    quiet: bool = False  # print nothing but warnings and errors
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class EvaluateOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    episodes: Count = 20  # number of episodes, played with the policy's mode
    seed: Whole | None = None  # seed of the episodes; default: the run's evaluation seed
    best: bool = False  # the policy of the best evaluation, which the callback dima:KeepBest kept
    task: str | None = None  # the run's task, repeated: consent to import it if it is package.module:factory
    algorithm: str | None = None  # likewise the run's algorithm, if it is package.module:Name
    device: Device = "auto"  # device of the policy
    video: bool = False  # also film the first episode, to videos/ in the run folder
    webp: bool = False  # film it also as an animated WebP, for READMEs
    json: bool = False  # print one JSON object


def train(args: Sequence[str]) -> int:
    choice = choose(args, TrainOptions)
    choice.names["task"] = the_task(choice, args, "dima train")
    if asks_short_help(args):  # without PyTorch
        print(help_text("dima train", TrainOptions, values=preset_values(choice)))
        return 0
    config = build_config(**choice.names)
    options = parse(TrainOptions, choice.rest, "dima train TASK", TrainOptions(config))

    given = {name_of(arg) for arg in args if arg.startswith("--")}
    if {"seed", "seeds"} <= given:
        raise ConfigError("--seed and --seeds exclude each other: name all seeds behind --seeds")
    if "seeds" in given:
        return _train_seeds(options)

    from dima.runtime.progress import choose_progress
    from dima.training.api import train as run
    from dima.training.callbacks import load_callbacks

    summary = run(
        options.config,
        callbacks=load_callbacks(options.callbacks),
        overwrite=options.overwrite,
        progress=choose_progress(options.quiet),
    )
    return tell(summary, options.quiet, options.json)


def tell(summary: Summary, quiet: bool, as_json: bool) -> int:
    """Print how a run ended; the exit status."""
    if as_json:
        answer(summary.to_dict())
    elif not quiet:
        print(summary.table())
    return 0 if summary.finished else 130


def _train_seeds(options: TrainOptions) -> int:
    from dima.runtime.multi_progress import choose_runs_progress
    from dima.training.multi_seed import train_seeds

    together = choose_runs_progress(options.quiet)
    outcomes = train_seeds(
        options.config, options.seeds, overwrite=options.overwrite, callbacks=options.callbacks, progress=together
    )
    summaries = [outcome.summary for outcome in outcomes if outcome.summary is not None]
    if options.json:
        errors = {str(outcome.seed): outcome.error for outcome in outcomes if outcome.error}
        answer({"runs": [summary.to_dict() for summary in summaries], "errors": errors})
    elif not options.quiet:
        print(seeds_table(summaries))
    for outcome in outcomes:
        if outcome.error:
            print(f"dima: seed {outcome.seed}: {outcome.error}", file=sys.stderr)
    if any(outcome.error and not outcome.stopped for outcome in outcomes):
        return 2
    return 0 if all(outcome.summary is not None and outcome.summary.finished for outcome in outcomes) else 130


def resume(args: Sequence[str]) -> int:
    options = parse(ResumeOptions, args, "dima resume")

    from dima.runtime.progress import choose_progress
    from dima.training.api import resume as run
    from dima.training.callbacks import load_callbacks

    without = options.callbacks == ("none",)
    callbacks = load_callbacks(() if without else options.callbacks)
    progress = choose_progress(options.quiet)
    summary = run(
        options.run,
        steps=options.steps,
        iterations=options.iterations,
        task=options.task,
        algorithm=options.algorithm,
        callbacks=callbacks if options.callbacks else None,
        progress=progress,
    )
    return tell(summary, options.quiet, options.json)


def evaluate(args: Sequence[str]) -> int:
    options = parse(EvaluateOptions, args, "dima evaluate")

    from dima.agent import load

    agent = load(options.run, options.device, best=options.best, task=options.task, algorithm=options.algorithm)
    path = _film_path(agent, options) if options.video or options.webp else None
    result = agent.evaluate(options.episodes, options.seed)  # before the film, to which no numbers shall be lost
    config = agent.config
    untrained = Verdict("grave", "its policy is untrained: the run fitted a world model to a dataset")
    verdicts = [] if agent.trained else [untrained]
    if options.json:
        facts = {"run": options.run, "task": config.task, "env": config.env.to_dict(), "trained": agent.trained}
        numbers = {"mean": result.mean, "std": result.std, "returns": result.returns, "lengths": result.lengths}
        numbers |= {"metrics": result.metrics}
        facts |= {"mujoco": agent.mujoco, "verdicts": [verdict.to_dict() for verdict in verdicts]}
        facts |= numbers | {"episodes": options.episodes}
        try:
            facts |= {} if path is None else {"video": str(_film(agent, path, options))}
        finally:
            answer(facts)
    else:
        print("".join(f"{verdict}\n" for verdict in verdicts), end="")
        conditions = ", ".join(filter(None, (settings_line(config.env.to_dict()), agent.simulator)))
        print(f"{config.algorithm} on {config.task} ({conditions})")
        print(f"team return {result.mean:,.1f} ± {result.std:,.1f} over {options.episodes} episodes, ", end="")
        print(f"lowest {min(result.returns):,.1f}, highest {max(result.returns):,.1f}")
        print("".join(f"{name} {mean:,.3g} on average\n" for name, mean in result.means.items()), end="")
        if path is not None:
            sys.stdout.flush()
            print(f"film: {_film(agent, path, options)}")
    return 0


def _film_path(agent: Agent, options: EvaluateOptions) -> Path:
    """Where the film goes in the run folder."""
    from dima.storage.atomic import results_folder

    name = "evaluate.mp4" if options.seed is None else f"evaluate-seed{options.seed}.mp4"
    return results_folder(agent.folder, "videos") / name


def _film(agent: Agent, path: Path, options: EvaluateOptions) -> Path:
    """Film the first episode."""
    from dima.analysis.imagine.run import film
    from dima.runtime.progress import choose_progress

    return film(agent, path, seed=options.seed, webp=options.webp, progress=choose_progress(options.json))
