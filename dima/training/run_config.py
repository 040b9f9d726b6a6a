"""Configuration of a run: Python defaults, a preset's differences, overrides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from dima.algorithms import agreed_algorithm, algorithm_config
from dima.config import Config, Count, Fraction, Range, Whole, shown, user_path
from dima.envs import agreed_task, suite_config
from dima.errors import ConfigError
from dima.presets import default_preset, preset_changes
from dima.registry import FromFile
from dima.training.old_names import modernise

R = TypeVar("R", bound="RunConfig")


@dataclass(frozen=True, kw_only=True)
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

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], *, algorithm: str | None = None, where: object = "the file"
    ) -> RunConfig:
        """Inverse of :meth:`to_dict` for both kinds of runs, also of earlier versions; the task is a ``FromFile``.

        Args:
            content: of a file.
            algorithm: the name that the user typed, if any.
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

    def agreed(self: R, task: str | None, where: str | Path) -> R:
        """The same config with a task that may be built, see :func:`dima.envs.agreed_task`.

        Args:
            task: the name that the user typed, if any.
            where: the run folder, for messages.

        Raises:
            ConfigError: the user has not agreed to the task, or named another.
        """
        return self.override({"task": agreed_task(self.task, self.env.to_dict(), task, where)})


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Settings of a run in the environment (`dima train`)."""

    steps: Count = 1_000_000  # environment steps of the whole run
    envs: Annotated[int, Range(1, 4096)] = 1  # environments that collect in parallel
    evaluate_every: Count = 1_000  # environment steps between two evaluations
    evaluation_episodes: Annotated[int, Range(1, 4096)] = 5  # episodes per evaluation, of the policy's mode
    evaluate_in_background: bool = False  # evaluate in a child process during the next iteration
    env_processes: bool = False  # a process per environment: for slow simulators and many cores
    keep_policies: Whole = 3  # earlier policies in the checkpoint, evenly spaced over the run, for `dima diagnose`


@dataclass(frozen=True, kw_only=True)
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
    task: str,
    algorithm: str = "dima",
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Build the resolved config of a run in the environment.

    Args:
        task: name of an environment.
        algorithm: name of an algorithm.
        preset: name of one of the algorithm's presets; by default ``small``, if it has that.
        overrides: changes to the preset, nested like the config.

    Raises:
        ConfigError: a name or a field does not exist, or a value does not fit.
    """
    config, preset = default_config(task, algorithm), default_preset(algorithm) if preset is None else preset
    for changes in preset_changes(algorithm, preset, task):
        config = config.override(changes)
    return config.override({"preset": preset} | dict(overrides or {}))
