"""Run folders to and from the hub, by its own client, against a stand-in on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dima
from dima.cli import main
from dima.errors import ConfigError, RunFolderError
from dima.storage.run_folder import RunFolder
from tests.sharing.hub_server import Hub, running_hub

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub", reason="needs the extra dima-marl[hub]")
    with running_hub() as server:
        yield server


@pytest.fixture
def command(hub: Hub, tmp_path: Path) -> Command:
    """Runs a command in a process of its own, since the client reads its settings when it is imported."""
    own = {"HF_ENDPOINT": hub.address, "HF_TOKEN": "secret", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    env = {**os.environ, **own, "PYTHONPATH": str(Path(__file__).parents[2]), "NO_PROXY": "127.0.0.1"}

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "dima", *map(str, args)]
        return subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_goes_there_and_back(tiny, hub: Hub, command: Command, tmp_path: Path) -> None:
    run = dima.train(tiny("toy/walk", "dima", steps=120)).folder
    (run / "uncommitted.diff").write_text("secret")
    (run / "notes.txt").write_text("secret")
    (run / "wandb").mkdir()
    (run / "wandb" / "key").write_text("secret")
    pushed = command("push", run, "lab/walk")
    assert (pushed.returncode, pushed.stdout) == (0, f"pushed to {hub.address}/lab/walk\n"), pushed.stderr
    held = hub.repositories["lab/walk"]
    assert hub.private["lab/walk"]
    assert b"secret" not in b"".join(held.values())
    assert held["README.md"].decode().count("toy/walk") >= 2

    pulled = command("pull", "lab/walk")
    assert (pulled.returncode, pulled.stdout) == (0, "run folder: runs/lab/walk\n"), pulled.stderr
    there = tmp_path / "runs" / "lab" / "walk"
    assert content(there) == {name: data for name, data in held.items() if name != "README.md"}
    assert dima.evaluate(there, episodes=2) == dima.evaluate(run, episodes=2)
    shutil.move(there, again := tmp_path / "again")
    for folder in (run, again):
        dima.resume(folder, steps=180)
    scores = [[one.get("evaluate/return") for one in RunFolder.open(folder).records()] for folder in (run, again)]
    assert scores[0] == scores[1]

    (run / "videos").mkdir()
    (run / "videos" / "film.mp4").write_bytes(b"film")
    held["diagnosis/old.html"], held["LICENSE"] = b"", b"the user's own"
    assert command("push", run, "lab/walk", "--no-replay", "--json").returncode == 0
    assert held["videos/film.mp4"] == b"film"
    assert held["LICENSE"]
    assert "diagnosis/old.html" not in held
    assert not any(name.startswith("replay/") for name in held)
    assert hub.commits == ["lab/walk"] * 2


def test_what_a_stranger_put_there_stays_there(walker: Path, hub: Hub, command: Command, tmp_path: Path) -> None:
    hub.private["lab/run"], hub.private["lab/other"] = False, False
    hub.repositories["lab/run"] = content(walker) | {"dima.py": b"raise SystemExit('run')", ".bashrc": b""}
    hub.repositories["lab/other"] = {"config.yaml": b"task: toy/walk"}
    done = command("pull", "lab/run", "--run", "mine", "--json")
    assert json.loads(done.stdout) == {"run": "mine"}
    assert content(tmp_path / "mine").keys() <= content(walker).keys()

    for repo, text in {"lab/other": "not a dima run folder", "lab/nothing": "there is no such repository"}.items():
        failed = command("pull", repo)
        assert failed.returncode == 2
        assert failed.stderr.splitlines()[-1].startswith(f"dima: {repo}")
        assert text in failed.stderr
    assert not list((tmp_path / "runs" / "lab").iterdir())


def test_a_hub_that_is_away_is_one_line(walker: Path, hub: Hub, command: Command) -> None:
    hub.shutdown()
    hub.server_close()
    done = command("push", walker, "lab/walk")
    assert done.returncode == 2
    assert done.stderr.startswith("dima: lab/walk: the hub cannot be used (")
    assert done.stderr.count("\n") == 1


# -- before the hub is asked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repo", ["walk", "../walk", "lab/../walk", "lab/", "lab/walk/more", "https://host/lab/walk"])
def test_a_name_that_is_none(repo: str) -> None:
    with pytest.raises(ConfigError, match="expected owner/name"):
        dima.pull(repo)


def test_a_missing_package_is_one_line(walker: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["push", str(walker), "lab/walk"]) == 2
    assert capsys.readouterr().err == "dima: the hub needs the package huggingface_hub: pip install 'dima-marl[hub]'\n"


@pytest.fixture
def some_client(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", object())  # type: ignore[arg-type]  # it is never asked


@pytest.mark.usefixtures("some_client")
def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").touch()
    with pytest.raises(RunFolderError, match="never overwritten"):
        dima.pull("lab/walk", tmp_path / "run")


@pytest.mark.usefixtures("some_client")
def test_what_is_no_finished_run_is_not_pushed(walker: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not a dima run folder"):
        dima.push(tmp_path, "lab/walk")
    (walker / "videos").symlink_to("/etc")
    with pytest.raises(RunFolderError, match="symbolic link"):
        dima.push(walker, "lab/walk")
    (walker / "videos").unlink()
    with RunFolder.open(walker, write=True), pytest.raises(RunFolderError, match="being written by another process"):
        dima.push(walker, "lab/walk")
    shutil.rmtree(walker / "checkpoint")
    with pytest.raises(RunFolderError, match="holds no checkpoint"):
        dima.push(walker, "lab/walk")
