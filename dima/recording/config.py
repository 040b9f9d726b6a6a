"""Settings of a recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from dima.config import Config, Count, NonEmpty, Range, Whole, user_path
from dima.datasets.format import HeldOutShare
from dima.envs import suite_config


@dataclass(frozen=True, kw_only=True)
class RecordConfig(Config):
    """Settings of a recording.

    All fields but ``out`` and ``device`` determine the dataset's content.
    """

    task: str  # environment (see `dima tasks`)
    # policies that play: `random` or RUN, with options as in RUN,share=0.5,mode,noise=0.2
    sources: Annotated[tuple[str, ...], NonEmpty("`random` or a run folder")] = ("random",)
    steps: Count = 10_000  # environment steps, rounded up to whole episodes
    episode_steps: Whole = 0  # truncate episodes after this many steps; 0: only where the task does
    held_out: HeldOutShare = 0.2  # share of each source's episodes held out from training
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0  # seed of the environments, the policies' samples and the split
    envs: Annotated[int, Range(1, 4096)] = 1  # environments stepped in parallel
    device: Literal["auto", "cpu", "cuda"] = "auto"  # device of the policies
    out: str | None = None  # dataset folder; default datasets/<task>-seed<seed>
    env: Config  # environment settings; fields depend on the task's suite

    @property
    def folder(self) -> Path:
        """Path of the dataset folder."""
        return user_path(self.out or f"datasets/{self.task}-seed{self.seed}")


def record_config(task: str) -> RecordConfig:
    """Default recording settings for a task.

    Raises:
        ConfigError: there is no such suite.
    """
    return RecordConfig(task=task, env=suite_config(task)())
