"""Record a dataset: every source plays its share of the steps, chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Annotated, Literal

import torch

from dima.collect import episode_seed, play
from dima.config import Config, Count, Range, Whole
from dima.datasets.folder import Header
from dima.datasets.sources import RANDOM, Player, Source, prepare
from dima.datasets.writer import DatasetWriter
from dima.device import pick_device
from dima.envs import make_env, suite_config
from dima.envs.vector import VectorEnv
from dima.progress import Progress
from dima.provenance import protocol
from dima.seeding import drawn_from
from dima.signals import graceful_stop

CHUNK_STEPS = 10_000  # a chunk has about so many environment steps, or one episode of every environment
_SEEDS = 2_000_003  # offset of the seeds of recorded episodes, so that they differ from training's and evaluation's


@dataclass(frozen=True, kw_only=True)
class RecordConfig(Config):
    """What is recorded. Everything but ``out`` and ``device`` decides what the dataset holds."""

    task: str  # an environment (see `dima tasks`)
    sources: tuple[str, ...] = (RANDOM,)  # who plays: `random` or RUN; options: RUN,share=0.5,mode,noise=0.2
    steps: Count = 10_000  # environment steps, rounded up to whole episodes
    episode_steps: Whole = 0  # episodes are truncated after so many steps; 0: where the task ends them
    held_out: Annotated[float, Range(0, 0.9)] = 0.2  # share of each source's episodes kept from training
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0  # of the environments, the policies' draws and the split
    envs: Count = 1  # environments played in parallel
    device: Literal["auto", "cpu", "cuda"] = "auto"  # where policies compute
    out: str | None = None  # the dataset's folder; default datasets/<task>-seed<seed>
    env: Config  # how the environment is presented; fields depend on the task's suite

    @property
    def folder(self) -> Path:
        """Where the dataset is kept."""
        return Path(self.out or f"datasets/{self.task}-seed{self.seed}")


@dataclass(frozen=True)
class Recording:
    """How a recording ended."""

    folder: Path
    episodes: int
    steps: int
    finished: bool  # False when it was asked to stop before its last step


def record_config(task: str) -> RecordConfig:
    """The defaults for a task.

    Raises:
        ConfigError: there is no such suite.
    """
    return RecordConfig(task=task, env=suite_config(task)())


def record(config: RecordConfig, *, overwrite: bool = False, progress: Progress | None = None) -> Recording:
    """Record a dataset, or go on with a recording of the same config that was cut off; the result is the same.

    Args:
        config: what is recorded.
        overwrite: replace an earlier dataset in the same folder.
        progress: told how far it is; silent by default.

    Raises:
        UserError: the task, a source or the folder cannot be used, or the environment broke a promise. What was
            recorded before is kept.
    """
    device, progress = pick_device(config.device), progress or Progress()
    sources = [Source.parse(text) for text in config.sources]
    make = partial(make_env, config.task, config.env)
    with graceful_stop() as stop, VectorEnv(make, config.envs) as envs:
        players = [prepare(source, config.task, config.env, envs.spec, str(device)) for source in sources]
        header = Header(
            task=config.task,
            env=config.env.to_dict(),
            spec=envs.spec,
            sources=[player.facts for player in players],
            request={name: getattr(config, name) for name in ("steps", "episode_steps", "held_out", "seed", "envs")},
        )
        shares = [source.share / sum(source.share for source in sources) for source in sources]
        with DatasetWriter.open(config.folder, header, protocol(str(device)), overwrite=overwrite) as writer:
            for number, player in enumerate(players):
                wanted = ceil(config.steps * shares[number] - 1e-6)
                while (missing := wanted - writer.steps(number)) > 0:
                    if stop.requested:
                        return Recording(config.folder, writer.episodes, writer.steps(), finished=False)
                    with progress.phase("record"), drawn_from(device, config.seed + _SEEDS, writer.episodes):
                        _add_chunk(writer, envs, player, number, missing, config, device)
                    progress.round(writer.steps(), config.steps)
            writer.finish(config.held_out, config.seed)
            return Recording(config.folder, writer.episodes, writer.steps(), finished=True)


def _add_chunk(
    writer: DatasetWriter,
    envs: VectorEnv,
    player: Player,
    source: int,
    missing: int,
    config: RecordConfig,
    device: torch.device,
) -> None:
    """Play about a chunk's worth of episodes, or no more than are missing."""
    longest = config.episode_steps or envs.spec.episode_limit
    first, count = writer.episodes, envs.n
    if longest:
        count = min(max(envs.n, CHUNK_STEPS // longest), ceil(missing / longest))
    seeds = [episode_seed(config.seed + _SEEDS, first + n) for n in range(count)]
    writer.add(play(envs, player.act(), seeds, device, config.episode_steps), source, seeds)
