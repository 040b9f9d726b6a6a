"""Folders of strangers: whatever stands in one, nothing of it is run, nothing is written elsewhere, no memory is lost.

Every command and ``dima.load`` meet run folders and datasets whose files were changed and sealed again, so that the
change is really read. An audit hook watches what Python does meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pickle
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.font_manager
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import dima
from dima.algorithms import algorithm_config
from dima.cli import main
from dima.config import read_yaml
from dima.datasets.reader import Dataset, describe
from dima.envs import all_tasks, make_env
from dima.envs.pettingzoo import PettingZooConfig
from dima.errors import ConfigError, EnvError, UserError
from dima.presets import preset_names
from dima.registry import FromFile
from dima.storage.checkpoint import MANIFEST, TENSORS, TREE
from dima.storage.manifest import digest
from dima.storage.serialization import load_tree_file, save_tree_file

TINY = {"device": "cpu", "threads": 1, "tensorboard": False, "steps": 40, "evaluation_episodes": 1}
CANARY = """
from pathlib import Path
from dima.algorithms.mappo import MappoConfig
from dima.envs.toy import ToyConfig, WORLDS

Path(__file__).with_name("ran").touch()

def make():
    return WORLDS["walk"](ToyConfig(episode_limit=10))

class Mappo(MappoConfig):
    pass
"""
OWN = "canary:make"
OWN_ALGORITHM = "canary:Mappo"

pytestmark = pytest.mark.usefixtures("one_thread", "canary")


# -- folders, and how they are changed --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A folder of healthy ones: ``dima`` and ``mappo`` (runs), ``data`` (a dataset), ``fit`` (a run on it)."""
    home = tmp_path_factory.mktemp("kept")
    env = {"env": {"episode_limit": 10}}
    for algorithm in ("dima", "mappo"):
        dima.train(dima.build_config("toy/walk", algorithm, "debug", TINY | env | {"run": str(home / algorithm)}))
    dima.record(
        dima.record_config("toy/walk").override({"out": str(home / "data"), "steps": 40, "device": "cpu"} | env)
    )
    changes = {"run": str(home / "fit"), "iterations": 1, "evaluation_segments": 4, "evaluation_horizon": 3}
    fixed = {name: TINY[name] for name in ("device", "threads", "tensorboard")}
    dima.fit(dima.fit_config(home / "data", preset="debug", overrides=fixed | changes))
    return home


@pytest.fixture
def copy(kept: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a healthy folder."""

    def made(name: str) -> Path:
        return Path(shutil.copytree(kept / name, tmp_path / name, dirs_exist_ok=True))

    return made


@pytest.fixture
def canary(tmp_path: Path, monkeypatch) -> Callable[[], bool]:
    """A module of the user's own that can be imported; tells whether it was."""
    home = tmp_path / "modules"
    home.mkdir()
    (home / "canary.py").write_text(CANARY)
    monkeypatch.syspath_prepend(home)
    monkeypatch.delitem(sys.modules, "canary", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return lambda: (home / "ran").exists()


def change(folder: Path, file: str, edit: Callable[[Any], Any]) -> None:
    """Change the content of a file of a folder, and whatever seals it."""
    path = folder / file
    if file == "config.yaml":
        path.write_text(yaml.safe_dump(edit(read_yaml(path)), sort_keys=False))
        return
    content = json.loads(path.read_text())
    if file in ("dataset.json", f"checkpoint/{MANIFEST}"):
        content.pop("sha256")
        content = edit(content)
        content = {**content, "sha256": digest(content)} if isinstance(content, dict) else content
    else:
        content = edit(content)
    path.write_text(json.dumps(content, indent=1))
    if file == f"checkpoint/{TREE}":
        reseal(folder)


def reseal(folder: Path) -> None:
    """Make a run folder's manifest fit the files beside it."""

    def edit(body: dict[str, Any]) -> dict[str, Any]:
        files = {}
        for name in (TENSORS, TREE):
            content = (folder / "checkpoint" / name).read_bytes()
            files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return body | {"files": files}

    change(folder, f"checkpoint/{MANIFEST}", edit)


def replaced(content: Any, path: Sequence[Any], value: Any) -> Any:
    """Plain data with another value at a path of keys and numbers."""
    if not path:
        return value
    key, *rest = path
    if isinstance(content, dict):
        return {k: replaced(v, rest, value) if k == key else v for k, v in content.items()}
    return [replaced(v, rest, value) if i == key else v for i, v in enumerate(content)]


def paths(content: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in plain data; of long lists and of tables of tensors the first few."""
    yield here
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for number, (key, value) in enumerate(parts):
        if number < 40:
            yield from paths(value, (*here, key))


# -- what is watched --------------------------------------------------------------------------------------------------


class Watch:
    """Tells of programs that were started and files that were changed outside of a folder, by an audit hook."""

    inside: Path | None = None
    seen: list[str] = []  # noqa: RUF012

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.inside is None:
            return
        if event in ("os.system", "os.exec", "os.posix_spawn", "pty.spawn") or (
            event == "subprocess.Popen" and args[0] != "git"
        ):
            self.seen.append(f"{event} {args}")
        elif event == "open" and isinstance(args[0], str | bytes) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.file(args[0])
        elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.rename", "os.truncate", "shutil.rmtree"):
            for place in args[:2] if event == "os.rename" else args[:1]:
                if isinstance(place, str | bytes | Path) and args[-1] in (None, -1):  # or else relative to a folder
                    self.file(place)

    def file(self, place: str | bytes | Path) -> None:
        path = os.path.realpath(os.fsdecode(place))
        if not path.startswith((os.path.realpath(str(self.inside)) + os.sep, "/dev/", "/proc/")):
            self.seen.append(f"write {path}")


# what looks at the machine once and remembers it is not watched
platform.processor(), tempfile.gettempdir(), matplotlib.font_manager.fontManager, all_tasks()
WATCH = Watch()
sys.addaudithook(WATCH)


@pytest.fixture(autouse=True)
def watched(tmp_path: Path) -> Iterator[None]:
    """Whatever a test does, it starts no program and writes nothing outside of its folder."""
    WATCH.seen, WATCH.inside = [], tmp_path
    yield
    WATCH.inside = None
    assert not WATCH.seen


def state(folder: Path) -> dict[str, bytes]:
    """What a folder holds, its lock left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(capsys, *args: object) -> str:
    """The one line with which a command refuses."""
    capsys.readouterr()
    status = main([str(arg) for arg in args])
    told = capsys.readouterr()
    assert (status, told.out) == (2, ""), told
    assert told.err.startswith("dima: ")
    assert told.err.count("\n") == 1
    return told.err


# -- consent ----------------------------------------------------------------------------------------------------------

SHORT = ("--evaluation-horizon", "3", "--evaluation-segments", "4")
FIT = ("--preset", "debug", "--quiet", "--no-tensorboard", "--iterations", "1", "--device", "cpu", *SHORT)
RUN_COMMANDS = {
    "evaluate": ("evaluate", "{run}"),
    "resume": ("resume", "{run}", "--quiet"),
    "imagine": ("imagine", "{run}", "--quiet"),
    "diagnose": ("diagnose", "{run}", "--quiet"),
    "video": ("evaluate", "{run}", "--video"),
    "policy": ("export", "{run}", "--quiet"),
    "also": ("diagnose", "{healthy}", "--also", "{run}", "--quiet"),
}
DATA_COMMANDS = {
    "fit": ("fit", "{data}", "--run", "{new}", *FIT),
    "export": ("dataset", "export", "{data}", "mine/walk-v0"),
}
HOSTILE = {  # tasks, and arguments with which they would touch the canary
    OWN: "{}",
    "os:system": '{"command": "touch $CANARY"}',
    "builtins:exec": '{"source": "import canary"}',
    "pettingzoo/sisl.multiwalker_v9": '{"n_walkers": 2}',
}


@pytest.mark.parametrize("task", HOSTILE)
@pytest.mark.parametrize("command", [*RUN_COMMANDS, *DATA_COMMANDS])
def test_a_task_that_stands_in_a_folder_is_not_run(copy, canary, capsys, monkeypatch, tmp_path, command, task) -> None:
    monkeypatch.setenv("CANARY", str(tmp_path / "modules" / "ran"))
    places = {"run": copy("dima"), "data": copy("data"), "healthy": copy("fit"), "new": tmp_path / "new"}
    env = {"arguments": HOSTILE[task]}
    change(places["run"], "config.yaml", lambda config: config | {"task": task, "env": env})
    change(places["data"], "dataset.json", lambda facts: facts | {"task": task, "env": env})
    before = {name: state(folder) for name, folder in places.items()}
    line = refused(capsys, *(part.format(**places) for part in (RUN_COMMANDS | DATA_COMMANDS)[command]))
    assert f"names the task {task}" in line
    assert f"--task {task}" in line
    assert not canary()
    assert {name: state(folder) for name, folder in places.items()} == before


@pytest.mark.parametrize("task", HOSTILE)
def test_nor_in_python(copy, canary, task) -> None:
    run, data = copy("mappo"), copy("data")
    change(run, "config.yaml", lambda config: config | {"task": task, "env": {"arguments": HOSTILE[task]}})
    change(data, "dataset.json", lambda facts: facts | {"task": task, "env": {"arguments": HOSTILE[task]}})
    config = dima.RunConfig.from_dict(read_yaml(run / "config.yaml"))
    calls: list[Callable[[], Any]] = [
        partial(dima.load, run),
        partial(dima.evaluate, run),
        partial(dima.resume, run),
        partial(dima.diagnose, run),
        partial(dima.fit_config, data),
        partial(dima.train, config),
        partial(make_env, Dataset.open(data).task, Dataset.open(data).env),
        partial(make_env, pickle.loads(pickle.dumps(config.task)), config.env),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=f"names the task {task}"):
            call()
    assert not canary()


@pytest.mark.parametrize(
    "task",
    ["pettingzoo/os:system", "pettingzoo/canary:make", "a/b:c", "canary:", ":make", "canary:make()", "canary;os:x"],
)
def test_a_name_of_another_form_is_none(canary, task) -> None:
    for name in (task, FromFile(task)):
        with pytest.raises(ConfigError, match=r"is not of the form package\.module:factory"):
            make_env(name)
    assert not canary()


@pytest.mark.parametrize(
    "name",
    [
        *("os.path", "canary", "utils.conversions", "sisl.all_modules", "sisl.multiwalker.multiwalker", "", "."),
        *("sisl.._v1", "sisl/../canary", "sisl.", "atari.base_atari_env", "../canary_v1", "sisl.canary_v1"),
    ],
)
def test_the_names_of_pettingzoo_lead_to_its_environments_only(canary, name) -> None:
    before = set(sys.modules)
    with pytest.raises(EnvError, match="there is no module"):
        make_env(f"pettingzoo/{name}")
    assert not canary()
    assert not {module for module in set(sys.modules) - before if module.startswith("pettingzoo.")}


def test_a_pattern_allows_only_what_its_module_defines(copy, canary, capsys, monkeypatch, tmp_path) -> None:
    """Not what the module imports, no arguments of the stranger's, and nothing from the stranger's folder."""
    run, allowed = copy("mappo"), tmp_path / "config" / "dima" / "config.yaml"
    allowed.parent.mkdir(parents=True)
    allowed.write_text(yaml.safe_dump({"allow_tasks": ["helper:*", "elsewhere:make"]}))
    (tmp_path / "modules" / "helper.py").write_text("import os\nfrom os import system\n")
    monkeypatch.setenv("CANARY", str(tmp_path / "touched"))
    for name in ("helper:os.system", "helper:system"):
        for arguments in ("{}", '{"command": "touch $CANARY"}'):
            task = {"task": name, "env": {"arguments": arguments}}
            change(run, "config.yaml", lambda config, task=task: config | task)
            line = refused(capsys, "evaluate", run)
            expected = "a pattern does not allow it" if arguments == "{}" else "--task"
            assert expected in line, line
    (run / "elsewhere.py").write_text(CANARY)
    monkeypatch.chdir(run)
    change(run, "config.yaml", lambda config: config | {"task": "elsewhere:make", "env": {"arguments": "{}"}})
    assert "there is no module 'elsewhere'" in refused(capsys, "evaluate", run)
    assert not canary()
    assert not (tmp_path / "touched").exists()


def test_a_task_that_is_repeated_or_allowed_is_used(copy, canary, capsys, tmp_path) -> None:
    run, data = copy("mappo"), copy("data")
    for folder, file in ((run, "config.yaml"), (data, "dataset.json")):
        change(folder, file, lambda content: content | {"task": OWN, "env": {"arguments": "{}"}})
    line = refused(capsys, "evaluate", run, "--task", "canary:other")
    assert "task = 'canary:other' does not fit" in line
    assert OWN in line
    refused(capsys, "fit", data, "--task", "toy/walk", *FIT)
    assert not canary()
    allowed = tmp_path / "config" / "dima" / "config.yaml"
    allowed.parent.mkdir(parents=True)
    for entries in (["canary", "canary:makes"], ["*.canary:make"]):
        allowed.write_text(yaml.safe_dump({"allow_tasks": entries}))
        refused(capsys, "evaluate", run)
    for content in ("allow_tasks: canary:make", "allow_tasks: [1]", "allow: [a]", "[]", "{"):
        allowed.write_text(content)
        assert str(allowed) in refused(capsys, "evaluate", run)
    assert not canary()
    for entries in ([OWN], ["canary:*"]):
        allowed.write_text(yaml.safe_dump({"allow_tasks": entries}))
        assert main(["evaluate", str(run), "--episodes", "1"]) == 0
    allowed.unlink()
    assert canary()
    assert main(["evaluate", str(run), "--episodes", "1", "--task", OWN]) == 0
    assert main(["resume", str(run), "--quiet", "--steps", "60", "--task", OWN]) == 0
    assert read_yaml(run / "config.yaml")["task"] == OWN
    assert main(["fit", str(data), "--task", OWN, "--run", str(tmp_path / "new"), *FIT]) == 0
    refused(capsys, "resume", tmp_path / "new", "--iterations", "2")
    assert main(["resume", str(tmp_path / "new"), "--quiet", "--iterations", "2", "--task", OWN]) == 0
    assert dima.load(run, "cpu", task=OWN).evaluate(1, seed=0).returns
    source = ("--sources", str(run), "--steps", "10", "--quiet", "--out", str(tmp_path / "more"))
    assert main(["dataset", "record", OWN, *source]) == 0  # what is recorded was typed, so are the runs that play


@pytest.mark.parametrize("algorithm", [OWN_ALGORITHM, "os:system", "builtins:exec"])
@pytest.mark.parametrize("command", RUN_COMMANDS)
def test_an_algorithm_that_stands_in_a_folder_is_not_run(copy, canary, capsys, command, algorithm) -> None:
    places = {"run": copy("dima"), "healthy": copy("fit")}
    change(places["run"], "config.yaml", lambda config: config | {"algorithm": algorithm})
    before = {name: state(folder) for name, folder in places.items()}
    modules = set(sys.modules)
    args = [part.format(**places) for part in RUN_COMMANDS[command]]
    line = refused(capsys, *args)
    assert f"names the algorithm {algorithm}" in line
    assert f"--algorithm {algorithm}" in line
    assert "is of '" in refused(capsys, *args, "--algorithm", "mappo") or command == "also"
    assert not canary()
    assert "canary" not in set(sys.modules) - modules
    assert {name: state(folder) for name, folder in places.items()} == before


@pytest.mark.parametrize("algorithm", [OWN_ALGORITHM, "os:system"])
def test_nor_is_it_in_python(copy, canary, tmp_path, algorithm) -> None:
    run = copy("fit")
    change(run, "config.yaml", lambda config: config | {"algorithm": algorithm})
    content = read_yaml(run / "config.yaml")
    calls: list[Callable[[], Any]] = [
        partial(dima.load, run),
        partial(dima.evaluate, run),
        partial(dima.resume, run),
        partial(dima.resume, run, iterations=2),
        partial(dima.imagine, run),
        partial(dima.diagnose, run),
        partial(dima.RunConfig.from_dict, content),
        partial(algorithm_config, FromFile(algorithm)),
        partial(preset_names, pickle.loads(pickle.dumps(FromFile(algorithm)))),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=f"names the algorithm {algorithm}"):
            call()
    mappo = copy("mappo")
    change(mappo, "config.yaml", lambda config: config | {"algorithm": algorithm})
    done = dima.report([mappo], tmp_path / "report")  # what is only drawn needs no code
    assert not done.problems
    assert algorithm in done.page.read_text()
    assert not canary()


@pytest.mark.parametrize("algorithm", ["canary", "canary:", ":Mappo", "a/b:c", "canary:Mappo()", "../mappo", ""])
def test_an_algorithm_s_name_of_another_form_is_none(copy, canary, capsys, algorithm) -> None:
    run = copy("mappo")
    change(run, "config.yaml", lambda config: config | {"algorithm": algorithm})
    line = refused(capsys, "evaluate", run)
    assert "is not of the form package.module:Name" in line or f"there is no algorithm {algorithm!r}" in line
    refused(capsys, "train", "toy/walk", "--algorithm", algorithm)
    assert not canary()


def test_an_algorithm_that_is_repeated_or_allowed_is_used(copy, canary, capsys, tmp_path) -> None:
    run = copy("mappo")
    change(run, "config.yaml", lambda config: config | {"algorithm": OWN_ALGORITHM})
    allowed = tmp_path / "config" / "dima" / "config.yaml"
    allowed.parent.mkdir(parents=True)
    allowed.write_text(yaml.safe_dump({"allow_tasks": [OWN_ALGORITHM]}))  # tasks are another matter
    assert "allow_algorithms" in refused(capsys, "evaluate", run)
    allowed.write_text(yaml.safe_dump({"allow_algorithms": OWN_ALGORITHM}))
    assert "expected a list of names" in refused(capsys, "evaluate", run)
    assert "algorithm = 'canary:Other' does not fit" in refused(capsys, "evaluate", run, "--algorithm", "canary:Other")
    assert not canary()
    allowed.write_text(yaml.safe_dump({"allow_algorithms": ["canary:*"]}))
    source = ("--sources", str(run), "--steps", "10", "--quiet", "--env.episode-limit", "10")
    assert main(["dataset", "record", "toy/walk", *source, "--out", str(tmp_path / "more")]) == 0
    allowed.unlink()
    assert canary()
    assert main(["evaluate", str(run), "--episodes", "1", "--algorithm", OWN_ALGORITHM]) == 0
    assert main(["resume", str(run), "--quiet", "--steps", "60", "--algorithm", OWN_ALGORITHM]) == 0
    assert read_yaml(run / "config.yaml")["algorithm"] == OWN_ALGORITHM
    assert dima.load(run, "cpu", algorithm=OWN_ALGORITHM).evaluate(1, seed=0).returns
    refused(capsys, "diagnose", copy("fit"), "--also", run, "--quiet")


def test_what_the_user_types_needs_no_more() -> None:
    assert make_env(OWN).name == OWN
    assert make_env(FromFile("toy/walk")).name == "toy/walk"
    assert make_env("pettingzoo/classic.rps_v2", PettingZooConfig(arguments='{"max_cycles": 3}'))


def test_a_module_beside_the_folder_is_not_taken_for_one_of_a_library(canary, tmp_path, monkeypatch) -> None:
    (tmp_path / "pettingzoo").mkdir()
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    make_env("pettingzoo/classic.rps_v2")
    assert sys.path == before


# -- files that are made to mislead -----------------------------------------------------------------------------------

BOMB = "a: &a [1, 1]\n" + "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefghi"))
TEXTS = {
    "config.yaml": [
        *(BOMB, f"task: {BOMB[3:]}", "a: &a [*a]", "[" * 50_000, "a: " * 3_000, "task: !!python/name:os.system"),
        *("? {a: 1}\n: 2", "1: 2", "task: !!bool maybe", "seed: 0x" + "f" * 20_000, "seed: " + "9" * 5_000),
        *("task: 1:" + "1:" * 3_000 + "1", "task: !!timestamp x", "x" * 200_000, "\0", "task: toy/walk\nenv: {a: 1}"),
    ],
    "protocol.json": ["[" * 100_000, "9" * 5_000, '{"kind": "dima run folder", "format": ' + "[" * 3_000, "1", "NaN"],
    "metrics.jsonl": ["[" * 100_000 + "\n", "1\n", "x" * 2_000_000],
    f"checkpoint/{TREE}": ["[" * 100_000, '{"run": ' + '{"a":' * 50_000, "1", "{}", '{"run": {"!": "tuple"}}'],
    f"checkpoint/{MANIFEST}": ["[" * 100_000, "[]", '{"sha256": 1, "files": {"../config.yaml": 1}}'],
}


@pytest.mark.parametrize(("file", "text"), [(file, text) for file, texts in TEXTS.items() for text in texts])
def test_text_that_no_run_wrote(copy, capsys, tmp_path, file, text) -> None:
    run = copy("mappo")
    (run / file).write_text(text)
    if file.endswith(TREE):
        reseal(run)
    commands = [("evaluate", run), ("resume", run)]
    if file in ("config.yaml", "protocol.json", "metrics.jsonl"):
        commands.append(("report", run, "--out", tmp_path / "report"))
    for command in commands[2 * (file == "metrics.jsonl") :]:  # who acts or goes on needs no old metrics
        assert len(refused(capsys, *command)) < 2_300


def test_a_manifest_leads_nowhere_else(copy, capsys) -> None:
    run = copy("mappo")
    for files in ({"../config.yaml": {"size": 1, "sha256": ""}}, {}, [], {TENSORS: 1, TREE: 2}):
        change(run, f"checkpoint/{MANIFEST}", lambda body, files=files: body | {"files": files})
        assert MANIFEST in refused(capsys, "evaluate", run)
    reseal(run)
    for number in ("../../x", "/etc/passwd", -1, 1.5, None):
        chunk = {"!": "dict", "items": [[number, {"size": 1, "sha256": ""}]]}
        change(run, f"checkpoint/{TREE}", lambda tree, chunk=chunk: tree | {"chunks": chunk})
        assert "chunks" in refused(capsys, "resume", run)


def test_links_lead_nowhere_else(copy, capsys, tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("000009.safetensors", "file"):
        (outside / name).write_text("kept")
    for name in ("run.lock", "metrics.jsonl", "config.yaml.new", "replay", "checkpoint.new", "tensorboard"):
        run = copy("mappo")
        place = run / name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        place.symlink_to(outside if "." not in name else outside / "file")
        assert f"{name} is a symbolic link" in refused(capsys, "resume", run)
        shutil.rmtree(run)
    run = copy("dima")
    for name in ("imagination", "diagnosis", "videos"):
        (run / name).symlink_to(outside)
    for command in (("imagine",), ("diagnose",), ("evaluate", "--episodes", "1", "--video")):
        assert "is a symbolic link" in refused(capsys, command[0], run, *command[1:])
    data = copy("data")
    (data / "dataset.json.new").symlink_to(outside / "file")
    assert "is a symbolic link" in refused(capsys, "dataset", "record", "toy/walk", "--out", data, "--overwrite")
    for name in ("run.lock", "config.yaml.new", "metrics.jsonl", "protocol.json.new"):  # a run that is begun anew there
        run = copy("mappo")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(outside / "file")
        config = dima.RunConfig.from_dict(read_yaml(run / "config.yaml")).override({"run": str(run)})
        try:
            dima.train(config, overwrite=True)
        except UserError:
            assert name == "run.lock"
        shutil.rmtree(run)
    assert [path.read_text() for path in sorted(outside.iterdir())] == ["kept", "kept"]
    assert len(list(outside.iterdir())) == 2


def test_files_without_end(copy, capsys, tmp_path) -> None:
    for name in (
        "config.yaml",
        "protocol.json",
        f"checkpoint/{TREE}",
        f"checkpoint/{MANIFEST}",
        f"checkpoint/{TENSORS}",
    ):
        run = copy("mappo")
        for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), sparse):
            (run / name).unlink()
            make(run / name)
            refused(capsys, "evaluate", run)
        shutil.rmtree(run)
    run = copy("mappo")
    (run / "metrics.jsonl").unlink()
    sparse(run / "metrics.jsonl")
    refused(capsys, "report", run, "--out", tmp_path / "report")
    data = copy("data")
    (data / "dataset.json").unlink()
    sparse(data / "dataset.json")
    refused(capsys, "dataset", "info", data)


def sparse(path: Path) -> None:
    """A file of a terabyte that takes no room."""
    with path.open("wb") as file:
        file.truncate(2**40)


def test_tensors_that_no_run_wrote(copy, capsys) -> None:
    run = copy("mappo")
    for header in (b"\xff" * 16, b"\0" * 8, (2**40).to_bytes(8, "little") + b"{}", b"\x02" + b"\0" * 7 + b"{}", b""):
        (run / "checkpoint" / TENSORS).write_bytes(header)
        reseal(run)
        refused(capsys, "evaluate", run)


@pytest.mark.parametrize(
    "edit",
    [
        {"last": [0, 0, 0]},
        {"last": [-1, 1, 2]},
        {"last": [2**40] * 3},
        {"start": -(2**40)},
        {"start": 2**62},
        {"state": [1.0]},
        {"last": []},
    ],
    ids=str,
)
def test_a_replay_that_no_run_wrote(copy, edit) -> None:
    """Episodes that run backwards would be read for ever, rows far apart would be room for all between them."""
    run = copy("dima")
    path = next((run / "replay").iterdir())
    chunk = load_tree_file(path)
    length = len(chunk["last"])
    for name, value in edit.items():
        chunk[name] = value if name == "start" else torch.tensor(value, dtype=chunk[name].dtype).repeat(length)[:length]
        if name == "state" or not value:
            chunk[name] = chunk[name][:1]
    save_tree_file(path, chunk)
    content = path.read_bytes()
    facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change(run, f"checkpoint/{TREE}", lambda tree: replaced(tree, ("chunks", "items", 0, 1), facts))
    for call in (lambda: dima.load(run, "cpu").experience(), lambda: dima.resume(run, steps=600)):
        with pytest.raises(UserError, match="does not fit"):
            call()


# -- every field ------------------------------------------------------------------------------------------------------

FILES = [  # what is read of each healthy folder
    *(("mappo", file) for file in ("config.yaml", "protocol.json", f"checkpoint/{TREE}", f"checkpoint/{MANIFEST}")),
    *((name, file) for name in ("dima", "fit") for file in ("config.yaml", f"checkpoint/{TREE}")),
    *(("data", "dataset.json"),) * 2,
]


def nested(wrap: Callable[[Any], Any], depth: int) -> Any:
    """Something that is wrapped so many times."""
    inner: Any = 0
    for _ in range(depth):
        inner = wrap(inner)
    return inner


deep = st.sampled_from([nested(wrap, 150) for wrap in (lambda inner: [inner], lambda inner: {"a": inner})])
values = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from([10**6, 10**9, 10**12, 2**62, 10**30, 10**400, -(10**400)])
    | st.floats()
    | st.sampled_from([OWN, "os:system", "pettingzoo/os:system", "../../x", "/etc/passwd", "\x1b]0;a\x07", "x" * 3_000])
    | st.text(max_size=5)
    | st.sampled_from([[], {}, [[]], [1, 2], ["a"], {"a": 1}])
    | st.sampled_from(
        [{"!": kind, "name": "a", "items": [[[], 1]], "value": "x"} for kind in ("tensor", "tuple", "dict")]
    )
    | deep
)


@pytest.fixture(scope="module")
def fields(kept: Path) -> list[list[list[tuple[Any, ...]]]]:
    """Of every file its fields: paths, those that begin alike together, so that long lists do not crowd out others."""
    found = []
    for name, file in FILES:
        path = kept / name / file
        content = read_yaml(path) if file == "config.yaml" else json.loads(path.read_text())
        groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
        for where in paths(content):
            groups.setdefault(where[:3], []).append(where)
        found.append(list(groups.values()))
    return found


@settings(  # a failure is small enough as it is, and to look for a smaller one would take minutes
    max_examples=100,
    deadline=None,
    phases=(Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(pick=st.tuples(*(st.integers(0, 10**6),) * 3), value=values)
def test_whatever_a_field_becomes_is_fine_or_an_error_of_the_users(fields, copy, canary, tmp_path, pick, value) -> None:
    WATCH.inside, WATCH.seen = None, []  # Hypothesis keeps files of its own
    number = pick[0] % len(FILES)
    name, file = FILES[number]
    group = fields[number][pick[1] % len(fields[number])]
    where = group[pick[2] % len(group)]
    shutil.rmtree(tmp_path / name, ignore_errors=True)
    folder = copy(name)
    try:
        change(folder, file, lambda content: replaced(content, where, value))
    except (ValueError, TypeError, AttributeError):  # such a value cannot be written, or not sealed again
        return
    calls: list[Callable[[], Any]]
    if name == "data":
        calls = [lambda: describe(Dataset.open(folder)), lambda: dima.fit_config(folder, preset="debug")]
    else:
        calls = [lambda: dima.load(folder, "cpu").evaluate(1)]
        if file != "config.yaml" or where[:1] not in (("steps",), ("iterations",), ("learner",), ("threads",)):
            more = {"iterations": 2} if name == "fit" else {"steps": 90}  # another iteration than is saved
            calls.append(lambda: dima.resume(folder, **more))  # those fields say how much is learnt, which may be much
    WATCH.inside = tmp_path
    for call in calls:
        with contextlib.suppress(UserError):
            call()
    WATCH.inside = None
    assert not canary()
    assert not WATCH.seen


@pytest.mark.parametrize("name", ["mappo", "protocol"])
def test_reports_leave_out_what_no_run_wrote(copy, kept, tmp_path, name) -> None:
    """A hostile folder beside a healthy one costs its own line, not the report."""
    run, file = copy("mappo"), "config.yaml" if name == "mappo" else "protocol.json"
    content = read_yaml(run / file) if file == "config.yaml" else json.loads((run / file).read_text())
    strange: list[Any] = [None, 10**400, math.inf, "<script>", [], {}, [[]], {"a": {"b": []}}, -1]
    for number, where in enumerate(path for path in paths(content) if len(path) in (1, 2)):
        shutil.copytree(kept / "mappo", run / str(number))
        change(run / str(number), file, lambda facts, w=where, n=number: replaced(facts, w, strange[n % len(strange)]))
    (run / "protocol.json").unlink()
    (run / "metrics.jsonl").unlink()
    done = dima.report([kept / "dima", run], tmp_path / "report")
    assert done.problems
    assert "<script" not in done.page.read_text()


# -- memory -----------------------------------------------------------------------------------------------------------

LARGE = """
import resource, sys
from pathlib import Path
import dima
from dima.config import read_yaml, write_yaml

run = Path(sys.argv[1])
dima.load(run, "cpu")  # everything is imported
limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 600 * 1024
good = read_yaml(run / "config.yaml")
for field in sys.argv[2:]:
    for size in (50_000, 10**6, 10**9, 10**12):
        *path, name = field.split(".")
        config = read_yaml(run / "config.yaml")
        inner = config
        for part in path:
            inner = inner[part]
        inner[name] = [size] if isinstance(inner[name], list) else size
        write_yaml(run / "config.yaml", config)
        for call in (lambda: dima.load(run, "cpu"), lambda: dima.resume(run)):
            try:
                call()
            except dima.UserError:
                pass
        write_yaml(run / "config.yaml", good)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert used < limit, (field, size, used)
"""
SIZES = (
    *("learner.ppo.actor.hidden", "learner.ppo.critic.hidden", "learner.world_model.reward.dim"),
    *(
        "learner.world_model.reward.segment",
        "learner.world_model.decoder.codebook",
        "learner.world_model.denoiser.blocks",
    ),
    *("learner.world_model.denoiser.condition_dim", "env.n_agents", "env.episode_limit", "envs"),
    "evaluation_episodes",
)


def test_networks_are_no_larger_than_the_checkpoint(copy) -> None:
    run = copy("dima")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    WATCH.inside = None
    done = subprocess.run([sys.executable, "-c", LARGE, run, *SIZES], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
