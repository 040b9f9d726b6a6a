"""Whole runs on SMAX, where its package is installed: every algorithm trains, and a resumed run equals a whole one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec

import pytest

from benchmarks.studies.kill import contents, differences
from benchmarks.studies.wins import win_rates
from dima.runtime.progress import Progress, Step
from dima.training.online import resume, train

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(find_spec("jaxmarl") is None, reason="needs the extra dima-marl[smax]"),
]


class Halted(Exception):
    """Stands for a power failure."""


class Halting(Progress):
    """Fails when the second iteration updates the policy."""

    left = 2

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        with super().phase(name, total) as step:
            self.left -= name == "update"
            if not self.left:
                raise Halted
            yield step


@pytest.mark.parametrize("algorithm", ["dima", "happo", "hasac", "mamba", "marie"])
def test_it_is_learnt_in(tiny, algorithm):
    """DIMA predicts the masks of actions, MARIE and MAMBA too."""
    config = tiny("smax/3m", algorithm, steps=240)
    assert train(config).finished
    records = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
    losses = {n: v for record in records for n, v in record.items() if n.startswith(("world_model/", "policy/"))}
    assert losses
    assert all(math.isfinite(value) for value in losses.values())
    protocol = json.loads((config.folder / "protocol.json").read_text())
    assert all(protocol["packages"][name] for name in ("jaxmarl", "jax", "jaxlib"))
    policies = win_rates(config.folder, episodes=2)["policies"]
    assert [row["steps"] for row in policies][-1] >= 240
    assert all(0 <= row["won"] <= 1 and 0 <= row["return"] <= 2 for row in policies)


def test_a_resumed_run_equals_an_uninterrupted_one(tiny):
    whole, halted = (tiny("smax/3m", "mappo", run, steps=240, envs=2) for run in ("whole", "halted"))
    train(whole)
    with suppress(Halted):
        train(halted, progress=Halting())
        pytest.fail("it was not halted")
    assert resume(halted.folder).finished
    assert not differences(contents(whole.folder), contents(halted.folder))
