"""Which backend MuJoCo draws with, and what is said when there is none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dima.envs.render import headless
from dima.errors import EnvError


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch) -> None:
    monkeypatch.delenv(headless.VARIABLE, raising=False)
    monkeypatch.setattr("platform.system", lambda: "Linux")


def working(monkeypatch, *names: str) -> None:
    monkeypatch.setattr(headless, "error_of", lambda name: "" if name in names else f"no {name} library")


def test_egl_comes_first_then_osmesa(monkeypatch) -> None:
    working(monkeypatch, "egl", "osmesa")
    assert headless.backend() == "egl"
    working(monkeypatch, "osmesa")
    assert headless.backend() == "osmesa"


def test_what_the_user_asks_for_is_used_and_nothing_else(monkeypatch) -> None:
    working(monkeypatch, "egl", "osmesa")
    monkeypatch.setenv(headless.VARIABLE, " OSMesa")
    assert headless.backend() == "osmesa"
    monkeypatch.setenv(headless.VARIABLE, "enabled")
    assert headless.backend() == "egl"
    monkeypatch.setenv(headless.VARIABLE, "glfw")
    with pytest.raises(
        EnvError, match=r"MUJOCO_GL = 'glfw' cannot draw here \(no glfw library\): unset it, or install"
    ):
        headless.backend()
    monkeypatch.setenv(headless.VARIABLE, "off")
    with pytest.raises(EnvError, match="MUJOCO_GL = 'off' draws no pictures: unset it, or give one of egl, osmesa"):
        headless.backend()


def test_without_any_it_says_why_and_what_to_install(monkeypatch) -> None:
    working(monkeypatch)
    with pytest.raises(EnvError, match=r"egl: no egl library; osmesa: no osmesa library\): install libegl1"):
        headless.open_context(8, 8)


def test_other_systems_have_their_own(monkeypatch) -> None:
    working(monkeypatch, "cgl", "glfw")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert headless.backend() == "cgl"
    monkeypatch.setattr("platform.system", lambda: "Windows")
    assert headless.backend() == "glfw"


def test_a_backend_is_tried_in_a_process_of_its_own(monkeypatch) -> None:
    asked = []

    def answer(status: int, stderr: str):
        def run(command, **_):
            asked.append(command)
            return subprocess.CompletedProcess(command, status, "", stderr)

        monkeypatch.setattr(subprocess, "run", run)
        headless.error_of.cache_clear()
        return headless.error_of("egl")

    assert answer(0, "some warning") == ""
    assert answer(1, "Traceback\n  ...\nImportError: no EGL\n\n") == "ImportError: no EGL"
    assert answer(-11, "") == "it crashed with status -11"
    assert "mujoco.egl" in asked[0][-1]

    def hang(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    headless.error_of.cache_clear()
    assert headless.error_of("egl") == "it did not answer within a minute"
    headless.error_of.cache_clear()


def test_nothing_is_decided_before_something_is_drawn() -> None:
    program = """
import os, dima.agent, dima.cli.inspect
from dima.envs import make_env
make_env("mamujoco/halfcheetah-2x3").reset(seed=0)
print([name for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM") if name in os.environ])
"""
    env = {name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"}  # of a test that drew
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "[]\n"


def test_a_word_that_mujoco_does_not_know_is_one_line(tmp_path) -> None:
    """MuJoCo refuses to be imported then, whatever it is wanted for; other tasks are not concerned."""
    around = os.environ | {headless.VARIABLE: "none"}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "dima", *args], capture_output=True, text=True, env=around)

    refused = run("train", "mamujoco/halfcheetah-2x3", "--preset", "debug", "--run", str(tmp_path / "run"))
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert refused.stderr.startswith("dima: the tasks mamujoco/... cannot be used here: ")
    assert "MUJOCO_GL: none" in refused.stderr
    assert not any(tmp_path.iterdir())
    assert run("check", "toy/walk").returncode == 0
