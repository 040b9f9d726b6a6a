"""Open and describe a finished dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dima.config import Config, user_path
from dima.data import EnvSpec, Episode
from dima.datasets.format import EPISODES, Header, Manifest, Source, check_chunk, listing, read_manifest, unpack
from dima.envs import suite_config
from dima.errors import DatasetError
from dima.runtime.summary import settings_line
from dima.runtime.verdicts import Verdict, ranked
from dima.storage.atomic import read_errors
from dima.storage.chunks import chunk_path, read_chunks
from dima.storage.manifest import digest

Part = Literal["all", "train", "held-out"]
_NOT_SETTINGS = ("policy", "recorded", "checkpoint")  # entries of a source that its line shows elsewhere or not at all


class RecordedEpisode(NamedTuple):
    """An episode with its provenance."""

    number: int  # in the dataset
    source: int  # index of its source
    seed: int | None  # of the environment, where known
    held_out: bool  # excluded from training
    episode: Episode


class Dataset:
    """Recorded episodes of one task: use :meth:`open`.

    Attributes:
        path: its folder.
        header: task, environment settings, sources and request.
        protocol: versions, commit and class of machine of the recording.
        held_out: numbers of the episodes that are excluded from training.
        digest: SHA-256 that identifies the dataset.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.header = path, Header.from_dict(manifest)
        self.protocol: dict[str, Any] = manifest["protocol"]
        self.held_out = frozenset(manifest["held_out"])
        self.digest = digest(manifest)
        self._manifest = manifest

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Open a dataset; its chunks are checked when they are read.

        Raises:
            RunFolderError: the folder is missing, not a dataset, damaged or of another format.
            DatasetError: its recording was never finished.
        """
        path = user_path(path)
        manifest = read_manifest(path)
        if not manifest["complete"]:
            raise DatasetError(f"{path} is not finished: run the command that started the recording again")
        return cls(path, manifest)

    def __repr__(self) -> str:
        held_out = f"{len(self.held_out):,} held out"
        return f"<Dataset of {self.task}: {len(self):,} episodes, {self.steps:,} steps, {held_out}, {self.path}>"

    @property
    def task(self) -> str:
        return self.header.task

    @property
    def spec(self) -> EnvSpec:
        return self.header.spec

    @property
    def env(self) -> Config:
        """The settings of the environment.

        Raises:
            ConfigError: the installed version does not know them.
        """
        return suite_config(self.task)().override(self.header.env)

    @property
    def steps(self) -> int:
        """Total number of environment steps."""
        return sum(chunk["steps"] for chunk in self._manifest["chunks"])

    def __len__(self) -> int:
        """Number of episodes."""
        return sum(chunk["episodes"] for chunk in self._manifest["chunks"])

    def recorded(self) -> Iterator[RecordedEpisode]:
        """Iterate over all episodes in order, verifying each chunk's SHA-256.

        Raises:
            RunFolderError: a chunk is missing, truncated or changed.
        """
        number = 0
        for n, chunk in read_chunks(self.path / EPISODES, listing(self._manifest)):
            facts = self._manifest["chunks"][n]
            with read_errors(chunk_path(self.path / EPISODES, n)):
                check_chunk(chunk, self.spec, facts["episodes"], facts["steps"])
            for seed, episode in unpack(chunk):
                yield RecordedEpisode(number, facts["source"], seed, number in self.held_out, episode)
                number += 1

    def episodes(self, part: Part = "all") -> list[Episode]:
        """The episodes of a split in order; errors as :meth:`recorded`."""
        return [one.episode for one in self.recorded() if part == "all" or one.held_out == (part == "held-out")]

    def require(self, task: str, env: Config, spec: EnvSpec) -> None:
        """Check that the dataset was recorded on this task with these settings.

        Raises:
            DatasetError: it was not.
        """
        if self.task != task:
            raise DatasetError(f"{self.path} holds episodes of {self.task}, not of {task}: give a dataset of that task")
        ours, theirs = self.env.to_dict(), env.to_dict()
        if ours != theirs:
            raise DatasetError(
                f"{self.path} was recorded with {_differing(ours, theirs)}, but here {_differing(theirs, ours)}: "
                "the environment's settings must be the same"
            )
        if self.spec != spec:
            raise DatasetError(
                f"{self.path} was recorded with {_differing(self.spec.to_dict(), spec.to_dict())}, but {task} now has "
                f"{_differing(spec.to_dict(), self.spec.to_dict())}: record it again with the versions installed here"
            )


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Entries of ``ours`` whose values differ in ``theirs``."""
    return settings_line({name: value for name, value in ours.items() if theirs.get(name) != value})


def describe(dataset: Dataset) -> dict[str, Any]:
    """Summarise a dataset as plain data, after verifying every chunk.

    Returns:
        Its task and settings, the episodes, steps and returns of each source, the split, and the versions.

    Raises:
        RunFolderError: a file is missing, truncated or changed.
    """
    rows = [
        (one.source, one.held_out, len(one.episode), one.episode.team_return, bool(one.episode.terminated.any()))
        for one in dataset.recorded()
    ]
    source, held_out, steps, returns, terminated = map(np.array, zip(*rows, strict=True))
    sources = []
    for number, facts in enumerate(dataset.header.sources):
        of = source == number
        recorded: dict[str, Any] = {"episodes": int(of.sum()), "steps": int(steps[of].sum())}
        if of.any():
            recorded |= {
                "return": {"mean": float(returns[of].mean()), "std": float(returns[of].std())},
                "terminated": float(terminated[of].mean()),
            }
        sources.append({**facts, "recorded": recorded})
    parts = {
        name: {"episodes": int(of.sum()), "steps": int(steps[of].sum())}
        for name, of in (("train", ~held_out), ("held-out", held_out))
    }
    verdicts = [Verdict("good", "all files verified")]
    if not held_out.any():
        verdicts.append(Verdict("warning", "no episode is held out: a world model fitted to it cannot be validated"))
    verdicts += [
        Verdict("warning", f"the source {one['policy']} recorded no episode")
        for one in sources
        if not one["recorded"]["episodes"]
    ]
    return {
        "verdicts": [verdict.to_dict() for verdict in ranked(verdicts)],
        "dataset": str(dataset.path),
        "digest": dataset.digest,
        "task": dataset.task,
        "env": dataset.header.env,
        "request": dataset.header.request,
        "sources": sources,
        "parts": parts,
        "protocol": dataset.protocol,
    }


def description_text(facts: Mapping[str, Any]) -> str:
    """The result of :func:`describe` as a table for a terminal."""
    defaults = Source().to_dict()
    lines = [str(Verdict(**verdict)) for verdict in facts["verdicts"]]
    lines += [f"{facts['task']} ({settings_line(facts['env'])})" if facts["env"] else facts["task"], ""]
    lines.append(f"{'episodes':>10}  {'steps':>10}  {'team return':>20}  {'terminated':>10}  source")
    for source in facts["sources"]:
        recorded = source["recorded"]
        returns = recorded.get("return")
        mean_std = f"{returns['mean']:,.1f} ± {returns['std']:,.1f}" if returns else "-"
        terminated = f"{recorded['terminated']:.0%}" if returns else "-"
        settings = {
            name: value for name, value in source.items() if name not in _NOT_SETTINGS and defaults.get(name) != value
        }
        name = f"{source['policy']} ({settings_line(settings)})" if settings else source["policy"]
        counts = f"{recorded['episodes']:>10,}  {recorded['steps']:>10,}"
        lines.append(f"{counts}  {mean_std:>20}  {terminated:>10}  {name}")
    lines.append("")
    lines += [f"{part:<8}  {of['episodes']:,} episodes, {of['steps']:,} steps" for part, of in facts["parts"].items()]
    lines += ["", f"SHA-256 {facts['digest']}", f"dataset: {facts['dataset']}"]
    return "\n".join(lines)
