"""Policies that remember the episode, as files: what resets, rows, random draws and files of strangers do to it."""

from __future__ import annotations

import re
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import dima
from dima.data import EnvSpec, View
from dima.errors import ConfigError, DivergenceError, EnvError, RunFolderError, UserError
from dima.experience.team import Team
from dima.policies.base import PerceivingPolicy, Perception, Policy
from dima.sharing import export as export_module
from dima.sharing import files
from dima.sharing.export import export
from dima.sharing.files import encode
from dima.sharing.networks import JointPolicy
from dima.sharing.policy import ExportedPolicy
from dima.training.online import train

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 4


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    """A quarter of the observations shows as much here."""
    monkeypatch.setattr(export_module, "OBSERVATIONS", 250)


@pytest.fixture
def walker(tiny) -> Path:
    """A policy whose memory shows in what it does."""
    return train(tiny(algorithm="mamba", steps=120, evaluation_episodes=1)).folder


def series(spec: EnvSpec, batch: int) -> np.ndarray:
    """Random observations (T, B, N, O)."""
    draws = np.random.default_rng(0).standard_normal((STEPS, batch, spec.n_agents, spec.obs_dim))
    return draws.astype(np.float32)


@pytest.mark.parametrize("form", ["safetensors", "torch", "onnx"])
def test_what_is_not_reset_is_remembered(walker: Path, form: Any) -> None:
    if form == "onnx":
        for package in ("onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="needs the extra dima-marl[onnx]")
    policy = dima.load_policy(*export(walker, formats=[form]).files, trust=True)
    obs = series(policy.spec, 2)
    begun = policy.act_batch(obs[0])
    assert not np.array_equal(policy.act_batch(obs[0]), begun)
    policy.reset()
    assert np.array_equal(policy.act_batch(obs[0]), begun)
    policy.reset([False, True])
    again = policy.act_batch(obs[0])
    assert [np.array_equal(*rows) for rows in zip(again, begun, strict=True)] == [False, True]
    with pytest.raises(EnvError, match="the team acts in 2 environments"):
        policy.reset([True])
    alone = policy.act_batch(obs[0, :1])  # another number of rows: an episode begins
    assert alone[0] == pytest.approx(begun[0], abs=1e-6)


@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_rows_remember_their_own_episodes(walker: Path, form: Any) -> None:
    (path,) = export(walker, formats=[form]).files
    policy, alone = (dima.load_policy(path, trust=True) for _ in range(2))
    obs = series(policy.spec, 3)
    together = np.stack([policy.act_batch(now) for now in obs])
    for row in range(3):
        alone.reset()
        for step in range(STEPS):
            assert alone.act_batch(obs[step, row : row + 1])[0] == pytest.approx(together[step, row], abs=1e-6)


def test_many_environments_act_like_each(walker: Path) -> None:
    (path,) = export(walker, formats=["safetensors"]).files
    agent, policy = dima.load(walker, "cpu"), dima.load_policy(path)
    worlds = [dima.make_env("toy/walk").parallel_env for _ in range(2)]
    seen = [world.reset(seed=seed)[0] for seed, world in enumerate(worlds)]
    for _ in range(STEPS):
        expected, found = agent.act(seen), policy.act(seen)
        for own, chosen in zip(expected, found, strict=True):
            assert all(np.array_equal(own[name], chosen[name]) for name in own)
        seen = [world.step(actions)[0] for world, actions in zip(worlds, found, strict=True)]


def test_draws_are_the_run_s(walker: Path) -> None:
    (path,) = export(walker, formats=["safetensors"]).files
    world = dima.make_env("toy/walk").parallel_env
    played = []
    for team in (dima.load(walker, "cpu"), dima.load_policy(path)):
        torch.manual_seed(3)
        observations, infos = world.reset(seed=0)
        for _ in range(STEPS):
            actions = team.act(observations, infos, mode=False)
            observations, *_, infos = world.step(actions)
            played.append(np.concatenate(list(actions.values())))
    assert np.array_equal(played[:STEPS], played[STEPS:])
    assert len({values.tobytes() for values in played[:STEPS]}) == STEPS


def test_those_who_left_have_done_nothing(tiny) -> None:
    run = train(tiny("toy/cliff", "mamba", steps=120, evaluation_episodes=1)).folder
    for path in export(run).files:
        policy = dima.load_policy(path, trust=True)
        obs, alive = series(policy.spec, 2)[0], np.array([[True, True], [True, False]])
        obs[1, 1] = 0
        acted = policy.act_batch(obs, alive=alive)
        assert acted[1, 0].any()
        assert not acted[1, 1].any()
        later = policy.act_batch(obs, alive=alive)
        policy.reset()
        policy.act_batch(obs)  # as if the agent had acted
        assert np.array_equal(policy.act_batch(obs, alive=alive)[0], later[0])
        assert not np.array_equal(policy.act_batch(obs, alive=alive)[1], later[1])


def test_a_file_that_remembers_otherwise_is_removed(walker: Path, monkeypatch) -> None:
    def wrong(form, policy, card):
        other = deepcopy(policy)
        with torch.no_grad():
            other.policy.perception.filter.transition.memory.bias_hh.add_(1)
        return encode(form, other, card)

    monkeypatch.setattr(export_module, "encode", wrong)
    with pytest.raises(DivergenceError, match=r"does not act like the run's policy \(\d+ of 500 actions differ"):
        export(walker, formats=["torch"])
    assert not list((walker / "export").iterdir())


def test_a_flip_of_rounding_changes_one_step(walker: Path, monkeypatch) -> None:
    calls = []

    def act(self: ExportedPolicy, *args: Any) -> Any:
        calls.append(self)
        if len(calls) == 9:
            self._policy.memory = [1 - one for one in self._policy.memory]
        return Team.act(self, *args)

    monkeypatch.setattr(ExportedPolicy, "act", act)
    (equal,) = export(walker, formats=["torch"]).files.values()
    assert equal.apart == equal.different == 2  # both agents' actions of that step
    assert re.fullmatch(r"2 of 500 actions differ by up to \S+, the others not, on 250 observations", str(equal))


def test_the_card_says_how_to_keep_the_memory(walker: Path, monkeypatch) -> None:
    done = export(walker)
    sizes = dima.load(walker, "cpu").algorithm.config.world_model
    widths = {"action": 1, "stochastic": sizes.stochastic, "deterministic": sizes.deterministic}
    assert done.card["memory"] == {name: [2, width] for name, width in widths.items()}
    text = (done.folder / "README.md").read_text()
    acting, graph = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "policy.reset()  # where an episode begins" in acting
    monkeypatch.chdir(done.folder)
    policy = dima.load_policy("policy.safetensors")
    obs, mask = np.ones((1, 2, policy.spec.obs_dim), np.float32), np.ones((1, 2, 1), np.bool_)
    held: dict[str, Any] = {"torch": torch, "obs": torch.from_numpy(obs), "action_mask": torch.from_numpy(mask)}
    exec(graph, held)
    assert np.array_equal(held["memory"][0].numpy(), policy.act_batch(obs))
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra dima-marl[onnx]")
    text = (export(walker, formats=["onnx"]).folder / "README.md").read_text()
    held = {"np": np, "onnxruntime": import_module("onnxruntime"), "obs": obs, "action_mask": mask}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[1], held)
    policy.reset()
    assert held["memory"][0] == pytest.approx(policy.act_batch(obs), abs=1e-6)


# -- memories of others -----------------------------------------------------------------------------------------------


class Age(NamedTuple):
    """Steps of the episode so far."""

    steps: Tensor  # (B, 1)


class Clock(Perception):
    """Shows how old the episode is, in place of what agents observe."""

    recurrent = True

    def initial_memory(self, rows: int) -> Any:
        return Age(torch.zeros(rows, 1))

    def forward(self, view: View, memory: Any, mode: bool) -> tuple[View, Any]:
        assert view.first is not None
        old = torch.zeros_like(view.obs[:, 0, :1]) if memory is None else memory.steps
        now = Age(torch.where(view.first[:, None], 0.0, old) + 1)
        return View(now.steps[:, None].expand(view.obs.shape), view.state, view.action_mask, view.previous_action), now


class Secret(Clock):
    """Keeps to itself what it remembers."""

    def initial_memory(self, rows: int) -> Any:
        return None


class Counted(Clock):
    """Begins with another memory than zeros."""

    def initial_memory(self, rows: int) -> Any:
        return Age(torch.ones(rows, 1))


class Slow(Policy):
    """Does what it observes, slowly."""

    def act(self, view: View, mode: bool = False) -> tuple[Tensor, Tensor]:
        action = view.obs[..., :1] / 100
        return action, action[..., 0]


def with_policy(walker: Path, monkeypatch, policy: Policy) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        agent = dima.load(walker, "cpu")
        agent.algorithm._policy, agent._policy = policy, deepcopy(policy)
        return agent

    monkeypatch.setattr("dima.sharing.export.load", load)


def test_a_declared_memory_of_the_user_s_own_leaves_as_a_graph(walker: Path, monkeypatch) -> None:
    with_policy(walker, monkeypatch, PerceivingPolicy(Clock(), Slow()))
    with pytest.raises(ConfigError, match=r"PerceivingPolicy\(Clock, Slow\) is none that safetensors can tell"):
        export(walker, formats=["safetensors"])
    ((path, equal),) = export(walker, formats=["torch"]).files.items()
    assert equal.different == 0
    policy = dima.load_policy(path, trust=True)
    ages = [policy.act_batch(obs)[0, 0, 0] for obs in series(policy.spec, 1)]
    assert ages == pytest.approx([0.01, 0.02, 0.03, 0.04])


@pytest.mark.parametrize("perception", [Secret, Counted])
def test_an_undeclared_memory_is_one_line(walker: Path, monkeypatch, perception: type[Perception]) -> None:
    with_policy(walker, monkeypatch, PerceivingPolicy(perception(), Slow()))
    with pytest.raises(
        ConfigError, match=r"Policy\(\w+, Slow\) has a memory of the episode of an unknown kind"
    ) as caught:
        export(walker)
    assert "\n" not in str(caught.value)
    assert not (walker / "export").exists()


MEMORIES: dict[str, Any] = {
    "none": {},
    "no action": {"stochastic": [2, 16], "action": [2, 1], "deterministic": [2, 16]},
    "other sizes": {"action": [2, 1], "stochastic": [2, 17], "deterministic": [2, 16]},
    "too much": {"action": [2, 1], "stochastic": [2, 10**12], "deterministic": [2, 16]},
    "negative": {"action": [2, 1], "stochastic": [2, -16], "deterministic": [2, 16]},
    "text": "stochastic",
}


def test_a_graph_with_another_memory_than_its_card_says_is_refused(walker: Path, monkeypatch) -> None:
    done, agent = export(walker, formats=["safetensors"]), dima.load(walker, "cpu")
    joint, path = JointPolicy(agent.algorithm.policy, agent.env.spec).eval(), walker / "policy.pt2"
    monkeypatch.setattr(files, "_program", lambda policy, traced=files._program(joint): traced)
    for memory in MEMORIES.values():
        path.write_bytes(encode("torch", joint, done.card | {"memory": memory}))
        with pytest.raises(RunFolderError, match="is damaged, or not a file of `dima export`") as caught:
            dima.load_policy(path, trust=True)
        assert "\n" not in str(caught.value)


def _deep(card: dict[str, Any]) -> None:
    for _ in range(2):
        card["network"] = {"kind": "perceiving", "perception": card["network"]["perception"], "policy": card["network"]}


NETWORKS: dict[str, Any] = {
    "another perception": lambda card: card["network"]["perception"].update(kind="os:system"),
    "a wide perception": lambda card: card["network"]["perception"]["settings"].update(hidden=10**6),
    "many tokens": lambda card: card["network"]["perception"]["settings"].update(tokens=10**9),
    "a perception of other sizes": lambda card: card["network"]["perception"]["settings"].update(layers=3),
    "a setting that is none": lambda card: card["network"]["perception"]["settings"].update(lr=1),
    "endless perceptions": _deep,
    "no policy": lambda card: card["network"].update(policy=None),
}


@pytest.mark.parametrize("algorithm", ["mamba", "marie"])
def test_a_perception_of_a_stranger_is_one_line(tiny, change, algorithm: str) -> None:
    run = train(tiny(algorithm=algorithm, steps=120, evaluation_episodes=1)).folder
    (path,) = export(run, formats=["safetensors"]).files
    whole = path.read_bytes()
    for edit in NETWORKS.values():
        path.write_bytes(whole)
        change(path, edit)
        with pytest.raises(UserError) as caught:
            dima.load_policy(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
