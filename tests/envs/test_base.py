"""The adapter: padding, units, rewards, endings, masks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from dima.envs import make_env
from dima.envs.base import AdapterConfig, JointEnv
from dima.envs.toy import ToyConfig
from dima.errors import DivergenceError, EnvError

ZERO = np.zeros((2, 1), dtype=np.float32)


def test_agents_of_different_sizes_are_padded_with_zeros():
    env = make_env("toy/uneven")
    joint, _ = env.reset(seed=0)
    assert env.spec.obs_sizes == (2, 5)
    assert env.spec.action_sizes == (1, 3)
    assert joint["obs"].shape == (2, 5)
    assert joint["obs"].dtype == np.float32
    assert not joint["obs"][~env.spec.obs_valid].any()
    assert joint["obs"][env.spec.obs_valid].all()
    assert (joint["action_mask"] == [[True, False, False], [True, True, True]]).all()


def test_state_without_a_method_is_the_observations_without_padding():
    env = make_env("toy/uneven")
    joint, _ = env.reset(seed=0)
    assert env.spec.state_dim == 7
    assert np.array_equal(joint["state"], joint["obs"][env.spec.obs_valid])
    assert env.state_names()[2] == "agent_1:0"
    assert env.state_kinds() == ["agent_0"] * 2 + ["agent_1"] * 5


def test_padding_of_actions_does_not_reach_the_environment():
    one, two = make_env("toy/uneven"), make_env("toy/uneven")
    one.reset(seed=3), two.reset(seed=3)
    action = np.full((2, 3), 0.5, dtype=np.float32)
    padded = np.where(one.spec.action_valid, action, 99)
    assert np.array_equal(one.step(action)[0]["obs"], two.step(padded)[0]["obs"])


def test_reward_is_the_mean_over_agents(puppet):
    env = JointEnv(puppet(rewards=lambda t, r: {"left": 1.0, "right": 4.0}), name="p")
    env.reset(seed=0)
    assert env.step(ZERO)[1] == 2.5


def test_continuous_actions_are_clipped_and_mapped_onto_the_box(puppet):
    boxes = {
        "left": spaces.Box(np.array([0, -4], np.float32), np.array([1, 2], np.float32)),
        "right": spaces.Box(-1, 1, (2, 1), np.float64),
    }
    parallel = puppet(action=boxes)
    env = JointEnv(parallel, name="p")
    env.reset(seed=0)
    env.step(np.array([[0.0, 3.0], [0.25, -7.0]]))
    left, right = parallel.played[0]["left"], parallel.played[0]["right"]
    assert np.allclose(left, [0.5, 2.0])
    assert left.dtype == np.float32
    assert np.allclose(right, [[0.25], [-1.0]])
    assert right.shape == (2, 1)
    assert right.dtype == np.float64
    env.step(np.array([[-1.0, -1.0], [1.0, 1.0]]))
    assert np.array_equal(parallel.played[1]["left"], [0, -4])
    assert all(boxes[agent].contains(parallel.played[1][agent]) for agent in boxes)


def test_discrete_actions_choose_among_the_real_choices_and_respect_start(puppet):
    parallel = puppet(action={"left": spaces.Discrete(2, start=5), "right": spaces.Discrete(4)})
    env = JointEnv(parallel, name="p")
    env.reset(seed=0)
    env.step(np.array([[0.0, 1, 9, 9], [0, 0, 0, 1]]))  # the nines are padding
    assert parallel.played[0] == {"left": 6, "right": 3}
    assert env.spec.action_sizes == (2, 4)
    assert env.spec.discrete


def test_discrete_observations_become_one_hot(puppet):
    seen = {"left": spaces.Discrete(3, start=-1), "right": spaces.Box(0, 1, (2, 2), np.float32)}
    env = JointEnv(puppet(observation=seen, observations=lambda t, o: o | {"left": 1}), name="p")
    joint, _ = env.reset(seed=0)
    assert joint["obs"].tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("terminations", "truncations", "expected"),
    [
        ((True, True), (False, False), (True, False)),
        ((False, False), (True, True), (False, True)),
        ((True, False), (False, True), (False, True)),  # some were only cut: a limit ended the episode
        ((True, True), (True, True), (True, False)),
    ],
)
def test_a_time_limit_is_not_a_termination(puppet, terminations, truncations, expected):
    def by_agent(values):
        return lambda t, _: dict(zip(("left", "right"), values, strict=True))

    env = JointEnv(puppet(terminations=by_agent(terminations), truncations=by_agent(truncations)), name="p")
    env.reset(seed=0)
    assert env.step(ZERO)[2:4] == expected
    with pytest.raises(EnvError, match="call reset first"):
        env.step(ZERO)


def test_an_episode_limit_truncates(puppet):
    env = JointEnv(puppet(), name="p", config=AdapterConfig(episode_limit=2))
    assert env.spec.episode_limit == 2
    env.reset(seed=0)
    assert env.step(ZERO)[2:4] == (False, False)
    assert env.step(ZERO)[2:4] == (False, True)
    with pytest.raises(EnvError, match="call reset first"):
        env.step(ZERO)
    env.reset(seed=0)
    assert env.step(ZERO)[2:4] == (False, False)


def test_a_longer_limit_leaves_the_task_s_own_and_a_termination_stays_one(puppet):
    end = puppet(terminations=lambda t, e: dict.fromkeys(e, t == 2))
    end.episode_limit = 3
    env = JointEnv(end, name="p", config=AdapterConfig(episode_limit=2))
    env.reset(seed=0)
    env.step(ZERO)
    assert env.step(ZERO)[2:4] == (True, False)
    assert JointEnv(end, name="p", config=AdapterConfig(episode_limit=9)).spec.episode_limit == 3


def test_masks_in_observations_and_in_infos(puppet):
    mask = np.array([0, 1, 1], dtype=np.int8)
    action = {a: spaces.Discrete(3) for a in ("left", "right")}
    inside = {
        a: spaces.Dict(
            {"observation": spaces.Box(0, 9, (2,), np.float32), "action_mask": spaces.Box(0, 1, (3,), np.int8)}
        )
        for a in action
    }
    by_observation = puppet(
        observation=inside,
        action=action,
        observations=lambda t, o: {a: o[a] | {"action_mask": mask} for a in o},
    )
    by_info = puppet(action=action, infos=lambda t, i: {a: {"action_mask": mask} for a in i})
    for parallel in (by_observation, by_info):
        env = JointEnv(parallel, name="p")
        joint, _ = env.reset(seed=0)
        assert env.spec.masks_actions
        assert joint["action_mask"].tolist() == [[False, True, True]] * 2
        with pytest.raises(EnvError, match="'left' was given action 0, which its action mask forbids"):
            env.step(np.eye(3)[[0, 1]])


def test_an_agent_without_a_mask_may_do_anything(puppet):
    parallel = puppet(
        action={a: spaces.Discrete(2) for a in ("left", "right")},
        infos=lambda t, i: {"left": {"action_mask": np.array([True, False])}, "right": {}},
    )
    joint, _ = JointEnv(parallel, name="p").reset(seed=0)
    assert joint["action_mask"].tolist() == [[True, False], [True, True]]


def test_at_the_end_a_mask_may_be_missing_or_forbid_everything(puppet):
    action = {a: spaces.Discrete(2) for a in ("left", "right")}
    last = {"left": {"action_mask": np.zeros(2)}, "right": {}}
    parallel = puppet(
        action=action, limit=1, infos=lambda t, i: last if t else {a: {"action_mask": np.ones(2)} for a in i}
    )
    env = JointEnv(parallel, name="p")
    env.reset(seed=0)
    joint, _, _, truncated, _ = env.step(np.eye(2))
    assert truncated
    assert joint["action_mask"].all()


def test_arrays_handed_out_do_not_change_later(puppet):
    env = JointEnv(puppet(), name="p")
    first, _ = env.reset(seed=0)
    kept = {name: values.copy() for name, values in first.items()}
    env.step(ZERO)
    assert all(np.array_equal(first[name], kept[name]) for name in kept)


def test_nan_in_an_action_is_the_policys_fault(puppet):
    env = JointEnv(puppet(), name="p")
    env.reset(seed=0)
    with pytest.raises(DivergenceError, match="'right' is NaN"):
        env.step(np.array([[0.0], [np.nan]]))


def test_large_but_finite_values_pass(puppet):
    parallel = puppet(observations=lambda t, o: {a: v + np.float32(1e38) for a, v in o.items()})
    assert np.isfinite(JointEnv(parallel, name="p").reset(seed=0)[0]["obs"]).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("task", ["toy/uneven", "toy/walk", "toy/linear"])
def test_gymnasium_accepts_it(task):
    env = make_env(task)
    env.spec = None  # Gymnasium would rebuild the environment from its registration
    check_env(env, skip_render_check=True)


def test_facts_of_the_environment():
    env = make_env("toy/walk")
    assert env.spec.episode_limit == 30
    assert not env.spec.masks_actions
    assert not env.spec.discrete
    assert env.render_mode is None
    assert env.state_names() == ["state:0", "state:1", "state:2", "state:3"]
    assert env.state_kinds() == ["state"] * 4
    env.parallel_env.state_kinds = lambda: ["position"] * 2 + ["target"] * 2
    assert env.state_kinds()[1:3] == ["position", "target"]
    env.close()


# -- and back ---------------------------------------------------------------------------------------------------------

TASKS = ("toy/walk", "toy/switches", "toy/uneven", "mpe/simple_speaker_listener", "mamujoco/ant-4x2")


@pytest.mark.parametrize("task", TASKS)
def test_observations_and_actions_go_there_and_back(task):
    env = make_env(task)
    joint, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(4):
        observations, infos = env.decode_observations(joint["obs"], joint["action_mask"])
        for agent in env.parallel_env.possible_agents:
            assert env.parallel_env.observation_space(agent).contains(observations[agent])
        again = env.encode(observations, infos)
        assert np.array_equal(again["obs"], joint["obs"])
        assert np.array_equal(again["action_mask"], joint["action_mask"])
        action = np.where(env.spec.action_valid, rng.uniform(-1, 1, env.spec.action_valid.shape), 0)
        if env.spec.discrete:
            action = np.eye(env.spec.action_dim)[
                np.where(joint["action_mask"], rng.random(action.shape), -1).argmax(-1)
            ]
        actions = env.decode(action.astype(np.float32))
        np.testing.assert_allclose(env.encode_actions(actions), action, atol=1e-6)
        joint, *_ = env.step(action)


def test_masks_go_back_to_where_they_came_from(puppet):
    choices = {a: spaces.Discrete(3, start=5) for a in ("left", "right")}
    mask = np.array([1, 0, 1], np.int8)
    env = JointEnv(puppet(action=choices, infos=lambda t, i: {a: {"action_mask": mask} for a in i}), name="p")
    joint, _ = env.reset(seed=0)
    _, infos = env.decode_observations(joint["obs"], joint["action_mask"])
    assert infos["left"]["action_mask"].tolist() == [1, 0, 1]
    assert env.encode_actions({"left": 7, "right": 5}).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert env.decode(np.array([[0.0, 1, 0], [1, 0, 0]]), np.ones((2, 3), bool)) == {"left": 6, "right": 5}
    for wrong in ({"left": 8, "right": 5}, {"left": 4, "right": 5}, {"left": "up", "right": 5}):
        with pytest.raises(EnvError, match=r"agent 'left' was given action .*: its space is Discrete\(3, start=5\)"):
            env.encode_actions(wrong)
    with pytest.raises(EnvError, match="'right' was given no action"):
        env.encode_actions({"left": 5})


def test_predictions_are_moved_into_the_space(puppet):
    observed = {
        "left": spaces.Box(np.array([0, -1], np.int16), np.array([3, 1], np.int16), dtype=np.int16),
        "right": spaces.Discrete(3, start=1),
    }
    hooks = {"observations": lambda t, o: {"left": np.zeros(2, np.int16), "right": 1}}
    env = JointEnv(
        puppet(observation=observed, action={a: spaces.Box(-1, 1, (1,)) for a in observed}, **hooks), name="p"
    )
    predicted = np.array([[3.6, -0.4, 9.0], [0.1, 0.2, 0.7]], np.float32)
    observations, infos = env.decode_observations(predicted, np.ones((2, 1), bool))
    assert observations["left"].tolist() == [3, 0] and observations["left"].dtype == np.int16
    assert observations["right"] == 3 and infos == {"left": {}, "right": {}}


def test_actions_in_other_bounds_are_mapped_back_and_clipped(puppet):
    boxes = {"left": spaces.Box(0, 4, (2,), np.float32), "right": spaces.Box(-1, 1, (1,), np.float32)}
    env = JointEnv(puppet(action=boxes), name="p")
    joint = env.encode_actions({"left": np.array([3.0, 9.0], np.float32), "right": [0.5]})
    np.testing.assert_allclose(joint, [[0.5, 1.0], [0.5, 0.0]])
    with pytest.raises(EnvError, match="agent 'left' was given action"):
        env.encode_actions({"left": np.zeros(3), "right": np.zeros(1)})


def test_a_spec_can_make_another_environment_and_is_no_different_for_it():
    env = make_env("toy/walk", ToyConfig(n_agents=3))
    assert env.spec.make is not None
    other = env.spec.make()
    assert other is not env
    assert other.spec == env.spec == replace(env.spec, make=None)
    assert len(other.spec.agents) == 3
    assert json.loads(json.dumps(env.spec.to_dict())) == env.spec.to_dict()
    assert "make" not in env.spec.to_dict()
