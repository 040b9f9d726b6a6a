"""Copy the team that ships with the library, and compare its imagination with reality."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dima.agent import Agent, load
from dima.analysis.imagine.page import PAGE
from dima.analysis.imagine.results import Imagination
from dima.analysis.imagine.run import FOLDERS, imagine
from dima.config import user_path
from dima.errors import RunFolderError
from dima.runtime.progress import Progress
from dima.storage.atomic import write_errors
from dima.storage.checkpoint import MANIFEST
from dima.storage.layout import CHECKPOINT

TEAM = Path(__file__).parent / "team"
HORIZONS = (15, 50)  # steps


@dataclass(frozen=True)
class Demo:
    """A copy of the trained team, and what it imagined.

    Attributes:
        agent: loaded from the copy.
        imagination: compared with a fresh real episode.
        page: that shows it.
    """

    agent: Agent
    imagination: Imagination
    page: Path

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain data for JSON, with folder and page."""
        return self.imagination.to_dict() | {"folder": str(self.agent.folder), "page": str(self.page)}

    def summary(self) -> str:
        """Three lines: who, what, where."""
        found, agent = self.imagination.horizons[-1], self.agent
        spec, config = agent.env.spec, agent.config
        return (
            f"{agent.folder}: {spec.n_agents} agents that {config.algorithm} taught {config.task} in {agent.steps:,} "
            "steps of the simulator\n"
            f"they imagined {found.steps} steps of a fresh episode: reward {found.imagined_reward:.4g} imagined, "
            f"{found.real_reward:.4g} real\n"
            f"page: {self.page}"
        )


def demo(out: str | Path = "runs/demo", *, device: str = "auto", progress: Progress | None = None) -> Demo:
    """Show a trained team and its imagination, from a small run that ships with the library.

    Args:
        out: folder for a copy of the run, which evaluates, imagines and diagnoses like any other; with the page in it.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: shows the frames drawn; silent by default.

    Raises:
        RunFolderError: ``out`` holds something else, or cannot be written.
    """
    folder = user_path(out)
    copy_team(folder)
    agent = load(folder, device)
    imagination = imagine(agent, HORIZONS, progress=progress)
    return Demo(agent, imagination, folder / FOLDERS["recorded"] / PAGE)


def copy_team(folder: Path) -> None:
    """Copy the run folder that ships with the library, unless ``folder`` is such a copy already.

    Raises:
        RunFolderError: it holds something else, or cannot be written.
    """
    manifest = Path(CHECKPOINT, MANIFEST)
    with write_errors(folder, "choose another --out"):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            copied = folder / manifest
            if copied.is_file() and copied.read_bytes() == (TEAM / manifest).read_bytes():
                return
            raise RunFolderError(f"{folder} holds something else: choose another --out")
        files = [path for path in TEAM.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == MANIFEST):  # last: an interrupted copy does not count
            copy = folder / path.relative_to(TEAM)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)  # its content alone: the installed files may be read-only
