"""An exported policy acts like the run's own, whatever algorithm, kind of action and form; it needs no simulator."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dima
from dima.algorithms import algorithm_names
from dima.cli import main
from dima.errors import ConfigError, DivergenceError
from dima.sharing import export as export_module
from dima.sharing.export import Equality, export
from dima.sharing.files import encode
from dima.training.offline import fit, fit_config
from dima.training.online import train

ROOT = Path(__file__).parents[2]
ALGORITHMS = algorithm_names()  # before other tests register their own
NORMALIZED = {"ppo": {"actor": {"normalize_obs": True}}}
FILTERED = {"world_model": {"normalize_obs": True}}
CODED = {"normalize_obs": True, "clamp_obs": True, "tokenizer": {"bottleneck": "fsq"}}
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {  # task, algorithm, overrides
    "dima-continuous": ("toy/walk", "dima", {}),
    "dima-masks": ("toy/switches", "dima", {"learner": {"policy_ema": 0.9}}),
    "ensemble": ("toy/uneven", "ensemble", {"env": {"n_agents": 3}, "learner": NORMALIZED}),
    "oracle": ("mamujoco/halfcheetah-2x3", "oracle", {"env": {"episode_limit": 30}}),
    "mappo-beta": ("toy/linear", "mappo", {"learner": {"ppo": {"actor": {"distribution": "beta"}}}}),
    "mappo-sizes": ("mpe/simple_speaker_listener", "mappo", {"learner": NORMALIZED}),  # discrete, of different sizes
    "happo-sizes": ("toy/uneven", "happo", {"env": {"n_agents": 3}, "learner": NORMALIZED}),
    "happo-masks": ("toy/switches", "happo", {}),
    "hasac-sizes": ("toy/uneven", "hasac", {"env": {"n_agents": 3}, "learner": {"normalize_obs": True}}),
    "hasac-masks": ("toy/switches", "hasac", {}),
    "mappo-leaving": ("toy/cliff", "mappo", {"learner": NORMALIZED}),
    "marie-continuous": ("toy/walk", "marie", {}),
    "marie-masks": ("toy/switches", "marie", {"learner": {"policy_ema": 0.9}}),
    "marie-sizes": ("toy/uneven", "marie", {"env": {"n_agents": 3}, "learner": {"world_model": CODED}}),
    "mamba-continuous": ("toy/walk", "mamba", {}),
    "mamba-masks": ("toy/switches", "mamba", {"learner": {"policy_ema": 0.9}}),
    "mamba-sizes": ("toy/uneven", "mamba", {"env": {"n_agents": 3}, "learner": FILTERED}),
    "mamba-leaving": ("toy/crossfire", "mamba", {"learner": FILTERED}),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(tiny: Callable, name: str) -> Path:
    task, algorithm, changes = RUNS[name]
    steps = 60 if algorithm == "oracle" else 120
    return train(tiny(task, algorithm, steps=steps, evaluation_episodes=1, **changes)).folder


def rows(spec: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random joint observations, and masks that allow some choices."""
    rng = np.random.default_rng(0)
    obs = (3 * rng.standard_normal((count, spec.n_agents, spec.obs_dim))).astype(np.float32) * spec.obs_valid
    mask = np.repeat(spec.action_valid[None], count, axis=0)
    if spec.discrete:
        mask &= rng.random(mask.shape) < 0.5
        mask[..., 0] |= ~mask.any(-1)
    return obs, mask


def test_every_algorithm_is_among_the_runs() -> None:
    assert {algorithm for _, algorithm, _ in RUNS.values()} == set(ALGORITHMS)


@pytest.mark.parametrize("name", RUNS)
def test_files_act_like_the_run(tiny, name: str) -> None:
    folder = trained(tiny, name)
    done = export(folder)
    assert [path.name for path in done.files] == ["policy.safetensors", "policy.pt2"]
    agent = dima.load(folder, "cpu")
    spec = agent.env.spec
    obs, mask = rows(spec, 7)
    expected = steps_of(agent.algorithm.policy, spec, obs, mask)
    for path, equal in done.files.items():
        assert (equal.observations, equal.different) == (1_000, 0)
        assert equal.actions < 1_000 * spec.n_agents if spec.agents_leave else equal.actions == 1_000 * spec.n_agents
        policy = dima.load_policy(path, trust=True)
        assert (policy.spec.agents, policy.spec.agents_leave) == (spec.agents, spec.agents_leave)
        for step, actions in enumerate(expected):
            if step == 2:
                policy.reset(BEGUN)
            assert np.array_equal(policy.act_batch(obs, mask), actions)
            assert not actions[:, ~spec.action_valid].any()
            assert not spec.discrete or (actions <= mask).all()


BEGUN = np.array([False, True] + [False] * 5)  # of the rows, those whose episode begins at the third step


def steps_of(policy: Any, spec: Any, obs: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """The mode of the run's policy at three steps with the same rows."""
    previous, actions = torch.zeros(mask.shape), []
    state, first = np.zeros((len(obs), spec.state_dim), np.float32), np.array([True] * len(obs))
    for begun in (first, ~first, BEGUN[: len(obs)]):
        previous = previous * torch.from_numpy(~begun)[:, None, None]
        given = map(torch.from_numpy, (obs, state, mask, previous.numpy(), begun))
        previous, _ = policy.act(dima.data.View(*given), mode=True)
        actions.append((previous if spec.discrete else previous.clamp(-1, 1)).numpy())
    return actions


ONNX = ["dima-continuous", "mappo-beta", "mappo-sizes", "happo-sizes", "hasac-sizes", "hasac-masks"]


@pytest.mark.parametrize("name", [*ONNX, "marie-masks", "marie-sizes", "mamba-masks", "mamba-sizes", "mamba-leaving"])
def test_onnx_acts_like_the_run(tiny, name: str) -> None:
    runtime = _onnx()
    folder = trained(tiny, name)
    done = export(folder, formats=["onnx"])
    ((path, equal),) = done.files.items()
    assert equal.observations == 1_000
    assert equal.largest <= 1e-5 if not equal.discrete else equal.different == 0
    policy = dima.load_policy(path)
    obs, mask = rows(policy.spec, 5)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])  # as a program without dima
    shapes = json.loads(session.get_modelmeta().custom_metadata_map["dima"])["memory"]
    assert bool(shapes) == name.startswith("mamba")
    outputs = list(shapes) or ["action"]
    given = {"obs": obs, "action_mask": mask}
    assert {one.name for one in session.get_inputs()} == given.keys() | {f"previous_{one}" for one in shapes}
    given |= {f"previous_{one}": np.zeros((5, *shape), np.float32) for one, shape in shapes.items()}
    for step, actions in enumerate(steps_of(dima.load(folder, "cpu").algorithm.policy, policy.spec, obs, mask)):
        if step == 2:
            for one in shapes:
                given[f"previous_{one}"][BEGUN[:5]] = 0
            policy.reset(BEGUN[:5])
        found = dict(zip(outputs, session.run(outputs, given), strict=True))
        assert found["action"] == pytest.approx(actions, abs=1e-5)
        assert policy.act_batch(obs, mask) == pytest.approx(actions, abs=1e-5)
        given |= {f"previous_{one}": found[one].copy() for one in shapes}


def _onnx() -> Any:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason="needs the extra dima-marl[onnx]")
    return pytest.importorskip("onnxruntime", reason="needs the extra dima-marl[onnx]")


ALONE = """
import json, pickle, sys
from pathlib import Path

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mujoco", "gymnasium_robotics", "pettingzoo", "mpe2", "minari"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())
import dima
for folder in map(Path, sys.argv[1:]):
    begins, observed, expected = pickle.loads((folder / "expected").read_bytes())
    for path in folder.glob("policy.*"):
        policy = dima.load_policy(path, trust=True)
        for begun, (observations, infos), actions in zip(begins, observed, expected, strict=True):
            if begun:
                policy.reset()
            chosen = policy.act(observations, infos)
            assert all((chosen[agent] == action).all() for agent, action in actions.items()), path
        print(path.name, policy)
unneeded = {"mujoco", "gymnasium_robotics", "pettingzoo", "dima.agent", "dima.experience.episodes", "dima.training"}
assert not unneeded & sys.modules.keys()
"""


def test_files_act_where_no_simulator_is_installed(tiny, tmp_path: Path) -> None:
    folders = []
    made = [("toy/uneven", "happo"), ("toy/switches", "hasac"), ("toy/walk", "marie"), ("toy/crossfire", "mamba")]
    for number, (task, algorithm) in enumerate(made):
        agent = dima.load(train(tiny(task, algorithm, f"run{number}", steps=120)).folder, "cpu")
        folders.append(export(agent.folder, tmp_path / str(number)).folder)
        world, steps = agent.env.parallel_env, []
        for episode in range(3):
            observations, infos = world.reset(seed=episode)
            agent.reset()
            for step in range(10):
                there = {name: observations[name] for name in world.agents}
                actions = agent.act(there, infos)
                copies = {name: np.asarray(action) for name, action in actions.items()}
                steps.append((step == 0, (there, infos), copies))
                observations, _, _, _, infos = world.step(actions)
                if not world.agents:
                    break
        (folders[-1] / "expected").write_bytes(pickle.dumps(tuple(zip(*steps, strict=True))))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *folders], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"^policy\.\w+ <policy of \w+ for \S+, 2 agents>$", done.stdout, re.MULTILINE)) == [
        "policy.pt2 <policy of happo for toy/uneven, 2 agents>",
        "policy.pt2 <policy of hasac for toy/switches, 2 agents>",
        "policy.pt2 <policy of mamba for toy/crossfire, 2 agents>",
        "policy.pt2 <policy of marie for toy/walk, 2 agents>",
        "policy.safetensors <policy of happo for toy/uneven, 2 agents>",
        "policy.safetensors <policy of hasac for toy/switches, 2 agents>",
        "policy.safetensors <policy of mamba for toy/crossfire, 2 agents>",
        "policy.safetensors <policy of marie for toy/walk, 2 agents>",
    ]


def test_the_command_prints_how_equal_each_file_acts(walker: Path, capsys) -> None:
    assert main(["export", str(walker), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"\d+ kB", "", line) for line in lines] == [
        f"{walker}/export/policy.safetensors: , equal on 1,000 observations",
        f"{walker}/export/policy.pt2: , equal on 1,000 observations",
        f"card: {walker}/export/README.md",
    ]
    assert main(["export", str(walker), "--formats", "safetensors", "--json", "--quiet"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["files"]["policy.safetensors"]["different"] == 0
    assert facts["card"]["task"] == "toy/walk"


def test_the_card_says_what_the_policy_is(tiny) -> None:
    run = train(tiny("toy/uneven", "happo", steps=240, evaluate_every=60, learner=NORMALIZED)).folder
    done = export(run, formats=["safetensors"])
    card = dima.load_policy(next(iter(done.files))).card
    assert card == done.card
    assert (card["task"], card["algorithm"], card["steps"]) == ("toy/uneven", "happo", dima.load(run).steps)
    assert card["agents"][1]["observation"]["shape"] == [5]
    assert {one["name"]: one["shape"] for one in card["normalizers"]}["members.1.obs_scale"] == [1, 5]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [one["evaluate/return"] for one in records if "evaluate/return" in one]
    assert card["returns"]["last"]["return"] == scores[-1]
    assert card["returns"]["best"]["return"] == max(scores)
    assert card["trained"]["packages"]["torch"] == torch.__version__
    text = (done.folder / "README.md").read_text()
    assert "equal on 1,000 observations" in text
    assert f"team return {scores[-1]:,.1f}" in text
    assert "| `agent_1` | float32 (5,) in [-inf, inf] | float32 (3,) in [-1.0, 1.0] |" in text


def test_evaluations_after_the_checkpoint_are_not_of_this_policy(walker: Path) -> None:
    with (walker / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 10_000, "iteration": 99, "evaluate/return": 1e6, "evaluate/std": 0.0}) + "\n")
    assert export(walker, formats=["safetensors"]).card["returns"]["best"]["return"] < 1e6


def test_a_file_that_acts_differently_is_removed(walker: Path, monkeypatch) -> None:
    def wrong(form, policy, card):
        other = deepcopy(policy)
        with torch.no_grad():
            other.policy.net[-1].bias.add_(0.01)
        return encode(form, other, card)

    monkeypatch.setattr(export_module, "encode", wrong)
    with pytest.raises(DivergenceError, match="does not act like the run's policy"):
        export(walker, formats=["safetensors"])
    assert not list((walker / "export").iterdir())


@pytest.mark.parametrize(
    ("form", "discrete", "different", "apart", "jumps", "fine"),
    [
        ("safetensors", False, 0, 0, False, True),
        ("safetensors", False, 1, 1, False, False),
        ("safetensors", True, 1, 1, True, False),
        ("onnx", False, 2_000, 0, False, True),
        ("onnx", False, 2_000, 1, False, False),
        ("onnx", False, 2_000, 10, True, True),
        ("onnx", False, 2_000, 11, True, False),
        ("torch", True, 10, 10, True, True),
        ("torch", True, 11, 11, True, False),
    ],
)
def test_only_rounding_may_differ(form, discrete: bool, different: int, apart: int, jumps: bool, fine: bool) -> None:
    equal = Equality(1_000, 2_000, discrete, different, apart, 1.0, jumps)
    assert equal.within(form) is fine
    if different:
        assert ("choices differ" in str(equal)) == discrete
        assert ("actions differ by up to" in str(equal)) == (not discrete and apart > 0)


# -- what cannot be exported ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_the_path")
def test_a_policy_class_of_the_user_s_own_leaves_as_a_graph(tmp_path: Path) -> None:
    fixed = {"run": str(tmp_path / "run"), "device": "cpu", "threads": 1, "tensorboard": False, "steps": 1_500}
    run = train(dima.build_config("toy/walk", "own_algorithm:CemConfig", "small", fixed)).folder
    own = {"algorithm": "own_algorithm:CemConfig"}
    with pytest.raises(ConfigError, match=r"LinearPolicy is none that safetensors .*--formats torch"):
        export(run, formats=["safetensors"], **own)
    assert not (run / "export").exists()
    ((_, equal),) = export(run, formats=["torch"], **own).files.items()
    assert equal.different == 0


def test_a_class_derived_from_the_library_s_is_the_user_s_own(walker: Path, monkeypatch) -> None:
    agent = dima.load(walker, "cpu")
    agent.algorithm.ppo.actor.__class__ = type("Mine", (type(agent.algorithm.policy),), {})
    monkeypatch.setattr(export_module, "load", lambda *args, **kwargs: agent)
    with pytest.raises(ConfigError, match="Mine is none that safetensors can tell how to build"):
        export(walker, formats=["safetensors"])


def test_a_fitted_world_model_has_no_policy(recording, tmp_path: Path) -> None:
    data = recording()
    dima.record(data)
    fixed = {"run": str(tmp_path / "fit"), "device": "cpu", "threads": 1, "tensorboard": False, "iterations": 1}
    run = fit(fit_config(data.out, "dima", "debug", fixed)).folder
    with pytest.raises(ConfigError, match="no policy to export"):
        export(run)


@pytest.mark.parametrize("formats", [[], ["pickle"]])
def test_unknown_formats_are_refused(walker: Path, formats: list) -> None:
    with pytest.raises(ConfigError, match="expected some of safetensors, torch, onnx"):
        export(walker, formats=formats)


def test_a_missing_package_is_one_line(walker: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(walker), "--formats", "onnx", "--quiet"]) == 2
    assert capsys.readouterr().err == "dima: ONNX needs the package onnx: pip install 'dima-marl[onnx]'\n"


@pytest.mark.parametrize("algorithm", ["happo", "mamba"])
def test_the_page_s_examples_run(tiny, tmp_path: Path, monkeypatch, capsys, algorithm: str) -> None:
    monkeypatch.chdir(tmp_path)
    train(tiny(algorithm=algorithm, run="runs/walker", steps=120))
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    with_dima, with_onnx, with_torch = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert main(["export", "runs/walker", "--quiet"]) == 0
    held: dict[str, Any] = {}
    exec(compile(with_dima, "export.md", "exec"), held)
    assert held["env"].action_space("agent_1").contains(held["actions"]["agent_1"])
    exec(compile(with_torch, "export.md", "exec"), {})
    _onnx()
    assert main(["export", "runs/walker", "--formats", "onnx", "--quiet"]) == 0
    capsys.readouterr()
    exec(compile(with_onnx, "export.md", "exec"), {})
    assert capsys.readouterr().out.startswith("agent_0 [")
