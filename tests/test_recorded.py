"""Imaginations that are compiled, or recorded as a CUDA graph: the same numbers, and nothing that would wait."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dima import build_config, recorded
from dima.algorithms.model_based import ModelBased
from dima.device import pick_device
from dima.envs import make_env
from dima.errors import ConfigError
from dima.imagination import imagine
from dima.progress import Progress
from dima.recorded import CudaGraph, compile_parts
from dima.replay import Rows
from dima.train import Trainer, train

pytestmark = pytest.mark.usefixtures("one_thread")


def starts(spec, batch: int, context: int, device: str) -> Rows:
    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(batch, context, *shape, dtype=dtype, device=device)

    agents = spec.n_agents
    return Rows(
        state=zeros(spec.state_dim),
        obs=zeros(agents, spec.obs_dim),
        action_mask=zeros(agents, spec.action_dim, dtype=torch.bool),
        action=zeros(agents, spec.action_dim),
        reward=zeros(),
        terminated=zeros(dtype=torch.bool),
        episode=zeros(dtype=torch.int64),
        valid=zeros(dtype=torch.bool),
        acted=zeros(dtype=torch.bool),
    )


@pytest.mark.parametrize("algorithm", ["dima", "ensemble"])
@pytest.mark.parametrize("task", ["toy/switches", "toy/uneven"])
def test_an_imagination_never_waits_for_the_device(task: str, algorithm: str) -> None:
    """Tensors without content cannot be looked at: what works on them can be recorded as a CUDA graph."""
    learner = build_config(task, algorithm, "debug").learner.build(make_env(task).spec, "cpu").to("meta")
    given = starts(learner.spec, 6, learner.world_model.context, "meta")
    told = imagine(learner.world_model, learner.act, given, 3)
    assert told.reward.shape == (6, 3)
    assert {column.device.type for column in vars(told).values()} == {"meta"}


def test_elsewhere_than_on_a_gpu_the_function_is_called() -> None:
    calls = []
    graph = CudaGraph(lambda rows: calls.append(rows) or rows)
    given = starts(make_env("toy/walk").spec, 2, 2, "cpu")
    assert graph(given) is given
    assert calls == [given]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recorded_imagination_equals_a_played_one(tmp_path: Path) -> None:
    config = build_config("toy/walk", "dima", "debug", {"run": str(tmp_path), "learner": {"cuda_graphs": True}})
    with Trainer(config, pick_device("cuda"), Progress()) as trainer:
        trainer.live()
        learner = trainer.algorithm
        assert isinstance(learner, ModelBased)
        start = learner.replay.gather(learner.replay.recent(24), learner.world_model.context - 1, 0)
        torch.manual_seed(1)
        told = [learner.graph(start) for _ in range(2)]
        torch.manual_seed(1)
        real = [learner._imagined(start) for _ in range(2)]
    for one, other in zip(told, real, strict=True):
        torch.testing.assert_close(one.state, other.state)


def losses(config: Any) -> list[dict[str, float]]:
    summary = train(config)
    lines = (summary.folder / "metrics.jsonl").read_text().splitlines()
    kept = ("denoiser", "reward", "policy/return")  # others of the policy are counts, or differences of like numbers
    return [{k: v for k, v in json.loads(line).items() if k.startswith(kept)} for line in lines]


@pytest.mark.parametrize("task", ["toy/switches", "toy/uneven"])
def test_compiled_modules_learn_the_same(tiny, task: str, monkeypatch) -> None:
    """All of it but the last step, the generation of code; resuming and copies see the same modules."""
    monkeypatch.setattr(recorded, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    learner = {"policy_after": 0}
    plain = losses(tiny(task, run="plain", steps=240, learner=learner))
    compiled = losses(tiny(task, run="compiled", steps=240, learner=learner | {"compile": True}))
    assert len(plain) == len(compiled) > 1
    for one, other in zip(plain, compiled, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_generated_code_computes_the_same(monkeypatch) -> None:
    torch._dynamo.reset()
    learner = build_config("toy/uneven", "dima", "debug").learner.build(make_env("toy/uneven").spec, "cpu")
    encoder = learner.world_model.denoiser.encoder
    spec = learner.spec
    action, visible = torch.randn(5, 3, spec.n_agents, spec.action_dim), torch.rand(5, 3, spec.n_agents) > 0.3
    visible[:, 0] = True
    before = encoder(action, visible)
    compile_parts([encoder], "cpu")
    torch.testing.assert_close(encoder(action, visible), before, atol=1e-5, rtol=1e-5)


def test_without_a_compiler_it_says_so(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        compile_parts([], "cpu")
