"""The example runs, and says what it needs where that is missing."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_in_imagination.py"


@pytest.mark.usefixtures("one_thread")
def test_another_library_learns_inside_a_world_model(capsys):
    pytest.importorskip("stable_baselines3")
    before, after = runpy.run_path(str(EXAMPLE))["main"](iterations=1, steps=512)
    assert before < 0 and after < 0  # distances to targets; nothing was learnt in so short a time
    assert "learnt in imagination" in capsys.readouterr().out


def test_without_the_other_library_it_is_asked_for():
    program = f"import sys, runpy; sys.modules['stable_baselines3'] = None; runpy.run_path({str(EXAMPLE)!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "this example trains with Stable-Baselines3: pip install stable-baselines3"
