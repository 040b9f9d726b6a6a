"""What the README says can be done, can be done: every command and the Python example are executed, shortened."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from dima.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = "--steps 400 --evaluation-episodes 1 --env.episode-limit 60 --device cpu --threads 1 --quiet --no-tensorboard"

pytestmark = pytest.mark.usefixtures("one_thread")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found.group(1)


def shortened(line: str) -> list[str]:
    """The command with the smallest preset; a later flag wins over an earlier one."""
    line = (
        line.replace("--preset small", "--preset debug")
        .replace("-small-", "-debug-")
        .replace("--episodes 20", "--episodes 1")
    )
    if line.startswith("dima train mpe"):
        line += " " + SHORT.replace("--env.episode-limit 60 ", "")
    elif line.startswith("dima train"):
        line += " " + SHORT
    elif line.startswith("dima resume"):
        line += " --quiet"
    return shlex.split(line)[1:]


def test_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = block("sh").strip().splitlines()
    assert len(lines) >= 9
    for line in lines:
        assert line.startswith("dima ")
        assert main(shortened(line)) == 0, (line, capsys.readouterr().err)


def test_python_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python"), "README.md", "exec"), {})
    assert "run folder: runs/first" in capsys.readouterr().out


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make (\w+)`|^    make (\w+)$", README, re.MULTILINE))))
def test_make_targets_exist(target):
    name = "".join(target)
    done = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/ready", "--assume-old=.venv/browser", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_files_named_in_the_architecture_exist():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(dima/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name
