"""What is recorded or taken over into a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from dima.config import Config, Count, NonEmpty, Range, Whole
from dima.envs import suite_config

Share = Annotated[float, Range(0, 0.9)]


@dataclass(frozen=True, kw_only=True)
class RecordConfig(Config):
    """What is recorded. Everything but ``out`` and ``device`` decides what the dataset holds."""

    task: str  # an environment (see `dima tasks`)
    # who plays: `random` or RUN; options: RUN,share=0.5,mode,noise=0.2
    sources: Annotated[tuple[str, ...], NonEmpty("`random` or a run folder")] = ("random",)
    steps: Count = 10_000  # environment steps, rounded up to whole episodes
    episode_steps: Whole = 0  # episodes are truncated after so many steps; 0: where the task ends them
    held_out: Share = 0.2  # share of each source's episodes kept from training
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0  # of the environments, the policies' draws and the split
    envs: Annotated[int, Range(1, 4096)] = 1  # environments played in parallel
    device: Literal["auto", "cpu", "cuda"] = "auto"  # where policies compute
    out: str | None = None  # the dataset's folder; default datasets/<task>-seed<seed>
    env: Config  # how the environment is presented; fields depend on the task's suite

    @property
    def folder(self) -> Path:
        """Where the dataset is kept."""
        return Path(self.out or f"datasets/{self.task}-seed{self.seed}")


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Config):
    """What is taken over from Minari."""

    task: str  # the environment that the episodes are taken to be of (see `dima tasks`)
    minari: str = ""  # Minari's name of the dataset, such as mujoco/halfcheetah/expert-v0, or its folder
    held_out: Share = 0.2  # share of the episodes kept from training
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0  # of the split
    out: str | None = None  # the dataset's folder; default datasets/<Minari's name>
    env: Config  # how the environment is presented; fields depend on the task's suite

    @property
    def folder(self) -> Path:
        """Where the dataset is kept."""
        return Path(self.out or f"datasets/{self.minari}")


def record_config(task: str) -> RecordConfig:
    """The defaults for a task.

    Raises:
        ConfigError: there is no such suite.
    """
    return RecordConfig(task=task, env=suite_config(task)())


def import_config(task: str) -> ImportConfig:
    """The defaults for a task.

    Raises:
        ConfigError: there is no such suite.
    """
    return ImportConfig(task=task, env=suite_config(task)())
