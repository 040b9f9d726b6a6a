"""A copy on the CPU of a policy that lives elsewhere acts alike and is kept up to date."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from dima import build_config
from dima.envs import make_env
from dima.experience.collector import PolicySnapshot
from dima.experience.episodes import view_of
from dima.runtime import device
from tests.conftest import ON_ANY_TASK

pytestmark = pytest.mark.usefixtures("one_thread")


def elsewhere(policy: torch.nn.Module, monkeypatch, change: float = 0.0) -> dict[str, torch.Tensor]:
    """Move a policy off the CPU, as to a GPU, with weights changed by a constant; returns its state."""
    state = {name: value + change * value.is_floating_point() for name, value in policy.state_dict().items()}
    policy.to("meta")
    monkeypatch.setattr(policy, "state_dict", lambda: state)
    return state


@pytest.mark.parametrize("algorithm", ON_ANY_TASK)
@pytest.mark.parametrize("task", ["toy/uneven", "toy/switches"])
def test_a_snapshot_acts_alike_and_draws_nothing(task: str, algorithm: str, monkeypatch) -> None:
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: True)
    changes = {"learner": {"precision": "bf16"}} if algorithm in ("dima", "ensemble") else {}
    env = make_env(task)
    learner = build_config(task, algorithm, "debug", changes).learner.build(env.spec, "cpu")
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: False)  # the GPU had units for it, this CPU has none
    joint = {name: values[None] for name, values in env.reset(seed=0)[0].items()}
    view = view_of(joint, torch.zeros(1, *env.spec.action_valid.shape).numpy(), np.array([True]), "cpu")
    expected = learner.act(view, mode=True)[0]
    snapshot = PolicySnapshot()
    assert snapshot.of(learner.policy) is learner.policy  # on the CPU it needs no copy
    snapshot._copy = deepcopy(learner.policy)  # what the first call makes of a policy on a GPU
    elsewhere(learner.policy, monkeypatch)
    state = torch.get_rng_state()
    copy = snapshot.of(learner.policy)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(copy.act(view, mode=True)[0], expected)


def test_a_policy_on_another_device_has_one_copy_that_is_kept_up_to_date(monkeypatch) -> None:
    learner = build_config("toy/walk", "dima", "debug").learner.build(make_env("toy/walk").spec, "cpu")
    names = [name for name, _ in learner.named_parameters()]
    snapshot = PolicySnapshot()
    snapshot._copy = copy = deepcopy(learner.policy)
    state = elsewhere(learner.policy, monkeypatch, change=1.0)
    assert snapshot.of(learner.policy) is copy is snapshot.of(learner.policy)
    assert all(torch.equal(value, state[name]) for name, value in copy.state_dict().items())
    assert [name for name, _ in learner.named_parameters()] == names
