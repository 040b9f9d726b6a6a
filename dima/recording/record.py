"""Record a dataset: every source plays its share of the steps, chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import torch

from dima.datasets.format import Header
from dima.datasets.writer import DatasetWriter
from dima.envs import make_env
from dima.envs.vector import VectorEnv
from dima.experience.collector import episode_seed, play
from dima.recording.config import RecordConfig
from dima.recording.policies import Player, Source, prepare
from dima.runtime.device import pick_device
from dima.runtime.progress import Progress
from dima.runtime.provenance import protocol
from dima.runtime.rng import drawn_from
from dima.runtime.signals import graceful_stop

CHUNK_STEPS = 10_000  # a chunk has about so many environment steps, or one episode of every environment
_SEEDS = 2_000_003  # offset of the seeds of recorded episodes, so that they differ from training's and evaluation's


@dataclass(frozen=True)
class Recording:
    """How a recording ended."""

    folder: Path
    episodes: int
    steps: int
    finished: bool  # False when it was asked to stop before its last step


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
                    progress.iteration(min(writer.steps(), config.steps), config.steps)
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
