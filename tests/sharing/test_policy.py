"""Loading a policy's file: spaces, sampling, and refusal of damage and of strangers' tricks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import dima
from dima.envs.base import JointEnv
from dima.errors import ConfigError, EnvError, RunFolderError, UserError
from dima.sharing.export import export
from dima.sharing.files import encode
from dima.sharing.networks import JointPolicy
from dima.sharing.spaces import describe_agents, team_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def file(walker: Path) -> Path:
    return next(iter(export(walker, formats=["safetensors"]).files))


class Spaces:
    """Agents of every kind of space, with masks in observations and infos."""

    possible_agents = agents = ("left", 2, "third")
    obs_has_id = True

    def observation_space(self, agent: Any) -> spaces.Space[Any]:
        low = np.array([-np.inf, 0.5, -2], np.float32)
        masked = {"observation": spaces.Discrete(3, start=-1), "action_mask": spaces.Box(0, 1, (4,), np.int8)}
        boxes = {"left": spaces.Box(low, np.float32([np.inf, 1, 5])), 2: spaces.Dict(masked)}
        return boxes.get(agent, spaces.Box(0, 255, (2, 2), np.uint8))

    def action_space(self, agent: Any) -> spaces.Space[Any]:
        return {"left": spaces.Discrete(2), 2: spaces.Discrete(4, start=3)}.get(agent, spaces.Discrete(3))

    def reset(self, seed: int | None = None) -> tuple[dict[Any, Any], dict[Any, Any]]:
        observed = {"left": np.float32([7, 0.6, 0]), "third": np.full((2, 2), 9, np.uint8)}
        observed[2] = {"observation": 1, "action_mask": np.int8([0, 1, 1, 0])}  # type: ignore[index]
        return observed, {"left": {}, 2: {}, "third": {"action_mask": np.int8([1, 0, 1])}}

    def close(self) -> None: ...


def test_spaces_come_back_from_json() -> None:
    env = JointEnv(Spaces(), name="mine")  # type: ignore[arg-type]
    again = team_of("mine", json.loads(json.dumps(describe_agents(env), allow_nan=False)), env.spec.obs_has_id)
    for agent in Spaces.agents:
        assert again.parallel_env.observation_space(agent) == env.parallel_env.observation_space(agent)
        assert again.parallel_env.action_space(agent) == env.parallel_env.action_space(agent)
    assert again.spec == env.spec
    for name, values in env.encode(*Spaces().reset()).items():
        assert np.array_equal(again.encode(*Spaces().reset())[name], values)
    actions = np.eye(4, dtype=np.float32)[[1, 2, 2]]
    assert again.decode(actions) == {"left": 1, 2: 5, "third": 2}


def test_boxes_of_actions_keep_their_bounds() -> None:
    class Uneven(Spaces):
        def observation_space(self, agent: Any) -> spaces.Space[Any]:
            return spaces.Box(-1, 1, (2,), np.float64)

        def action_space(self, agent: Any) -> spaces.Space[Any]:
            return spaces.Box(np.array([0, -4.0]), np.array([0.1, 4.0]), dtype=np.float64)

        def reset(self, seed: int | None = None) -> tuple[dict[Any, Any], dict[Any, Any]]:
            return dict.fromkeys(self.agents, np.zeros(2)), {}

    env = JointEnv(Uneven(), name="mine")  # type: ignore[arg-type]
    again = team_of("mine", json.loads(json.dumps(describe_agents(env))), False)
    action = np.float32([[0.3, 0.7]] * 3)
    for name, value in env.decode(action.copy()).items():
        assert np.array_equal(again.decode(action.copy())[name], value)


def test_only_safetensors_sample(walker: Path) -> None:
    plain, graph = (dima.load_policy(path, trust=True) for path in export(walker).files)
    obs = np.zeros((3, 2, plain.spec.obs_dim), np.float32)
    torch.manual_seed(0)
    draws = [plain.act_batch(obs, mode=False) for _ in range(2)]
    assert not np.array_equal(*draws)
    assert np.abs(draws[0]).max() <= 1
    assert np.array_equal(plain.act_batch(obs), graph.act_batch(obs))
    with pytest.raises(ConfigError, match="mode only"):
        graph.act_batch(obs, mode=False)


def test_wrong_observations_are_named(file: Path) -> None:
    policy = dima.load_policy(file)
    with pytest.raises(EnvError, match=r"toy/walk: .*agent_0.*has no observation"):
        policy.act({})
    with pytest.raises(EnvError, match=r"obs has shape \(4, 2\): expected \(4, 2, "):
        policy.act_batch(np.zeros((4, 2)))
    with pytest.raises(EnvError, match="action_mask has shape"):
        policy.act_batch(np.zeros((4, 2, policy.spec.obs_dim)), np.ones((4, 1)))


def test_a_graph_of_torch_is_loaded_on_trust_only(walker: Path) -> None:
    (path,) = export(walker, formats=["torch"]).files
    with pytest.raises(ConfigError, match="can run code of whoever made it"):
        dima.load_policy(path)
    with pytest.raises(ConfigError, match="graphs act on the CPU"):
        dima.load_policy(path, "cuda", trust=True)


def test_a_graph_of_other_sizes_than_its_card_says_is_refused(walker: Path) -> None:
    card, agent = export(walker, formats=["safetensors"]).card, dima.load(walker, "cpu")
    for own in card["agents"]:
        own["action"]["shape"] = [2]
    path = walker / "policy.pt2"
    path.write_bytes(encode("torch", JointPolicy(agent.algorithm.policy, agent.env.spec).eval(), card))
    with pytest.raises(RunFolderError, match="is damaged, or not a file of `dima export`"):
        dima.load_policy(path, trust=True)


@pytest.mark.parametrize(
    ("name", "match"),
    [("policy.safetensors", "does not exist"), ("policy.pth", "no policy's file"), (".", "is a folder")],
)
def test_what_is_no_file_of_a_policy(tmp_path: Path, name: str, match: str) -> None:
    if name.endswith("pth"):
        (tmp_path / name).touch()
    with pytest.raises(RunFolderError, match=match):
        dima.load_policy(tmp_path / name)


@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_a_cut_file_is_refused(walker: Path, form: Any) -> None:
    (path,) = export(walker, formats=[form]).files
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(RunFolderError, match="is damaged, or not a file of `dima export`"):
        dima.load_policy(path, trust=True)


def _agents(card: dict[str, Any], **changes: Any) -> None:
    for own in card["agents"]:
        own["observation"] |= changes


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another kind": lambda card: card.update(kind="dima dataset"),
    "another format": lambda card: card.update(format=99),
    "no agents": lambda card: card.update(agents=[]),
    "nested agents": lambda card: card.update(agents=[{"name": ["a"]}] * 2),
    "a space of another kind": lambda card: _agents(card, kind="text"),
    "a dtype that is code": lambda card: _agents(card, dtype="object"),
    "an endless space": lambda card: _agents(card, shape=[10**12]),
    "many large agents": lambda card: card.update(agents=[dict(card["agents"][0], name=i) for i in range(10**5)]),
    "a wide network": lambda card: card["network"]["settings"].update(hidden=[10**6, 10**6]),
    "other weights": lambda card: card["network"]["settings"].update(hidden=[24]),
    "another network": lambda card: card["network"].update(kind="os:system"),
    "a setting that is none": lambda card: card["network"]["settings"].update(lr=1),
    "no network": lambda card: card.update(network=None),
}


@pytest.mark.parametrize("trick", HOSTILE)
def test_a_card_of_a_stranger_is_one_line(file: Path, change, trick: str) -> None:
    change(file, HOSTILE[trick])
    with pytest.raises(UserError) as caught:
        dima.load_policy(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_the_format_before_act_on(file: Path, change) -> None:
    obs = np.ones((2, 2, dima.load_policy(file).spec.obs_dim))
    expected = dima.load_policy(file).act_batch(obs)

    def before(card: dict[str, Any]) -> None:
        card["format"] = 1
        del card["memory"], card["agents_leave"]

    change(file, before)
    assert np.array_equal(dima.load_policy(file).act_batch(obs), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none_is_one_clear_line(file: Path) -> None:
    with pytest.raises(ConfigError, match="device = cuda cannot be used"):
        dima.load_policy(file, "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_acts_like_the_cpu(file: Path) -> None:
    here, there = dima.load_policy(file), dima.load_policy(file, "cuda")
    obs = np.random.default_rng(0).standard_normal((50, 2, here.spec.obs_dim)).astype(np.float32)
    assert there.act_batch(obs) == pytest.approx(here.act_batch(obs), abs=1e-4)
