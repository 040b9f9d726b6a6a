"""The twin on the CPU of a learner that lives elsewhere acts alike."""

from __future__ import annotations

import pytest
import torch

from dima import build_config
from dima.algorithms import algorithm_names
from dima.envs import make_env
from dima.experience.collector import view_of
from dima.runtime import device

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("algorithm", algorithm_names())
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


def test_a_learner_on_another_device_keeps_one_twin_up_to_date() -> None:
    learner = build_config("toy/walk", "dima", "debug").learner.build(make_env("toy/walk").spec, "cpu")
    names = [name for name, _ in learner.named_parameters()]
    twin = learner.twin()
    learner._acting.append(twin)
    elsewhere = {name: value + 1 for name, value in learner.team.state_dict().items()}
    learner.team.to("meta")  # as a GPU would be: not the CPU
    learner.team.state_dict = lambda: elsewhere  # type: ignore[method-assign]
    assert learner.on_cpu() is twin is learner.on_cpu()
    assert all(torch.equal(value, elsewhere[name]) for name, value in twin.team.state_dict().items())
    assert [name for name, _ in learner.named_parameters()] == names
