"""CUDA graphs and compiled modules: the same numbers as eager execution, and no synchronisation with the device."""

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

from benchmarks.studies.kill import contents, differences
from dima import build_config
from dima.algorithms.model_based import ModelBased
from dima.envs import make_env
from dima.errors import ConfigError
from dima.experience.replay import Rows
from dima.runtime import cuda_graph
from dima.runtime.cuda_graph import CudaGraph, compile_parts
from dima.runtime.device import pick_device
from dima.runtime.progress import Progress
from dima.training.online import Trainer, resume, train
from dima.world_models.rollout import imagine
from tests.reliability.test_resume import Interrupted, Power, pull_plug

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


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # other settings that decide what a device is asked to do
    "dima": ("dima", {}),
    "other solver, order and codes": (
        "dima",
        {"world_model": {"sampler": {"solver": "heun", "order": "random"}, "decoder": {"bottleneck": "fsq"}}},
    ),
    "dead codes": (
        "dima",
        {
            "world_model": {
                "denoiser": {"reveal": "cumulative", "action_path": "condition+input", "target": "change"},
                "decoder": {"dead_below": 0.1},
                "reward": {"next_state": True, "normalize_reward": True},
                "denoiser_fit": {"ema": 0.9},
            },
        },
    ),
    "ensemble": ("ensemble", {}),
    "mamba": ("mamba", {}),
}
every = pytest.mark.parametrize(("algorithm", "changes"), VARIANTS.values(), ids=list(VARIANTS))


@every
@pytest.mark.parametrize("task", ["toy/switches", "toy/uneven"])
def test_an_imagination_never_waits_for_the_device(task: str, algorithm: str, changes: dict[str, Any]) -> None:
    """Meta tensors have no values; a CUDA graph can capture only what never reads any."""
    learner = on_meta(task, algorithm, changes)
    given = starts(learner.spec, 6, learner.world_model.context, "meta")
    rollout = imagine(learner.world_model, learner.actor.act, given, 3, every=True)
    assert rollout.reward.shape == (18 if algorithm == "mamba" else 6, 3)
    assert {column.device.type for column in vars(rollout).values()} == {"meta"}


@every
@pytest.mark.parametrize("task", ["toy/switches", "toy/uneven"])
def test_a_gradient_never_waits_for_the_device(task: str, algorithm: str, changes: dict[str, Any]) -> None:
    learner = on_meta(task, algorithm, changes)
    model = learner.world_model.train()
    windows = {
        "denoiser": (6, 6),
        "reward": (6, 7),
        "decoder": (6, 1),
        "dynamics": (8, 6) if algorithm == "mamba" else (5 * 4, 2),
    }
    for name, objective in model.objectives().items():
        loss, _ = objective.loss(starts(learner.spec, *windows[name], "meta"))
        loss.backward()
        gradient = [weight.grad for weight in model.get_submodule(name).parameters() if weight.grad is not None]
        assert gradient
        assert {slope.device.type for slope in gradient} == {"meta"}


def on_meta(task: str, algorithm: str, changes: dict[str, Any]) -> ModelBased:
    config = build_config(task, algorithm, "debug", {"learner": changes})
    return config.learner.build(make_env(task).spec, "cpu").to("meta")


def test_on_the_cpu_the_function_is_called() -> None:
    calls = []
    graph = CudaGraph(lambda rows: calls.append(rows) or rows)
    given = starts(make_env("toy/walk").spec, 2, 2, "cpu")
    assert graph(given) is given
    assert calls == [given]


def on(device: str, *more: str) -> Any:
    """A case for a device; skipped where there is none."""
    missing = device == "cuda" and not torch.cuda.is_available()
    return pytest.param(device, *more, marks=pytest.mark.skipif(missing, reason="needs a GPU"))


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[Callable[..., ModelBased]]:
    """Builds learners after an iteration, on a GPU with captured gradients and imaginations."""
    with ExitStack() as cleanup:

        def build(device: str, task: str, algorithm: str, changes: dict[str, Any], **learner: Any) -> ModelBased:
            changes = {"run": str(tmp_path), "learner": changes | {"policy_after": 0} | learner}
            config = build_config(task, algorithm, "debug", changes)
            trainer = cleanup.enter_context(Trainer(config, pick_device(device), Progress()))
            trainer.learn()
            assert isinstance(trainer.algorithm, ModelBased)
            return trainer.algorithm

        yield build


@pytest.mark.parametrize("device", [on("cpu"), on("cuda")])
@every
@pytest.mark.parametrize("task", ["toy/switches", "toy/uneven"])
def test_a_captured_imagination_equals_an_eager_one(
    device: str, task: str, algorithm: str, changes: dict[str, Any], trained: Callable[..., ModelBased]
) -> None:
    learner = trained(device, task, algorithm, changes)
    start = learner.replay.gather(learner.replay.recent(24), learner.world_model.context - 1, 0)
    torch.manual_seed(1)
    captured = [learner.graph(start).clone() for _ in range(2)]
    torch.manual_seed(1)
    eager = [learner._imagine(start) for _ in range(2)]
    for one, other in zip(captured, eager, strict=True):
        torch.testing.assert_close(one.state, other.state)
        torch.testing.assert_close(one.reward, other.reward)


@pytest.mark.parametrize(("device", "precision"), [on("cpu", "float32"), on("cuda", "float32"), on("cuda", "bf16")])
@every
@pytest.mark.parametrize("task", ["toy/switches", "toy/uneven"])
def test_captured_gradients_equal_eager_ones(
    device: str,
    precision: str,
    task: str,
    algorithm: str,
    changes: dict[str, Any],
    trained: Callable[..., ModelBased],
) -> None:
    learner = trained(device, task, algorithm, changes, precision=precision)
    model, fitter = learner.world_model, learner.fitter
    for name, objective in model.objectives().items():
        part, rows = model.get_submodule(name).train(), objective.sample(learner.replay)
        before = {key: value.clone() for key, value in part.state_dict().items()}
        found = []
        for fitter.cuda_graphs in (True, False, True):
            part.load_state_dict(before)
            torch.manual_seed(1)
            gradient, _ = fitter._gradient_of(name, learner.replay)(rows)
            found.append([x.clone() for x in (*gradient, *part.buffers()) if x is not None])  # the codebook moves, too
        assert any(x.any() for x in found[0])
        for again in found[1:]:
            torch.testing.assert_close(again, found[0], rtol=1e-3, atol=1e-5)


def losses(config: Any) -> list[dict[str, float]]:
    summary = train(config)
    lines = (summary.folder / "metrics.jsonl").read_text().splitlines()
    kept = ("denoiser", "reward", "policy/return")  # others of the policy are counts, or differences of like numbers
    return [{k: v for k, v in json.loads(line).items() if k.startswith(kept)} for line in lines]


@pytest.fixture
def compiled(monkeypatch) -> list[str]:
    """The graphs that were compiled, except for code generation."""
    noted: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        noted.append(str(graph))
        return aot_eager(graph, inputs)

    monkeypatch.setattr(cuda_graph, "BACKEND", backend)
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


def test_warm_up_compiles_everything_and_changes_nothing(tiny, compiled: list[str]) -> None:
    config = tiny("toy/uneven", learner={"policy_after": 0, "compile": True, "imagination_batch": 25, "workers": 2})
    with Trainer(config, pick_device("cpu"), Progress()) as trainer:
        learner = trainer.algorithm
        assert isinstance(learner, ModelBased)
        learner.add(trainer.collector.play(learner.policy, 200))
        before = {name: value.clone() for name, value in learner.state_dict().items()}
        visits = {name: counts.clone() for name, counts in learner.replay.visits.items()}
        learner.warm_up(Progress())
        for name, value in learner.state_dict().items():
            assert torch.equal(value, before[name]), name
        for name, counts in learner.replay.visits.items():
            assert torch.equal(counts, visits[name]), name
        known = len(compiled)
        learner.fit(Progress())
        learner.update_policy(Progress(), 0.0)
    assert len(compiled) == known > 0


def test_a_compiled_run_resumes_exactly(tiny, compiled: list[str]) -> None:
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


def test_without_a_compiler_there_is_one_clear_error(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        compile_parts([], "cpu")
