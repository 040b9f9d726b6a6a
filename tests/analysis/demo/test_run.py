"""The trained team that ships with the library loads, imagines and is copied whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import dima
from benchmarks.demo import make_team
from dima.agent import load
from dima.analysis.demo import run as module
from dima.analysis.demo.run import TEAM, copy_team
from dima.cli import main
from dima.errors import ConfigError, RunFolderError
from dima.storage.checkpoint import FORMAT, read_manifest
from dima.training.online import train
from dima.training.run_config import build_config

pytestmark = pytest.mark.usefixtures("one_thread")

MAKE_AGAIN = "make it again: python -m benchmarks.demo RUN"


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(module, "HORIZONS", (2, 4))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_team_that_ships_has_today_s_format_and_runs() -> None:
    assert read_manifest(TEAM / "checkpoint")["format"] == FORMAT, MAKE_AGAIN
    agent = load(TEAM, "cpu")
    assert agent.config.folder == Path("runs/demo"), "no folder of the machine it was trained on"
    assert agent.evaluate(1).mean > 2_000  # a random policy earns -288
    assert agent.steps == agent.config.steps
    assert sum(map(len, contents(TEAM).values())) < 6_000_000


def test_the_demo_writes_its_page_and_says_so_in_three_lines(tmp_path: Path, quick, capsys) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--no-open", "--quiet"]) == 0
    who, what, where = capsys.readouterr().out.splitlines()
    assert who.startswith(f"{out}: 2 agents that dima taught mamujoco/halfcheetah-2x3 in 20,000 steps")
    assert what.startswith("they imagined 4 steps of a fresh episode: reward ")
    assert where == f"page: {out / 'imagination' / 'imagination.html'}"
    assert (out / "imagination" / "imagination.html").stat().st_size > 10_000
    assert contents(TEAM).items() <= contents(out).items()
    assert main(["demo", "--out", str(out), "--no-open", "--quiet", "--json"]) == 0, "the copy is used again"
    told = json.loads(capsys.readouterr().out)
    assert (told["folder"], told["page"]) == (str(out), where.removeprefix("page: ")) and told["horizons"]
    assert main(["evaluate", str(out), "--episodes", "1"]) == 0


@pytest.mark.parametrize(
    ("platform", "screen", "opened"), [("linux", {}, 0), ("linux", {"DISPLAY": ":0"}, 1), ("darwin", {}, 1)]
)
def test_the_page_is_opened_where_there_is_a_screen(monkeypatch, tmp_path, platform, screen, opened) -> None:
    pages: list[str] = []
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in screen.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("dima.cli.inspect.sys.platform", platform)
    monkeypatch.setattr("webbrowser.open", pages.append)
    page, complete = tmp_path / "a page.html", SimpleNamespace(no_pictures="")
    found = SimpleNamespace(page=page, imagination=complete, summary=lambda: "done")
    monkeypatch.setattr(module, "demo", lambda *_, **__: found)
    assert main(["demo"]) == 0
    assert pages == [page.as_uri()] * opened
    assert main(["demo", "--no-open"]) == 0
    assert len(pages) == opened


def test_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="holds something else: choose another --out"):
        copy_team(tmp_path)
    with pytest.raises(RunFolderError, match="holds something else: choose another --out"):
        copy_team(tmp_path / "mine.txt")
    assert contents(tmp_path) == {"mine.txt": b"mine"}
    (tmp_path / "empty").mkdir()
    copy_team(tmp_path / "empty")
    assert contents(tmp_path / "empty") == contents(TEAM)


def test_a_copy_can_be_written_to_though_the_original_cannot(tmp_path: Path, monkeypatch) -> None:
    original = Path(shutil.copytree(TEAM, tmp_path / "team"))
    for path in original.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(module, "TEAM", original)
    copy_team(tmp_path / "copy")
    assert all(path.stat().st_mode & 0o200 for path in (tmp_path / "copy").rglob("*"))
    for path in original.rglob("*"):
        path.chmod(0o755)


def test_a_team_is_made_from_a_run_without_what_only_learning_needs(tmp_path: Path, capsys) -> None:
    fixed = {"device": "cpu", "threads": 1, "tensorboard": False, "steps": 90, "evaluation_episodes": 1}
    config = build_config(
        "toy/walk", "dima", "debug", fixed | {"run": str(tmp_path / "run"), "learner": {"learn_after": 60}}
    )
    run, team = train(config).folder, tmp_path / "team"
    (team / "left").mkdir(parents=True)
    make_team(run, team)
    before, after = load(run, "cpu"), load(team, "cpu")
    assert after.evaluate(2) == before.evaluate(2) and after.steps == before.steps
    assert (team / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert {path.name for path in team.iterdir()} == {"checkpoint", "config.yaml", "metrics.jsonl", "protocol.json"}
    sizes = [sum(map(len, contents(folder / "checkpoint").values())) for folder in (team, run)]
    assert sizes[0] < sizes[1] / 2
    kinds = [dima.imagine(folder, [3], out=tmp_path / "out").state_error.tolist() for folder in (run, team)]
    assert kinds[0] == kinds[1]
    with pytest.raises(RunFolderError, match="its episodes were left out"):
        after.as_env()
    assert after.as_env("episodes").reset(seed=0)
    assert main(["resume", str(team), "--steps", "120", "--quiet"]) == 2
    assert "holds what acting and imagining need, not what learning does" in capsys.readouterr().err
    mappo = train(build_config("toy/walk", "mappo", "debug", fixed | {"run": str(tmp_path / "mappo")})).folder
    with pytest.raises(ConfigError, match="mappo learns no world model"):
        make_team(mappo, tmp_path / "none")


def test_the_wheel_holds_the_team_and_other_files(tmp_path: Path) -> None:
    """Files that the build would pack, from a copy of the source without version control."""
    pytest.importorskip("setuptools", "77")
    root = Path(module.__file__).parents[3]
    for name in ("dima", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (root / name).is_dir() else shutil.copyfile
        copy(root / name, tmp_path / name)
    program = "from setuptools import setup; setup()"
    done = subprocess.run(
        [sys.executable, "-c", program, "-q", "build_py", "--build-lib", "built"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    built = tmp_path / "built" / "dima"
    assert contents(built / "analysis" / "demo" / "team") == contents(TEAM)
    scripts = {path.name for path in (built / "cli" / "completions").iterdir()}
    assert {"candidates.awk", "dima.bash", "dima.zsh", "dima.fish"} <= scripts
