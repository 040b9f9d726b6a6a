"""Train, resume and fit as they are called from Python."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from dima.config import shown
from dima.errors import ConfigError
from dima.registry import Named, is_local
from dima.runtime.notebook import Notebook, in_notebook
from dima.runtime.progress import Progress, choose_progress
from dima.training import offline, online
from dima.training.callbacks import Callback
from dima.training.factories import Task
from dima.training.run import Run
from dima.training.run_config import OfflineConfig, RunConfig, TrainConfig, build_config, changed


def train(
    task: Task | RunConfig,
    algorithm: Named | None = None,
    preset: str | None = None,
    *,
    seed: int | None = None,
    steps: int | None = None,
    run: str | os.PathLike[str] | None = None,
    env: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    overwrite: bool = False,
    quiet: bool = False,
    progress: Progress | bool = True,
    **settings: Any,
) -> Run:
    """Train an algorithm in an environment, in a new run folder.

    ::

        dima.train("toy/walk", algorithm="mappo", seed=1, **{"learner.ppo.clip": 0.3})
        dima.train(MyParallelEnv, env={"size": 5}, steps=20_000)

    Args:
        task: a task's name; a PettingZoo ``ParallelEnv`` class, a function that makes such an environment, or a module
            of PettingZoo; or a whole config, see :func:`dima.build_config`. A class or function that a module or a
            script defines is recorded as ``package.module:Name``, by which any process finds it again. One of a
            notebook's cell, a lambda or the like works in this process; another is given it again to resume or load
            the run: ``dima.resume(run, task=MyEnv)``.
        algorithm: name of an algorithm, or the settings class of one of your own; ``dima`` by default.
        preset: name of one of the algorithm's presets; by default ``small``, if it has that.
        seed: of all random numbers; 0 by default.
        steps: environment steps of the whole run; by default those of the preset.
        run: the run folder; by default ``runs/<task>/<algorithm>-<preset>-seed<seed>``.
        env: settings of the environment; those of a class or function may be its own keyword arguments, of JSON's
            types.
        callbacks: called after iterations and evaluations, see :mod:`dima.training.callbacks`.
        overwrite: replace an earlier run in the same folder.
        quiet: print nothing but warnings and errors.
        progress: False is ``quiet``, too; or a display of your own.
        settings: any other setting of the config, nested (``learner={"ppo": {"clip": 0.3}}``) or dotted
            (``**{"learner.ppo.clip": 0.3}``).

    Returns:
        The run: ``print(run.table())``, ``run.metrics()``, ``dima.load(run)``.

    Raises:
        UserError: a name or a setting does not exist, the environment, the folder or the device cannot be used, the
            environment violated the PettingZoo API, learning diverged or a callback failed. The last checkpoint is
            kept.
    """
    named = {"seed": seed, "steps": steps, "run": None if run is None else os.fspath(run), "env": env}
    changes = {name: value for name, value in named.items() if value is not None} | settings
    config = _config(task, algorithm, preset, changes)
    with _displayed(progress, quiet) as display:
        for what, name in (("task", config.task), ("algorithm", config.algorithm)):
            if is_local(name):
                display.message(
                    f"dima: the {what} {name} is known to this process only: another one that resumes or loads the run "
                    f"is given the object again, dima.resume(run, {what}=...)"
                )
        return Run.of(online.train(config, overwrite=overwrite, progress=display, callbacks=callbacks))


def resume(
    path: str | os.PathLike[str],
    *,
    steps: int | None = None,
    iterations: int | None = None,
    task: Named | None = None,
    algorithm: Named | None = None,
    callbacks: Sequence[Callback] | None = None,
    quiet: bool = False,
    progress: Progress | bool = True,
) -> Run:
    """Resume a run from its last saved iteration.

    Args:
        path: the run folder, or the run that :func:`train` returned.
        steps: new length of a run in the environment; by default the one it was started with. Given, it also continues
            a run that a callback stopped.
        iterations: likewise for a run that learns from a dataset.
        task: the run's task, repeated: consent to import it, where it is ``package.module:factory``; or the class or
            function itself.
        algorithm: likewise the run's algorithm, where it is ``package.module:Name``.
        callbacks: those of the run, repeated, which continue where they were; an empty list continues without them.
        quiet: print nothing but warnings and errors.
        progress: as for :func:`train`.

    Raises:
        UserError: as :func:`train`; or the folder is missing, damaged, not ours or of another version, the run is past
            ``steps`` or ``iterations`` already, its callbacks were not repeated, or its task or algorithm is code that
            the user has not agreed to run: then nothing in the folder is changed.
    """
    with _displayed(progress, quiet) as display:
        summary = online.resume(
            Path(path),
            steps=steps,
            iterations=iterations,
            task=task,
            algorithm=algorithm,
            callbacks=callbacks,
            progress=display,
        )
    return Run.of(summary)


def fit(
    config: OfflineConfig,
    *,
    callbacks: Sequence[Callback] = (),
    overwrite: bool = False,
    quiet: bool = False,
    progress: Progress | bool = True,
) -> Run:
    """Fit a world model to a dataset, in a new run folder.

    Args:
        config: of the run, see :func:`dima.fit_config`.
        callbacks: as for :func:`train`.
        overwrite: replace an earlier run in the same folder.
        quiet: print nothing but warnings and errors.
        progress: as for :func:`train`.

    Raises:
        UserError: the dataset is of another task or damaged, the folder or the device cannot be used, or learning
            diverged. The last checkpoint is kept.
    """
    if not isinstance(config, OfflineConfig):
        raise ConfigError(f"config is of type {type(config).__name__}: give what dima.fit_config(dataset) returns")
    with _displayed(progress, quiet) as display:
        return Run.of(offline.fit(config, overwrite=overwrite, progress=display, callbacks=callbacks))


@contextmanager
def _displayed(progress: Progress | bool, quiet: bool) -> Iterator[Progress]:
    """Bars on a terminal, one updated output in a notebook, plain lines elsewhere; when quiet, only warnings."""
    if isinstance(progress, Progress):
        yield progress
    elif quiet or not progress or not in_notebook():
        yield choose_progress(quiet or not progress)
    else:
        with closing(Notebook()) as display:
            yield display


def _config(
    task: Task | RunConfig, algorithm: Named | None, preset: str | None, changes: Mapping[str, Any]
) -> TrainConfig:
    """The config of a run, from whatever names it."""
    if isinstance(task, RunConfig):
        if not isinstance(task, TrainConfig):
            raise ConfigError("task is the config of a run of `dima fit`: give it to dima.fit")
        for name, value in (("algorithm", algorithm), ("preset", preset)):
            if value is not None:
                raise ConfigError(f"{name} = {shown(value)} is a part of the config: give it to dima.build_config")
        return changed(task, changes)
    return build_config(task, "dima" if algorithm is None else algorithm, preset, changes)
