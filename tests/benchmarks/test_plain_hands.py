"""The plain step of two hands, which the speed benchmark compares with, makes the same steps."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.speed.plain.dexhands import PlainHands
from dima.envs.dexhands.env import AGENTS, DexHandsEnv
from dima.envs.dexhands.tasks import TASKS


@pytest.mark.parametrize("task", TASKS)
def test_the_plain_step_equals_the_library_s(task: str) -> None:
    env = DexHandsEnv(task)
    env.reset(seed=3)
    plain = PlainHands(task, env.model)
    plain.place(env.snapshot()[:-1])
    rng, rewards = np.random.default_rng(0), set()
    for _ in range(20):
        action = rng.uniform(-1.2, 1.2, (2, 26)).astype(np.float32)
        _, reward, failed, _, infos = env.step(dict(zip(AGENTS, action, strict=True)))
        state, plain_reward, plain_failed, success = plain.step(action)
        np.testing.assert_allclose(env.state(), state, rtol=0, atol=1.1e-3)  # of rounding
        assert reward["left_hand"] == pytest.approx(plain_reward, abs=1e-9)
        assert (failed["right_hand"], infos["left_hand"]["success"]) == (plain_failed, success)
        rewards.add(plain_reward)
        if failed["right_hand"]:
            break
    assert len(rewards) > 5
