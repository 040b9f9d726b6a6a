"""Execute every command and Python example of the README and the first pages of the docs, shortened."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dima.cli import main
from dima.registry import given

ROOT = Path(__file__).parents[1]
COMMANDS = {  # how many there are at least
    "README.md": 3,
    "docs/quickstart.md": 14,
    "docs/own-environment.md": 4,
    "docs/export.md": 2,
}
SHORT = "--steps 400 --evaluation-episodes 1 --env.episode-limit 60 --device cpu --threads 1 --quiet --no-tensorboard"

PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
TARGETS = {name for page in PAGES for name in re.findall(r"`make (\w+)`", (ROOT / page).read_text(encoding="utf-8"))}

pytestmark = pytest.mark.usefixtures("one_thread")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found
    return found


def shortened(line: str) -> list[str]:
    """The command with the smallest preset; a later flag wins over an earlier one."""
    line = (
        line.replace("--preset small", "--preset debug")
        .replace("-small-", "-debug-")
        .replace("--episodes 20", "--episodes 1")
    )
    if line == "dima demo":
        line += " --no-open --quiet"
    elif re.match("dima train (mpe/|worlds:|scenes:)", line):
        line += " " + SHORT.replace("--env.episode-limit 60 ", "")
    elif line.startswith("dima train"):
        line += " " + SHORT
    elif line.startswith("dima resume"):
        line += " --quiet"
    return shlex.split(line)[1:]


@pytest.mark.parametrize("page", COMMANDS)
def test_commands(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("dima.analysis.demo.run.HORIZONS", (2, 4))
    if page == "docs/own-environment.md":
        for name, text in zip(("worlds", "scenes"), blocks(page, "python"), strict=False):
            monkeypatch.delitem(sys.modules, name, raising=False)
            (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    lines = "".join(blocks(page, "sh")).strip().splitlines()
    assert len(lines) >= COMMANDS[page]
    for line in lines:
        assert line.startswith("dima ")
        assert main(shortened(line)) == 0, (line, capsys.readouterr())


def test_python_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("README.md", "python")[0], "README.md", "exec"), {})
    assert "run folder: runs/first" in capsys.readouterr().out


def test_python_page(tmp_path, monkeypatch, capsys):
    """Its examples in their order, as in one process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(given, "_GIVEN", {})
    monkeypatch.setattr(given, "_ARGUMENTS", {})
    namespace: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(blocks("docs/python.md", "python")):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), namespace)
    assert namespace["run"].stopped == "Diary: seen enough" and namespace["best"].steps > 0
    assert "step 4,000 of 4,000" in capsys.readouterr().err
    assert namespace["team"].env.spec.n_agents == 3


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_make_targets_exist(name):
    done = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/ready", "--assume-old=.venv/browser", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_the_docs_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:dima|benchmarks|tests)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_moving_picture_is_small_and_plays_for_ever():
    with Image.open(ROOT / "docs" / "imagination.webp") as picture:
        assert picture.n_frames > 40 and picture.info["loop"] == 0
    assert (ROOT / "docs" / "imagination.webp").stat().st_size <= 2_000_000
