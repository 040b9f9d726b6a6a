"""Record a dataset: play each source for its share of the steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import torch

from dima.datasets.format import Header
from dima.datasets.writer import DatasetWriter
from dima.envs import make_env
from dima.envs.check import foresee_leaving
from dima.envs.vector import VectorEnv
from dima.experience.episodes import episode_seed, play
from dima.recording.config import RecordConfig
from dima.recording.policies import LoadedSource, load_source, parse_source
from dima.runtime.device import pick_device
from dima.runtime.progress import Progress
from dima.runtime.provenance import protocol
from dima.runtime.rng import drawn_from
from dima.runtime.signals import Interrupted, Stop, graceful_stop

CHUNK_STEPS = 10_000  # about the environment steps of a chunk, which has at least one episode per environment
_SEED_OFFSET = 2_000_003  # seed offset: recorded episodes differ from those of training and evaluation


@dataclass(frozen=True)
class Recording:
    """Outcome of a recording."""

    folder: Path
    episodes: int
    steps: int
    finished: bool  # False when interrupted before the last step


def record(config: RecordConfig, *, overwrite: bool = False, progress: Progress | None = None) -> Recording:
    """Record a dataset, or continue an interrupted recording.

    Continued under the same config, the dataset is the same as without the interruption; the chunk that was being
    played is played again.

    Args:
        config: settings of the recording.
        overwrite: replace an earlier dataset in the same folder.
        progress: progress display; silent by default.

    Raises:
        UserError: the task, a source or the folder cannot be used, or the environment violated the PettingZoo API.
            Chunks recorded before are kept.
    """
    device, progress = pick_device(config.device), progress or Progress()
    config = config.override({"env": foresee_leaving(config.task, config.env)})
    sources = [parse_source(text) for text in config.sources]
    make = partial(make_env, config.task, config.env)
    with graceful_stop() as stop, VectorEnv(make, config.envs) as envs:
        loaded = [load_source(source, config.task, config.env, envs.spec, str(device)) for source in sources]
        header = Header(
            task=config.task,
            env=config.env.to_dict(),
            spec=envs.spec,
            sources=[source.facts for source in loaded],
            request={name: getattr(config, name) for name in ("steps", "episode_steps", "held_out", "seed", "envs")},
        )
        shares = [source.share / sum(source.share for source in sources) for source in sources]
        with DatasetWriter.open(config.folder, header, protocol(str(device)), overwrite=overwrite) as writer:
            progress.start(min(writer.steps(), config.steps), config.steps)
            for number, source in enumerate(loaded):
                target = ceil(config.steps * shares[number] - 1e-6)
                while (missing := target - writer.steps(number)) > 0:
                    try:
                        with progress.phase("record"), drawn_from(device, config.seed + _SEED_OFFSET, writer.episodes):
                            _add_chunk(writer, envs, source, number, missing, config, device, stop)
                    except Interrupted:
                        return Recording(config.folder, writer.episodes, writer.steps(), finished=False)
                    progress.iteration(min(writer.steps(), config.steps), config.steps)
            writer.finish(config.held_out, config.seed)
            return Recording(config.folder, writer.episodes, writer.steps(), finished=True)


def _add_chunk(
    writer: DatasetWriter,
    envs: VectorEnv,
    source: LoadedSource,
    number: int,
    missing: int,
    config: RecordConfig,
    device: torch.device,
    stop: Stop,
) -> None:
    """Play and append one chunk of the episodes that are missing; a stop drops it."""
    longest = config.episode_steps or envs.spec.episode_limit
    first, count = writer.episodes, envs.n
    if longest:
        count = min(max(envs.n, CHUNK_STEPS // longest), ceil(missing / longest))
    seeds = [episode_seed(config.seed + _SEED_OFFSET, first + n) for n in range(count)]
    writer.add(play(envs, source.act(), seeds, device, config.episode_steps, stop), number, seeds)
