"""Configuration of a run: Python defaults, a preset's differences, overrides."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from dima.algorithms import agreed_algorithm, algorithm_config, named_algorithm
from dima.config import Config, Count, Fraction, Range, Whole, dotted, nested, shown, user_path
from dima.envs import agreed_task, suite_config
from dima.envs.arguments import gather_arguments
from dima.envs.pettingzoo import PettingZooConfig
from dima.errors import ConfigError
from dima.presets import default_preset, preset_changes
from dima.registry import FromFile, Named, give, given_object
from dima.training.factories import Task, named_task
from dima.training.old_names import modernise

R = TypeVar("R", bound="RunConfig")


@dataclass(frozen=True, kw_only=True, repr=False)
class RunConfig(Config):
    """Settings of every run."""

    task: str  # name of the task, such as mamujoco/halfcheetah-2x3 (see `dima tasks`)
    algorithm: str = "dima"  # name of the algorithm (see `dima algorithms`)
    preset: str = "published"  # named settings that the config was built from (see `dima algorithms`)
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0  # seed of all random numbers
    device: Literal["auto", "cpu", "cuda"] = "auto"  # device of all tensors; auto: a CUDA GPU if there is one
    run: str | None = None  # run folder; default runs/<task>/<algorithm>-<preset>-seed<seed>
    threads: Annotated[int, Range(0, 1024)] = 0  # CPU threads of PyTorch; 0: its own choice
    checkpoint_budget: Fraction = 0.02  # share of the run's time for writing checkpoints; 1: after every iteration
    tensorboard: bool = True  # also write TensorBoard events
    wandb: bool = False  # also log to Weights & Biases (needs the extra dima-marl[wandb])
    env: Config  # settings of the environment; fields depend on the task's suite
    learner: Config  # networks, losses and schedule; fields depend on the algorithm

    @property
    def folder(self) -> Path:
        """The run folder."""
        return user_path(self.run or f"runs/{self.task}/{self.algorithm}-{self.preset}-seed{self.seed}")

    def __repr__(self) -> str:
        parts = f"preset {self.preset}, seed {self.seed}, {self._length}"
        return f"<{type(self).__name__}: {self.algorithm} on {self.task}, {parts}, {self.folder}>"

    @property
    def _length(self) -> str:
        return ""

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], *, algorithm: Named | None = None, where: object = "the file"
    ) -> RunConfig:
        """Inverse of :meth:`to_dict` for both kinds of runs, also of earlier versions; the task is a ``FromFile``.

        Args:
            content: of a file.
            algorithm: the name that the user typed, or the class that they gave, if any.
            where: the run folder, for messages.

        Raises:
            ConfigError: a field does not exist, a value does not fit, or the algorithm is code that the user has not
                agreed to run: then nothing was imported.
        """
        if "task" not in content:
            raise ConfigError("the config names no task")
        for name in ("task", "algorithm", "dataset"):
            if not isinstance(content.get(name, ""), str):
                raise ConfigError(f"{name} = {shown(content[name])} does not fit: expected a value of type str")
        task, name = FromFile(content["task"]), FromFile(content.get("algorithm", cls.algorithm))
        name = agreed_algorithm(name, algorithm, where)
        content = {**content, "task": task, "algorithm": name}
        content = modernise(content)
        if "dataset" in content:
            return offline_config(content["dataset"], task, name).override(content)
        return default_config(task, name).override(content)

    def agreed(self: R, task: Named | None, where: str | Path) -> R:
        """The same config with a task that may be built, see :func:`dima.envs.agreed_task`.

        Args:
            task: the name that the user typed, or the class or function that they gave, if any.
            where: the run folder, for messages.

        Raises:
            ConfigError: the user has not agreed to the task, or named another.
        """
        return self.override({"task": agreed_task(self.task, self.env.to_dict(), task, where)})


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainConfig(RunConfig):
    """Settings of a run in the environment (`dima train`)."""

    steps: Count = 1_000_000  # environment steps of the whole run
    envs: Annotated[int, Range(1, 4096)] = 1  # environments that collect in parallel
    evaluate_every: Count = 1_000  # environment steps between two evaluations
    evaluation_episodes: Annotated[int, Range(1, 4096)] = 5  # episodes per evaluation, of the policy's mode
    evaluate_in_background: bool = False  # evaluate in a child process during the next iteration
    env_processes: bool = False  # a process per environment: for slow simulators and many cores
    keep_policies: Whole = 3  # earlier policies in the checkpoint, evenly spaced over the run, for `dima diagnose`

    @property
    def _length(self) -> str:
        return f"{self.steps:,} steps"


@dataclass(frozen=True, kw_only=True, repr=False)
class OfflineConfig(RunConfig):
    """Settings of a run that fits a world model to a dataset; the policy stays untrained (`dima fit`)."""

    run: str | None = None  # run folder; default runs/<task>/fit-<algorithm>-<preset>-seed<seed>
    dataset: str  # folder of the dataset
    iterations: Count = 100  # iterations in the whole run, each with as many gradient steps as in training
    evaluate_every: Count = 10  # iterations between two evaluations on held-out episodes
    evaluation_segments: Count = 256  # held-out segments forecast from their first state and recorded actions
    evaluation_horizon: Count = 15  # steps per segment

    @property
    def folder(self) -> Path:
        return user_path(self.run or f"runs/{self.task}/fit-{self.algorithm}-{self.preset}-seed{self.seed}")

    @property
    def _length(self) -> str:
        return f"{self.iterations:,} iterations"


def default_config(task: str, algorithm: str) -> TrainConfig:
    """Python defaults for a task and an algorithm.

    Raises:
        ConfigError: the task or the algorithm does not exist.
    """
    return TrainConfig(task=task, algorithm=algorithm, env=suite_config(task)(), learner=algorithm_config(algorithm))


def offline_config(dataset: str, task: str, algorithm: str) -> OfflineConfig:
    """Python defaults for fitting a world model to a dataset; errors as :func:`default_config`."""
    env, learner = suite_config(task)(), algorithm_config(algorithm)
    return OfflineConfig(task=task, algorithm=algorithm, env=env, learner=learner, dataset=dataset)


def build_config(
    task: Task,
    algorithm: Named = "dima",
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Build the resolved config of a run in the environment.

    Args:
        task: name of an environment; or its class, or a function or a module of PettingZoo that makes it.
        algorithm: name of an algorithm, or its settings class.
        preset: name of one of the algorithm's presets; by default ``small``, if it has that.
        overrides: changes to the preset, see :func:`changed`.

    Raises:
        ConfigError: a name or a field does not exist, or a value does not fit.
    """
    algorithm = named_algorithm(algorithm)
    name, overrides = named_task(task, overrides or {})
    preset = default_preset(algorithm) if preset is None else preset
    config = default_config(name, algorithm).override({"preset": preset})
    for changes in preset_changes(algorithm, preset, name):
        config = config.override(changes)
    config = changed(config, overrides)
    if not isinstance(task, str):
        give(given_object(name), config.env.to_dict()["arguments"])  # consent to these arguments, too
    return config


def changed(config: R, settings: Mapping[str, Any]) -> R:
    """A config with other settings.

    Args:
        config: to start from.
        settings: by dotted names, ``{"learner.ppo.clip": 0.1}``, or nested like the config. Settings of an environment
            that a factory makes may be arguments of the factory: ``{"env": {"size": 3}}``.

    Raises:
        ConfigError: a setting does not exist (the nearest right name is suggested), or a value does not fit.
    """
    changes, known = nested(settings), config.to_dict()
    if unknown := [path for path in dotted(changes) if path.partition(".")[0] not in known]:
        hint = _nearest_setting(unknown[0], [*known, *dotted(known)])
        raise ConfigError(f"{unknown[0]} is not a field of {type(config).__name__}: {hint}")
    if isinstance(config.env, PettingZooConfig) and isinstance(env := changes.get("env"), Mapping):
        changes["env"] = gather_arguments(config.task, config.env, env)
    return config.override(changes)


def _nearest_setting(path: str, known: Sequence[str]) -> str:
    """Hint at the settings whose names end like a wrong one, or at the nearest."""
    last = path.rpartition(".")[2]
    ends: dict[str, list[str]] = {}
    for name in known:
        ends.setdefault(name.rpartition(".")[2], []).append(name)
    close = [name for name in known if name.endswith(f".{path}")] or ends.get(last) or []
    close = close or difflib.get_close_matches(path, known, n=1)
    close = close or [name for end in difflib.get_close_matches(last, ends, n=1) for name in ends[end]]
    return f"did you mean {' or '.join(map(repr, close[:3]))}?" if close else "config.yaml of a run lists all"
