"""Imaginations that are compiled, or recorded as a CUDA graph: the same numbers, and nothing that would wait."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from benchmarks.kill import contents, differences
from dima import build_config, recorded
from dima.algorithms.model_based import ModelBased
from dima.device import pick_device
from dima.envs import make_env
from dima.errors import ConfigError
from dima.imagination import imagine
from dima.progress import Progress
from dima.recorded import CudaGraph, compile_parts
from dima.replay import Rows
from dima.train import Trainer, resume, train
from tests.test_resume import Interrupted, Power, pull_plug

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
    """Tensors without content cannot be looked at; a CUDA graph can hold only what never looks."""
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


@pytest.mark.parametrize("algorithm", ["dima", "ensemble"])
@pytest.mark.parametrize("task", ["toy/switches", "toy/uneven"])
def test_a_gradient_never_waits_for_the_device(task: str, algorithm: str) -> None:
    learner = build_config(task, algorithm, "debug").learner.build(make_env(task).spec, "cpu").to("meta")
    model = learner.world_model.train()
    windows = {"denoiser": (6, 6), "reward": (6, 7), "decoder": (6, 1), "dynamics": (5 * 4, 2)}
    for name, objective in model.losses().items():
        loss, _ = objective.loss(starts(learner.spec, *windows[name], "meta"))
        loss.backward()
        slopes = [weight.grad for weight in model.get_submodule(name).parameters() if weight.grad is not None]
        assert slopes
        assert {slope.device.type for slope in slopes} == {"meta"}


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def on_gpu(tmp_path: Path) -> Iterator[Callable[..., ModelBased]]:
    """Builds learners on a GPU that have lived for a round, alike but for what is asked for."""
    with ExitStack() as held:

        def build(algorithm: str, **learner: Any) -> ModelBased:
            changes = {"run": str(tmp_path), "learner": {"policy_after": 0} | learner}
            config = build_config("toy/walk", algorithm, "debug", changes)
            torch.manual_seed(0)
            trainer = held.enter_context(Trainer(config, pick_device("cuda"), Progress()))
            trainer.live()
            assert isinstance(trainer.algorithm, ModelBased)
            return trainer.algorithm

        yield build


@gpu
@pytest.mark.parametrize("algorithm", ["dima", "ensemble"])
def test_a_recorded_imagination_equals_a_played_one(algorithm: str, on_gpu: Callable[..., ModelBased]) -> None:
    learner = on_gpu(algorithm, cuda_graphs=True)
    start = learner.replay.gather(learner.replay.recent(24), learner.world_model.context - 1, 0)
    torch.manual_seed(1)
    told = [learner.graph(start).clone() for _ in range(2)]
    torch.manual_seed(1)
    real = [learner._imagined(start) for _ in range(2)]
    for one, other in zip(told, real, strict=True):
        torch.testing.assert_close(one.state, other.state)


@gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("algorithm", ["dima", "ensemble"])
def test_recorded_gradients_learn_the_same(algorithm: str, precision: str, on_gpu: Callable[..., ModelBased]) -> None:
    plain, recorded = (on_gpu(algorithm, precision=precision, cuda_graphs=graphs) for graphs in (False, True))
    for learner in (plain, recorded):  # a round is over in which they were recorded; this one only plays them
        torch.manual_seed(1)
        learner.fit(Progress())
    for (name, one), other in zip(plain.world_model.named_parameters(), recorded.world_model.parameters(), strict=True):
        torch.testing.assert_close(other, one, msg=lambda told, name=name: f"{name}: {told}", rtol=1e-3, atol=1e-4)
    for (name, one), other in zip(plain.world_model.named_buffers(), recorded.world_model.buffers(), strict=True):
        torch.testing.assert_close(other, one, msg=lambda told, name=name: f"{name}: {told}", rtol=1e-3, atol=1e-3)


def losses(config: Any) -> list[dict[str, float]]:
    summary = train(config)
    lines = (summary.folder / "metrics.jsonl").read_text().splitlines()
    kept = ("denoiser", "reward", "policy/return")  # others of the policy are counts, or differences of like numbers
    return [{k: v for k, v in json.loads(line).items() if k.startswith(kept)} for line in lines]


@pytest.fixture
def compiled(monkeypatch) -> list[str]:
    """Notes every graph that is compiled, up to the last step, the generation of code."""
    noted: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        noted.append(str(graph))
        return aot_eager(graph, inputs)

    monkeypatch.setattr(recorded, "BACKEND", backend)
    torch._dynamo.reset()
    return noted


@pytest.mark.parametrize("task", ["toy/switches", "toy/uneven"])
def test_compiled_modules_learn_the_same(tiny, task: str, compiled: list[str]) -> None:
    learner = {"policy_after": 0}
    plain = losses(tiny(task, run="plain", steps=240, learner=learner))
    assert not compiled
    again = losses(tiny(task, run="compiled", steps=240, learner=learner | {"compile": True}))
    assert compiled
    assert len(plain) == len(again) > 1
    for one, other in zip(plain, again, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4)


def test_everything_is_compiled_before_the_first_round_and_nothing_has_changed(tiny, compiled: list[str]) -> None:
    config = tiny("toy/uneven", learner={"policy_after": 0, "compile": True, "imagination_batch": 25, "workers": 2})
    with Trainer(config, pick_device("cpu"), Progress()) as trainer:
        learner = trainer.algorithm
        assert isinstance(learner, ModelBased)
        learner.take_in(trainer.collector.play(learner.act, 200))
        before = {name: value.clone() for name, value in learner.state_dict().items()}
        visits = {name: counts.clone() for name, counts in learner.replay.visits.items()}
        learner.warm_up(Progress())
        for name, value in learner.state_dict().items():
            assert torch.equal(value, before[name]), name
        for name, counts in learner.replay.visits.items():
            assert torch.equal(counts, visits[name]), name
        known = len(compiled)
        learner.fit(Progress())
        learner.improve(Progress(), 0.0)
    assert len(compiled) == known > 0


def test_a_compiled_run_goes_on_exactly(tiny, compiled: list[str]) -> None:
    learner = {"policy_after": 0, "compile": True}
    whole = tiny("toy/uneven", run="whole", steps=300, learner=learner)
    assert train(whole).finished
    part = whole.override({"run": str(whole.folder.parent / "part")})
    with pytest.raises(Power):
        train(part, progress=Interrupted("reward", 2, pull_plug))
    assert resume(part.folder).finished
    assert not differences(contents(whole.folder), contents(part.folder))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_generated_code_computes_the_same() -> None:
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
