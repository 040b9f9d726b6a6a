"""The whole configuration of a run, and how it comes about: Python defaults, a preset's differences, overrides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from dima.algorithms import agreed_algorithm, algorithm_config
from dima.config import Config, Count, Fraction, Range, Whole, shown
from dima.envs import agreed_task, suite_config
from dima.errors import ConfigError
from dima.presets import preset_changes
from dima.registry import FromFile

R = TypeVar("R", bound="RunConfig")

# fields of older run folders that are constants by now: path and value
RETIRED = {
    "learner.ppo.actor.std_scale": 0.5,
    "learner.ppo.adam_eps": 1e-5,
    "learner.ppo.huber_delta": 10.0,
}


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """What every run depends on; the facts of the environment are not among it."""

    task: str  # what is learnt, such as mamujoco/halfcheetah-2x3 (see `dima tasks`)
    algorithm: str = "dima"  # how (see `dima algorithms`)
    preset: str = "published"  # file of differences from the defaults that this config was built with
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0  # everything random descends from it
    device: Literal["auto", "cpu", "cuda"] = "auto"  # where tensors live; auto: a CUDA GPU if there is one
    run: str | None = None  # run folder; default runs/<task>/<algorithm>-<preset>-seed<seed>
    threads: Annotated[int, Range(0, 1024)] = 0  # CPU threads PyTorch may use; 0: its own choice
    checkpoint_budget: Fraction = 0.02  # share of the run's time for writing checkpoints; 1: after every iteration
    tensorboard: bool = True  # also write TensorBoard events
    wandb: bool = False  # also log to Weights & Biases (needs the extra dima-marl[wandb])
    env: Config  # how the environment is presented; fields depend on the task's suite
    learner: Config  # networks, losses and schedule; fields depend on the algorithm

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.run or f"runs/{self.task}/{self.algorithm}-{self.preset}-seed{self.seed}")

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], *, algorithm: str | None = None, where: object = "the file"
    ) -> RunConfig:
        """The config that :meth:`to_dict` described, of a run of either kind; its task is a ``FromFile``.

        Args:
            content: what stands in a file.
            algorithm: the name that the user typed beside the file, if any.
            where: the run folder, for messages.

        Raises:
            ConfigError: a field does not exist, a value does not fit, or the algorithm is code of somebody's own that
                the user has not agreed to: then nothing was imported.
        """
        if "task" not in content:
            raise ConfigError("the config names no task")
        for name in ("task", "algorithm", "dataset"):
            if not isinstance(content.get(name, ""), str):
                raise ConfigError(f"{name} = {shown(content[name])} does not fit: expected a value of type str")
        task, name = FromFile(content["task"]), FromFile(content.get("algorithm", cls.algorithm))
        name = agreed_algorithm(name, algorithm, where)
        content = {**content, "task": task, "algorithm": name}
        content = _without_retired(content)
        if "dataset" in content:
            return offline_config(content["dataset"], task, name).override(content)
        return default_config(task, name).override(content)

    def agreed(self: R, task: str | None, where: str | Path) -> R:
        """The same config with a task that may be built, see :func:`dima.envs.agreed_task`.

        Args:
            task: the name that the user typed beside the file, if any.
            where: the run folder, for messages.

        Raises:
            ConfigError: the user has not agreed to the task, or named another.
        """
        return self.override({"task": agreed_task(self.task, self.env.to_dict(), task, where)})


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Every choice of a run in the environment (`dima train`)."""

    steps: Count = 1_000_000  # environment steps of the whole run
    envs: Annotated[int, Range(1, 4096)] = 1  # environments that collect in parallel
    evaluate_every: Count = 1_000  # environment steps between two evaluations
    evaluation_episodes: Annotated[int, Range(1, 4096)] = 5  # episodes of an evaluation, played with the policy's mode
    evaluate_in_background: bool = False  # evaluate in a process of its own while the next iteration goes on
    env_processes: bool = False  # a process for each environment: for slow simulators and many cores
    keep_policies: Whole = 3  # earlier policies the checkpoint keeps, evenly over the run, for `dima diagnose`


@dataclass(frozen=True, kw_only=True)
class OfflineConfig(RunConfig):
    """Every choice of a run that fits a world model to a dataset, and leaves its policy untrained (`dima fit`)."""

    run: str | None = None  # run folder; default runs/<task>/fit-<algorithm>-<preset>-seed<seed>
    dataset: str  # folder of the dataset
    iterations: Count = 100  # iterations of gradient steps in the whole run, each as in training
    evaluate_every: Count = 10  # iterations between two forecasts of held-out episodes
    evaluation_segments: Count = 256  # held-out segments that are forecast from their first state and their actions
    evaluation_horizon: Count = 15  # steps of such a segment

    @property
    def folder(self) -> Path:
        return Path(self.run or f"runs/{self.task}/fit-{self.algorithm}-{self.preset}-seed{self.seed}")


def default_config(task: str, algorithm: str) -> TrainConfig:
    """The Python defaults for a task and an algorithm.

    Raises:
        ConfigError: the task or the algorithm does not exist.
    """
    return TrainConfig(task=task, algorithm=algorithm, env=suite_config(task)(), learner=algorithm_config(algorithm))


def offline_config(dataset: str, task: str, algorithm: str) -> OfflineConfig:
    """The Python defaults for fitting an algorithm's world model to a dataset; errors as :func:`default_config`."""
    env, learner = suite_config(task)(), algorithm_config(algorithm)
    return OfflineConfig(task=task, algorithm=algorithm, env=env, learner=learner, dataset=dataset)


def build_config(
    task: str,
    algorithm: str = "dima",
    preset: str = "published",
    overrides: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """The resolved config of a run in the environment.

    Args:
        task: name of an environment.
        algorithm: name of an algorithm.
        preset: name of one of the algorithm's presets.
        overrides: what the user wants otherwise, nested as the config is.

    Raises:
        ConfigError: a name or a field does not exist, or a value does not fit.
    """
    config = default_config(task, algorithm)
    for changes in preset_changes(algorithm, preset, task):
        config = config.override(changes)
    return config.override({"preset": preset} | dict(overrides or {}))


def _without_retired(content: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Drop retired fields at the value that became a constant.

    Raises:
        ConfigError: a retired field has another value.
    """
    kept = {}
    for name, value in content.items():
        where = f"{path}{name}"
        if isinstance(value, Mapping):
            value = _without_retired(value, f"{where}.")
        elif where in RETIRED:
            if value != RETIRED[where]:
                raise ConfigError(f"{where} = {value!r} is no longer a field: it is always {RETIRED[where]:g}")
            continue
        kept[name] = value
    return kept
