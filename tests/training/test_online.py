"""Whole runs: every algorithm on every toy task, every variant of the world model, every error."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import dima
from dima.cli import main
from dima.data import View
from dima.envs.toy import tasks
from dima.errors import DivergenceError, RunFolderError
from dima.runtime.progress import Progress
from dima.storage.run_folder import RunFolder
from dima.training.online import resume, train
from tests.conftest import ON_ANY_TASK

TOYS = [task.name for task in tasks()]

BROKEN = '''
import numpy as np
from dima.envs.toy import ToyConfig, Walk

class Broken(Walk):
    """Its rewards become NaN in the fourth episode."""

    episodes = 0

    def _start(self):
        super()._start()
        self.episodes += 1

    def _move(self, actions):
        rewards, over = super()._move(actions)
        return rewards * (np.nan if self.episodes > 4 else 1), over  # the first is the adapter's look

def make():
    return Broken(ToyConfig())
'''

DUEL = """
import numpy as np
from dima.envs.toy import Walk

class Duel(Walk):
    def _move(self, actions):
        rewards, over = super()._move(actions)
        return np.array([rewards[0], self.share * rewards[0]]), over

class Closed(Walk):
    def close(self):
        raise RuntimeError("closed already")

zero_sum, different = type("ZeroSum", (Duel,), {"share": -1}), type("Different", (Duel,), {"share": 2})
"""
MEAN = ("--env.team-reward", "mean")


def records(folder: Path) -> list[dict[str, Any]]:
    with RunFolder.open(folder) as run:
        return run.records()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with RunFolder.open(folder) as run:
        saved = run.load().tree["algorithm"]
        return saved.get("ppo", saved)["networks"]


def one_line(capsys) -> str:
    """The message on standard error: one line without a traceback."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("dima: ")
    return lines[0]


def arguments(task: str, algorithm: str, folder: Path, *more: str) -> list[str]:
    fixed = [
        "--preset",
        "debug",
        "--run",
        str(folder),
        "--device",
        "cpu",
        "--no-tensorboard",
        "--threads",
        "1",
        "--quiet",
    ]
    return ["train", task, "--algorithm", algorithm, *fixed, *more]


# -- every algorithm on every toy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ON_ANY_TASK)
@pytest.mark.parametrize("task", TOYS)
def test_every_algorithm_trains_on_every_toy(tiny, task: str, algorithm: str) -> None:
    config = tiny(task, algorithm, steps=240, envs=2)
    summary = train(config)
    assert summary.finished
    assert summary.steps >= 240
    assert [step for step, _ in summary.evaluations][-1] == summary.steps
    log = records(config.folder)
    assert [record["iteration"] for record in log] == list(range(1, len(log) + 1))
    assert all(math.isfinite(value) for record in log for value in record.values())
    assert all(a["step"] < b["step"] for a, b in itertools.pairwise(log))
    names = set().union(*log)
    assert {"step", "iteration", "episodes", "time/iteration", "evaluate/return", "collect/return"} <= names
    assert {"policy/policy_loss", "policy/entropy", "policy/value_loss"} <= names
    assert {"time/collect", "time/evaluate"} <= names
    assert any(name.startswith("updates/") for name in names)
    for record in log:
        timed = [v for k, v in record.items() if k.startswith("time/") and k not in ("time/iteration", "time/save")]
        assert sum(timed) <= record["time/iteration"]
    if algorithm == "dima":
        assert {"decoder/error", "denoiser/loss", "reward_model/reward", "reward_model/continuation"} <= names
        assert ("reward_model/mask" in names) == (task in ("toy/switches", "toy/crossfire"))


VARIANTS: dict[str, dict[str, Any]] = {
    "fsq": {"decoder": {"bottleneck": "fsq", "fsq_levels": [3, 3]}},
    "plain decoder": {"decoder": {"bottleneck": "none"}},
    "reveal cumulatively": {"denoiser": {"reveal": "cumulative"}},
    "reveal all": {"denoiser": {"reveal": "all"}},
    "actions as input too": {"denoiser": {"action_path": "condition+input"}},
    "heun": {"sampler": {"solver": "heun"}},
    "random order, tail": {"sampler": {"order": "random", "levels_per_agent": 1, "tail_levels": 2}},
    "scaled rewards": {"reward": {"normalize_reward": True}},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", ["toy/uneven", "toy/switches"])
def test_every_variant_of_the_world_model_trains(tiny, variant: str, task: str) -> None:
    learner = {"policy_after": 0, "imaginations": 1, "world_model": VARIANTS[variant]}
    summary = train(tiny(task, steps=1, learner=learner))
    assert summary.finished
    (record,) = records(summary.folder)
    assert "policy/policy_loss" in record


@pytest.mark.parametrize("algorithm", sorted(set(ON_ANY_TASK) - {"hasac"}))
def test_a_beta_policy_trains(tiny, algorithm: str) -> None:
    actor = {"distribution": "beta"} | ({} if algorithm == "mamba" else {"normalize_obs": True})
    learner = {"ppo": {"actor": actor, "entropy": 0.01}}
    summary = train(tiny("toy/uneven", algorithm, steps=240, learner=learner))
    assert all(math.isfinite(value) for record in records(summary.folder) for value in record.values())


@pytest.mark.parametrize("algorithm", ON_ANY_TASK)
def test_the_seed_decides_everything(tiny, algorithm: str) -> None:
    configs = [
        tiny("toy/switches", algorithm, run=run, seed=seed, steps=180)
        for run, seed in ("a3", "b3", "c4")
        for seed in [int(seed)]
    ]
    torch.manual_seed(99)  # the caller's random state has no part in it
    for config in configs:
        train(config)
    one, same, other = (weights(config.folder) for config in configs)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_training_leaves_the_caller_s_threads_and_random_state_alone(tiny) -> None:
    torch.manual_seed(1)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(tiny(algorithm="mappo", steps=50, threads=threads + 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_training_works_outside_the_main_thread(tiny) -> None:
    summaries = []
    thread = threading.Thread(target=lambda: summaries.append(train(tiny(algorithm="mappo", steps=50))))
    thread.start()
    thread.join()
    assert summaries[0].finished


def test_tensorboard_gets_the_numbers(tiny) -> None:
    folder = train(tiny(algorithm="mappo", steps=50, tensorboard=True)).folder
    assert list((folder / "tensorboard").iterdir())


def test_a_run_is_replaced_only_when_asked(tiny) -> None:
    config = tiny(algorithm="mappo", steps=50)
    train(config)
    longer = tiny(algorithm="mappo", steps=100)
    with pytest.raises(RunFolderError, match="already holds a run"):
        train(longer)
    assert len(records(config.folder)) == 1
    train(longer, overwrite=True)
    assert len(records(config.folder)) == 2


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_the_last_record_says_why_a_run_ended_early_until_it_is_resumed(tiny) -> None:
    class Stopped(Progress):
        def iteration(self, done: int, total: int, **numbers: float) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    class Failing(Progress):
        def iteration(self, done: int, total: int, **numbers: float) -> None:
            raise ZeroDivisionError("no such\nnumber")

    config = tiny(algorithm="mappo", steps=240)
    assert not train(config, progress=Stopped()).finished
    assert records(config.folder)[-1] == {"event": "interrupted"}
    with pytest.raises(ZeroDivisionError):
        resume(config.folder, progress=Failing())
    assert records(config.folder)[-1] == {"event": "failed", "error": "ZeroDivisionError: no such number"}
    assert resume(config.folder).finished
    assert not any("event" in record for record in records(config.folder))


@pytest.mark.parametrize(
    ("algorithm", "learner", "culprit", "saved"),
    [
        ("dima", {"ppo": {"lr": 1e30}}, "policy/", 1),  # the first iteration does not update the policy
        ("dima", {"world_model": {"denoiser_fit": {"lr": 1e30, "warmup": 6}}}, "denoiser/loss", 0),
        ("mappo", {"ppo": {"critic_lr": 1e30}}, "policy/", 0),
    ],
)
def test_divergence_names_a_loss_and_the_last_checkpoint_loads(tiny, algorithm, learner, culprit, saved) -> None:
    config = tiny(algorithm=algorithm, steps=600, learner=learner)
    with pytest.raises(DivergenceError, match=culprit) as error:
        train(config)
    assert "\n" not in str(error.value)
    log = records(config.folder)
    end = log.pop()
    assert end["event"] == "failed"
    assert culprit in end["error"]
    assert all(math.isfinite(value) for record in log for value in record.values())
    assert len(log) == saved
    if saved:
        agent = dima.load(config.folder)
        assert agent.act(agent.env.parallel_env.reset(seed=0)[0])


def test_a_reward_that_is_not_a_number_ends_the_run_in_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "broken_walk.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    assert main(arguments("broken_walk:make", "mappo", run, "--learner.rollout", "40", *MEAN)) == 2
    line = one_line(capsys)
    assert "broken_walk:make" in line
    assert "nan" in line
    *iterations, end = records(run)
    assert len(iterations) == 2  # of 40 steps: three good episodes have 90
    assert end["event"] == "failed"
    assert "nan" in end["error"]
    assert dima.load(run, task="broken_walk:make")


@pytest.mark.parametrize(("steps", "told"), [("40", True), ("41", False)])
def test_a_run_too_short_to_learn_is_told(tmp_path: Path, capsys, steps: str, told: bool) -> None:
    args = arguments("toy/walk", "hasac", tmp_path / "run", "--learner.warmup", "40")
    assert main([*args, "--steps", steps]) == 0
    line = f"dima: steps = {steps} are no more than the 40 that hasac collects before it learns"
    assert (line in capsys.readouterr().err) == told


def test_what_is_found_in_an_environment_before_the_first_iteration(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "duel.py").write_text(DUEL)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    assert main(arguments("duel:zero_sum", "mappo", run)) == 2
    assert "duel:zero_sum: rewards of 'agent_0' and 'agent_1' oppose each other" in one_line(capsys)
    assert not run.exists()
    assert main(arguments("duel:zero_sum", "mappo", run, *MEAN)) == 0
    assert "rewards" not in capsys.readouterr().err
    assert main(arguments("duel:Closed", "mappo", tmp_path / "closed", *MEAN)) == 2
    assert "close() raised RuntimeError: closed already: the fault is in the environment" in one_line(capsys)
    assert main(arguments("duel:different", "mappo", tmp_path / "other")) == 0
    assert "dima: rewards differ between agents" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--learner.replay.capacity", "1000000000000"], ("replay.capacity", "GiB", "lower it to")),
        (["--learner.replay.capacity", "20"], ("replay.capacity = 20", "episode of 30 steps")),
        (["--learner.ppo.lr", "-1"], ("lr", "-1")),
        (["--seed", str(2**64)], ("seed",)),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(tmp_path: Path, more, said, capsys) -> None:
    run = tmp_path / "run"
    assert main(arguments("toy/walk", "dima", run, *more)) == 2
    line = one_line(capsys)
    assert all(text in line for text in said), line
    assert not (run / "checkpoint").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none_is_refused_in_one_line(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    assert main([*arguments("toy/walk", "dima", run), "--device", "cuda"]) == 2
    assert "cuda" in one_line(capsys)
    assert not run.exists()


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_a_flipped_byte_in_the_weights_is_one_line(tiny, command: str, capsys) -> None:
    folder = train(tiny(algorithm="mappo", steps=50)).folder
    path = folder / "checkpoint" / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    assert main([command, str(folder)]) == 2
    assert "tensors.safetensors" in one_line(capsys)


class TestEarlierPolicies:
    def test_are_kept_at_equal_shares_of_the_run_and_act_as_they_did(self, tiny, tmp_path):
        config = tiny(algorithm="mappo", steps=400, learner={"rollout": 40})

        class Copying(Progress):
            def iteration(self, done, total, **numbers):
                shutil.copytree(config.folder, tmp_path / str(done))

        train(config, progress=Copying())
        agent = dima.load(config.folder, "cpu")
        assert list(agent.earlier) == [120, 200, 320]  # the first iterations past 100, 200 and 300 steps
        observations, infos = agent.env.parallel_env.reset(seed=0)
        obs = torch.from_numpy(agent.env.encode(observations, infos)["obs"])[None]
        mask = torch.ones(1, agent.env.spec.n_agents, agent.env.spec.action_dim, dtype=torch.bool)
        view = View(obs, torch.zeros(1, agent.env.spec.state_dim), mask, torch.zeros(mask.shape))
        chosen = []
        for steps, act in agent.earlier_policies().items():
            then = dima.load(tmp_path / str(steps), "cpu")
            assert then.steps == steps
            chosen.append(act(view, mode=True)[0])
            assert torch.equal(chosen[-1], then.algorithm.act(view, mode=True)[0])
        assert not torch.equal(chosen[0], chosen[-1])

    @pytest.mark.parametrize("algorithm", ["dima", "happo", "hasac", "mamba", "marie"])
    def test_every_algorithm_has_some(self, tiny, algorithm):
        config = tiny(algorithm=algorithm, steps=300, keep_policies=2)
        train(config)
        policies = dima.load(config.folder, "cpu").earlier_policies()
        assert len(policies) == 2

    def test_a_longer_run_keeps_the_newest_and_none_is_fine(self, tiny):
        config = tiny(algorithm="mappo", steps=200, learner={"rollout": 40}, keep_policies=2)
        train(config)
        resume(config.folder, steps=400)
        assert list(dima.load(config.folder, "cpu").earlier) == [160, 280]
        none = tiny(algorithm="mappo", run="none", steps=80, keep_policies=0)
        train(none)
        assert dima.load(none.folder, "cpu").earlier == {}

    def test_one_that_does_not_fit_is_refused(self, tiny):
        config = tiny(algorithm="mappo", steps=80, learner={"rollout": 20})
        train(config)
        agent = dima.load(config.folder, "cpu")
        agent.earlier = {40: {"strange": torch.zeros(1)}}
        with pytest.raises(RunFolderError, match=r"an earlier policy does not fit its config\.yaml"):
            agent.earlier_policies()
