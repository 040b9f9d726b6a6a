"""A finished dataset, opened for reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dima.config import Config
from dima.data import EnvSpec, Episode
from dima.datasets.format import EPISODES, Header, Manifest, check_chunk, listing, read_manifest, unpack
from dima.envs import suite_config
from dima.errors import DatasetError
from dima.runtime.summary import settings_line
from dima.storage.atomic import reading
from dima.storage.chunks import read_chunks
from dima.storage.manifest import seal

Part = Literal["all", "train", "held-out"]


class Recorded(NamedTuple):
    """An episode, and how it came about."""

    number: int  # in the dataset
    source: int  # number of its source
    seed: int | None  # of the environment, where known
    held_out: bool  # kept from training
    episode: Episode


class Dataset:
    """Recorded episodes of one task: use :meth:`open`.

    Attributes:
        path: its folder.
        header: what was recorded.
        protocol: versions, commit and class of machine of the recording.
        held_out: numbers of the episodes that are kept from training.
        seal: SHA-256 that tells this dataset from any other.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.header = path, Header.from_dict(manifest)
        self.protocol: dict[str, Any] = manifest["protocol"]
        self.held_out = frozenset(manifest["held_out"])
        self.seal = seal(manifest)
        self._manifest = manifest

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Open a dataset; its chunks are checked when they are read.

        Raises:
            RunFolderError: the folder is missing, not a dataset, damaged or of another format.
            DatasetError: its recording was never finished.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if not manifest["complete"]:
            raise DatasetError(f"{path} is not finished: the command that began to record it goes on with it")
        return cls(path, manifest)

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
        """Environment steps in all episodes."""
        return sum(chunk["steps"] for chunk in self._manifest["chunks"])

    def __len__(self) -> int:
        """Number of episodes."""
        return sum(chunk["episodes"] for chunk in self._manifest["chunks"])

    def recorded(self) -> Iterator[Recorded]:
        """Every episode in order, each chunk compared with its SHA-256 before it is used.

        Raises:
            RunFolderError: a chunk is missing, truncated or changed.
        """
        number = 0
        for n, chunk in read_chunks(self.path / EPISODES, listing(self._manifest)):
            facts = self._manifest["chunks"][n]
            with reading(self.path / EPISODES):
                check_chunk(chunk, self.spec, facts["episodes"], facts["steps"])
            for seed, episode in unpack(chunk):
                yield Recorded(number, facts["source"], seed, number in self.held_out, episode)
                number += 1

    def episodes(self, part: Part = "all") -> list[Episode]:
        """The episodes of a part in order; errors as :meth:`recorded`."""
        return [one.episode for one in self.recorded() if part == "all" or one.held_out == (part == "held-out")]

    def require(self, task: str, env: Config, spec: EnvSpec) -> None:
        """Make sure that the episodes are of this task under these settings.

        Raises:
            DatasetError: they are not.
        """
        if self.task != task:
            raise DatasetError(f"{self.path} holds episodes of {self.task}, not of {task}: give a dataset of that task")
        ours, theirs = self.header.env, env.to_dict()
        if ours != theirs:
            raise DatasetError(
                f"{self.path} was recorded with {_differing(ours, theirs)}, but here {_differing(theirs, ours)}: "
                "the environment's settings must be the same"
            )
        if self.spec != spec:
            raise DatasetError(
                f"{self.path} was recorded with {_differing(asdict(self.spec), asdict(spec))}, which {task} has no "
                "longer: record it again with the versions installed here"
            )


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Our entries that are others there."""
    return settings_line({name: value for name, value in ours.items() if theirs.get(name) != value})
