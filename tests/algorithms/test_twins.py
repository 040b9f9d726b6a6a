"""The twin on the CPU of a learner that lives elsewhere acts alike."""

from __future__ import annotations

import pytest
import torch

from dima import build_config, device
from dima.algorithms import ALGORITHMS
from dima.collect import view_of
from dima.envs import make_env

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("task", ["toy/uneven", "toy/switches"])
def test_a_twin_acts_alike_and_draws_nothing(task: str, algorithm: str, monkeypatch) -> None:
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: True)
    changes = {"learner": {"precision": "bf16"}} if algorithm in ("dima", "ensemble") else {}
    env = make_env(task)
    learner = build_config(task, algorithm, "debug", changes).learner.build(env.spec, "cpu")
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: False)  # the GPU had units for it, this CPU has none
    state = torch.get_rng_state()
    twin = learner.twin()
    assert torch.equal(torch.get_rng_state(), state)
    assert learner.on_cpu() is learner
    joint = {name: values[None] for name, values in env.reset(seed=0)[0].items()}
    view = view_of(joint, torch.zeros(1, *env.spec.action_valid.shape).numpy(), "cpu")
    assert torch.equal(twin.act(view, mode=True)[0], learner.act(view, mode=True)[0])
