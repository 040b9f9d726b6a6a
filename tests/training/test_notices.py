"""What a run says besides its progress: its opening, its duration, what to choose instead."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dima.envs.vector import VectorEnv
from dima.experience.episodes import random_policy
from dima.experience.evaluation import evaluate
from dima.runtime import progress as clocks
from dima.runtime.pace import Pace
from dima.runtime.progress import Progress
from dima.runtime.signals import Stop
from dima.storage.run_folder import RunFolder
from dima.training.notices import duration_advice, gpu_advice
from dima.training.offline import fit, fit_config
from dima.training.online import Trainer, resume, train
from dima.training.run_config import build_config

pytestmark = pytest.mark.usefixtures("one_thread")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Heard(Progress):
    """Keeps what is displayed, in order: (kind, text)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def message(self, text: str) -> None:
        self.seen.append(("message", text))

    def warn(self, text: str) -> None:
        self.seen.append(("warning", text))

    def _show_iteration(self, done: int, total: int, numbers: dict[str, float], left: float | None) -> None:
        self.seen.append(("iteration", f"{done} of {total}"))

    @property
    def warnings(self) -> list[str]:
        return [text for kind, text in self.seen if kind == "warning"]


def test_a_run_opens_with_what_it_is(tiny: Callable[..., Any]) -> None:
    heard, config = Heard(), tiny("toy/uneven", "mappo", steps=50, seed=3)
    summary = train(config, progress=heard)
    kind, text = heard.seen[0]
    assert kind == "message"
    with Trainer(config, CPU, Progress()) as trainer:
        weights = sum(weight.numel() for weight in trainer.algorithm.parameters())
    score = f"{summary.random_score:,.1f}"
    assert text.splitlines() == [
        "toy/uneven: 2 agents; observations 2, 5; continuous actions 1, 3; state 7, at most 30 steps; "
        f"a random policy returns {score} (2 episodes)",
        f"mappo, preset debug, seed 3: {weights:,} weights on cpu, run folder {config.folder}",
    ]
    assert summary.table().count(f"random  {score:>12}") == 1


def test_only_weights_that_are_learnt_are_counted(tiny: Callable[..., Any]) -> None:
    heard = Heard()
    train(tiny(algorithm="hasac", steps=150), progress=heard)
    with Trainer(tiny(algorithm="hasac"), CPU, Progress()) as trainer:
        learnt = trainer.algorithm
        total, target = (sum(w.numel() for w in part.parameters()) for part in (learnt, learnt.target))
    assert target > 0
    assert f"{total - target:,} weights" in heard.seen[0][1]


@pytest.mark.parametrize("algorithm", ["dima", "mappo", "hasac"])
def test_the_random_policy_has_no_part_in_the_run(tiny, monkeypatch, algorithm: str) -> None:
    def records(folder):
        with RunFolder.open(folder) as run:
            return [
                {name: value for name, value in record.items() if not name.startswith("time/")}
                for record in run.records()
            ]

    with_it = tiny(algorithm=algorithm, run="with", steps=240)
    scored = train(with_it)
    assert scored.random_score is not None
    monkeypatch.setattr(Trainer, "evaluate_at_random", lambda self, stop: None)
    without = tiny(algorithm=algorithm, run="without", steps=240)
    assert train(without).random_score is None
    assert records(with_it.folder) == records(without.folder)


def test_a_resumed_run_knows_the_same_random_return(tiny) -> None:
    config = tiny(algorithm="mappo", steps=100)
    first = train(config)
    heard = Heard()
    second = resume(config.folder, steps=200, progress=heard)
    assert second.random_score == first.random_score
    assert heard.seen[0][1].startswith("toy/walk: 2 agents")
    heard = Heard()
    assert resume(config.folder, progress=heard).random_score == first.random_score
    assert not heard.seen  # it is finished


def test_a_signal_is_heard_while_the_random_policy_plays(tiny, monkeypatch) -> None:
    config, step = tiny(algorithm="mappo", steps=50), VectorEnv.step

    def interrupted(self, action, active):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, action, active)

    with monkeypatch.context() as patch:
        patch.setattr(VectorEnv, "step", interrupted)
        summary = train(config)
    assert not summary.finished
    assert (summary.steps, summary.random_score) == (0, None)
    assert resume(config.folder).random_score is not None


def test_a_random_policy_plays_a_few_evaluation_episodes(tiny) -> None:
    with Trainer(tiny(algorithm="mappo", evaluation_episodes=8), CPU, Progress()) as trainer:
        found, again = (trainer.evaluate_at_random(Stop()) for _ in range(2))
        assert found is not None and found == again and len(found.returns) == 5
        many = evaluate(trainer.test_envs, random_policy(trainer.spec), 200, seed=1)
    assert abs(found.mean - many.mean) < 3 * many.std / 5**0.5


def test_a_fit_opens_with_what_it_is(tiny, recording, tmp_path) -> None:
    from dima.recording.record import record

    record(recording(steps=120))
    heard = Heard()
    fixed = {"run": str(tmp_path / "fit"), "iterations": 1, "device": "cpu", "evaluation_horizon": 3}
    fit(fit_config(tmp_path / "data", preset="debug", overrides=fixed | {"tensorboard": False}), progress=heard)
    assert heard.seen[0][1].startswith("toy/walk: 2 agents; observations 2 each; continuous actions 1 each; state 4")
    assert "random policy" not in heard.seen[0][1]


# -- presets for a GPU ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "preset", "device", "said"),
    [
        ("dima", "published", CPU, True),
        ("dima", "sharp", CPU, True),
        ("dima", "lean", CPU, True),
        ("mappo", "published", CPU, True),
        ("dima", "published", GPU, False),
        ("dima", "small", CPU, False),
        ("dima", "quick", CPU, False),
        ("dima", "debug", CPU, False),
    ],
)
def test_a_preset_for_a_gpu_on_a_cpu_is_told(algorithm: str, preset: str, device: torch.device, said: bool) -> None:
    text = gpu_advice(build_config("toy/walk", algorithm, preset), device)
    assert (text is not None) == said
    if text is not None:
        assert text.startswith(f"dima: the preset {preset} is sized for a GPU")
        assert "--preset small" in text and "\n" not in text


def test_it_is_told_before_the_first_iteration(tmp_path) -> None:
    small = {"rollout": 20, "ppo": {"epochs": 1}}
    fixed = {"run": str(tmp_path / "run"), "device": "cpu", "threads": 1, "tensorboard": False}
    fixed |= {"steps": 40, "envs": 1, "evaluation_episodes": 1}
    heard = Heard()
    train(build_config("toy/walk", "mappo", "published", fixed | {"learner": small}), progress=heard)
    kinds = [kind for kind, text in heard.seen if "sized for a GPU" in text or kind == "iteration"]
    assert kinds == ["warning", "iteration", "iteration"]


# -- long runs --------------------------------------------------------------------------------------------------------


def pace(seconds: float, steps: int = 100, share: str = "whole") -> Pace:
    return Pace(seconds=seconds, steps=steps, iterations=2, share=share)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("preset", "now", "said"),
    [
        ("small", pace(20.0), "takes about 66 min on cpu: --preset quick is smaller, --steps 18000 takes an hour"),
        (
            "small",
            pace(20.0, share="part"),
            "takes at least 66 min on cpu: --preset quick is smaller, --steps 18000",
        ),
        ("quick", pace(200.0), "takes about 2 h 07 min on cpu: --steps 1900 takes an hour"),
        ("published", pace(2_000.0), "takes about 231 days on cpu: --preset small is smaller, give fewer --steps"),
        ("small", pace(17.0), None),
        ("small", replace(pace(20.0), iterations=1), None),
    ],
)
def test_a_long_run_says_how_long_and_what_to_choose(preset: str, now: Pace, said: str | None) -> None:
    config = build_config("toy/walk", "dima", preset)
    text = duration_advice(config, now, CPU, 20.0, 200, config.steps, config.learner.first_steps)  # type: ignore[attr-defined]
    assert (text is None) == (said is None)
    if said is not None and text is not None:
        assert text.startswith("dima: at this pace the whole run ")
        assert said in text and "\n" not in text


class Slow(Heard):
    """A clock on which each iteration takes as long as is said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
        super().__init__()
        self.times, self.iterations, self.now = seconds, 0, 0.0
        monkeypatch.setattr(clocks.time, "perf_counter", lambda: self.now)

    def iteration(self, done: int, total: int, **options: Any) -> None:
        self.iterations += 1
        self.now += self.times.get(self.iterations, self.times[0])
        super().iteration(done, total, **options)


def warned_in(heard: Heard) -> list[int]:
    """Iterations after which a warning came."""
    kinds = [kind for kind, text in heard.seen if kind != "message"]
    return [kinds[:n].count("iteration") for n, kind in enumerate(kinds) if kind == "warning"]


@pytest.mark.parametrize(
    ("algorithm", "learner", "seconds", "after"),
    [
        ("mappo", {"rollout": 50}, {0: 400.0}, [1]),  # 12 iterations take 80 minutes
        ("mappo", {"rollout": 50}, {0: 200.0}, []),
        ("mappo", {"rollout": 50}, {1: 30.0, 0: 0.1}, []),  # only the first was slow
        ("dima", {"policy_after": 1}, {1: 1_000.0, 0: 1.0}, []),  # it collects more than the others
        ("dima", {"policy_after": 1}, {1: 1.0, 0: 800.0}, [2]),
        ("dima", {"policy_after": 2}, {2: 800.0, 0: 800.0}, [2]),  # without a policy update: at least that
        ("hasac", {"warmup": 100}, {1: 1_000.0, 0: 0.1}, []),
        ("hasac", {"warmup": 100}, {1: 0.1, 0: 400.0}, [2]),
    ],
)
def test_a_long_run_is_told_once_as_soon_as_it_learns(
    tiny, monkeypatch, algorithm: str, learner: dict[str, Any], seconds: dict[int, float], after: list[int]
) -> None:
    heard = Slow(monkeypatch, seconds)
    train(tiny(algorithm=algorithm, steps=600, learner=learner), progress=heard)
    assert warned_in(heard) == after, heard.warnings
    if algorithm == "dima" and learner == {"policy_after": 2}:
        assert "takes at least " in heard.warnings[0]


def test_a_run_that_is_nearly_over_is_not_told(tiny, monkeypatch) -> None:
    config = tiny(algorithm="mappo", steps=600)
    train(config)
    heard = Slow(monkeypatch, {0: 1_000.0})
    resume(config.folder, steps=700, progress=heard)
    assert not heard.warnings
