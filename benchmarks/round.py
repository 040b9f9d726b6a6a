"""What a learning round costs, in seconds and floating-point operations, part by part.

    python -m benchmarks.round --task mamujoco/halfcheetah-2x3 --preset published --updates 10

Fits each part of the world model a few times, imagines one batch and makes its policy update, all at the preset's full
sizes, on random data in a real replay; then scales what was measured to a whole round. FLOPs are those of matrix
products and convolutions, 2 for a multiply-add. Writes ``results/round/<task>.json``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from dima.algorithms.model_based import ModelBased, ModelBasedConfig
from dima.data import EnvSpec, Episode
from dima.envs import make_env
from dima.imagination import imagine
from dima.provenance import protocol
from dima.run_config import RunConfig, build_config

Shape = Sequence[int]
EPISODES, STEPS = 8, 1_000  # of random data in the replay

# DIMA section 12: the published sizes, re-created and measured by others on 2 CPU cores; TFLOP, seconds on one round
REFERENCE = {
    task: dict(zip(("denoiser", "reward", "imagination", "round", "seconds"), numbers, strict=True))
    for task, numbers in {
        "mamujoco/halfcheetah-2x3": (0.434, 0.190, 27.5, 263, 2547),
        "mamujoco/halfcheetah-6x1": (0.436, 0.339, 41.4, 363, 4128),
        "mamujoco/ant-4x2": (0.435, 0.265, 27.6, 279, 2914),
    }.items()
}
NOTES = (
    "Reference: DIMA section 12, where every denoising level runs the Perceiver. Here it runs once per reveal mask, in "
    "one batched call before the levels: n calls' worth instead of K, which halves it for a team of two (K = 2n) and "
    "changes nothing for larger teams (K = n).",
    "Operations that are neither matrix product nor convolution (norms, activations, the optimiser) are timed, not "
    "counted. Padded agents and masked attention entries count in full.",
)


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


_ATTENTION = {  # PyTorch's counter misses the CPU's
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass
class Cost:
    """Wall seconds and floating-point operations."""

    seconds: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.flops + other.flops)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.seconds * times, self.flops * times)


class Counter(TorchDispatchMode):
    """Adds up the operations of a block by the formulas of PyTorch's ``FlopCounterMode``.

    That one also follows modules, which fails where weights that require gradients are used without.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        operation = func._overloadpacket
        if operation in _ATTENTION:
            self.flops += _ATTENTION[operation](*(getattr(value, "shape", value) for value in args))
        elif operation in flop_registry:
            self.flops += flop_registry[operation](*args, **(kwargs or {}), out_val=out)
        return out


def build(config: RunConfig) -> ModelBased:
    """The learner of a run, untrained, with random experience of the task's sizes in its replay."""
    assert isinstance(config.learner, ModelBasedConfig)
    env = make_env(config.task, config.env)
    env.close()
    learner = config.learner.override({"replay": {"capacity": EPISODES * STEPS}}).build(env.spec, "cpu")
    episodes = [random_episode(env.spec) for _ in range(EPISODES)]
    for episode in episodes:
        learner.replay.add(episode)
        learner.ppo.observe(episode.obs, episode.state)
    learner.world_model.take_in(episodes)
    return learner


def random_episode(spec: EnvSpec, steps: int = STEPS) -> Episode:
    """Noise in the shape of an episode."""
    valid = torch.from_numpy(spec.action_valid)
    action = torch.rand(steps, spec.n_agents, spec.action_dim) * valid
    if spec.discrete:
        action = torch.nn.functional.one_hot(action.argmax(-1), spec.action_dim).float()
    end = torch.arange(steps) == steps - 1
    return Episode(
        obs=torch.randn(steps + 1, spec.n_agents, spec.obs_dim) * torch.from_numpy(spec.obs_valid),
        state=torch.randn(steps + 1, spec.state_dim),
        action_mask=valid.expand(steps + 1, -1, -1),
        action=action,
        reward=torch.randn(steps),
        terminated=torch.zeros_like(end),
        truncated=end,
    )


def update_costs(learner: ModelBased, updates: int) -> dict[str, Cost]:
    """One gradient step of each part of the world model: counted once, timed over ``updates`` further ones."""
    model: Any = learner.world_model
    losses = {"decoder": model.decoder_loss, "denoiser": model.denoiser_loss, "reward": model.reward_loss}
    costs = {}
    model.train()
    for name, loss_of in losses.items():

        def step(name: str = name, loss_of: Callable[..., Any] = loss_of) -> None:
            model.fitters[name].step(loss_of(learner.replay)[0])

        with Counter() as count:
            step()
        began = time.perf_counter()
        for _ in range(updates):
            step()
        costs[name] = Cost((time.perf_counter() - began) / updates, count.flops)
    model.eval()
    return costs


def imagination_costs(learner: ModelBased) -> dict[str, Cost]:
    """One imagined batch, split by what works, and the policy update on it.

    Counted while timed: at full sizes the counter takes less than a hundredth of the time.
    """
    config, model = learner.config, learner.world_model
    denoiser: Any = model.denoiser
    start = learner.replay.gather(learner.replay.recent(config.imagination_batch), model.context - 1, 0)
    costs: dict[str, Cost] = {}
    with Counter() as count:
        places = {
            "policy": (learner.ppo, "act"),
            "condition": (denoiser, "encode_actions"),
            "layout": (denoiser.net, "kernels"),
            "U-Net": (denoiser, "denoise"),
            "decoder": (model, "observe"),
            "reward": (model.reward, "tell"),
        }
        with watched(places, costs, count), cost_of("imagination", costs, count):
            imagined = imagine(model, learner.act, start, config.horizon)
        with cost_of("policy update", costs, count):
            learner.ppo.update(imagined)
    return costs


@contextmanager
def cost_of(name: str, costs: dict[str, Cost], count: Counter) -> Iterator[None]:
    """Add what the block takes to ``costs[name]``."""
    began, before = time.perf_counter(), count.flops
    yield
    spent = Cost(time.perf_counter() - began, count.flops - before)
    costs[name] = costs.get(name, Cost()) + spent


@contextmanager
def watched(places: dict[str, tuple[Any, str]], costs: dict[str, Cost], count: Counter) -> Iterator[None]:
    """While the block runs, add what each (object, method) takes to its part's cost."""

    def watch(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with cost_of(name, costs, count):
                return method(*args, **kwargs)

        return call

    for name, (owner, method) in places.items():
        owner.__dict__[method] = watch(name, getattr(owner, method))
    try:
        yield
    finally:
        for owner, method in places.values():
            del owner.__dict__[method]


def measure(config: RunConfig, updates: int) -> dict[str, Any]:
    """Measure every part of a round and scale it.

    Args:
        config: of the run; its thread count is used.
        updates: gradient steps of each part of the world model that are timed.

    Returns:
        Plain data for JSON: ``parts`` (one update, one imagination, one policy update), ``inside`` (shares of the
        imagination), ``round`` (each part as often as a round does it, and their sum).
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    learner = build(config)
    fits = update_costs(learner, updates)
    dreams = imagination_costs(learner)
    parts = {f"{name} update": cost for name, cost in fits.items()}
    parts |= {name: dreams.pop(name) for name in ("imagination", "policy update")}
    model: Any = learner.config.world_model
    often = {
        "decoder update": model.decoder_fit.updates,
        "denoiser update": model.denoiser_fit.updates,
        "reward update": model.reward_fit.updates,
        "imagination": learner.config.imaginations,
        "policy update": learner.config.imaginations,
    }
    scaled = {name: parts[name] * often[name] for name in parts}
    scaled["round"] = sum(scaled.values(), Cost())
    return {
        "task": config.task,
        "preset": config.preset,
        "seed": config.seed,
        "updates": updates,
        "threads": torch.get_num_threads(),
        "parameters": {
            "denoiser": parameters(learner.world_model.denoiser),
            "reward": parameters(learner.world_model.reward),
            "decoder": parameters(learner.world_model.decoder),
            "actor": parameters(learner.ppo.actor),
            "critic": parameters(learner.ppo.critic),
        },
        "parts": {name: vars(cost) for name, cost in parts.items()},
        "inside": {name: vars(cost) for name, cost in dreams.items()},
        "often": often,
        "round": {name: vars(cost) for name, cost in scaled.items()},
        "reference": REFERENCE.get(config.task) if config.preset == "published" else None,
        "notes": NOTES,
    }


def parameters(module: Any) -> int:
    """Number of weights."""
    return sum(weight.numel() for weight in module.parameters())


def table(result: dict[str, Any]) -> str:
    """What was measured beside the reference, for a person."""
    known = result["reference"] or {}
    told = {
        "denoiser update": known.get("denoiser"),
        "reward update": known.get("reward"),
        "imagination": known.get("imagination"),
    }
    lines = [
        f"{result['task']}, preset {result['preset']}, {result['threads']} threads",
        "",
        f"{'':<20}{'seconds':>10}{'TFLOP':>10}{'reference':>11}{'times':>7}{'s a round':>11}{'TFLOP':>9}",
    ]
    for name, cost in result["parts"].items():
        scaled = result["round"][name]
        lines.append(
            f"{name:<20}{cost['seconds']:>10.3g}{cost['flops'] / 1e12:>10.3g}{_number(told.get(name)):>11}"
            f"{result['often'][name]:>7}{scaled['seconds']:>11.4g}{scaled['flops'] / 1e12:>9.3g}"
        )
        if name == "imagination":
            lines += [
                f"  {part:<18}{inner['seconds']:>10.3g}{inner['flops'] / 1e12:>10.3g}"
                f"{inner['seconds'] / cost['seconds']:>11.1%} of its time"
                for part, inner in result["inside"].items()
            ]
    whole = result["round"]["round"]
    lines.append(f"{'a whole round':<48}{'':>10}{whole['seconds']:>11.4g}{whole['flops'] / 1e12:>9.3g}")
    if known:
        lines.append(f"{'reference':<48}{'':>10}{known['seconds']:>11.4g}{known['round']:>9.3g}")
    lines += ["", *result["notes"]]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mamujoco/halfcheetah-2x3", help="whose sizes to use")
    parser.add_argument("--preset", default="published", help="of the algorithm dima")
    parser.add_argument("--updates", type=int, default=10, help="timed gradient steps of each part")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the random data")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's own choice")
    parser.add_argument("--out", type=Path, default=Path("results/round"), help="folder for what was found")
    args = parser.parse_args()
    config = build_config(args.task, "dima", args.preset, {"seed": args.seed, "threads": args.threads})
    result = measure(config, args.updates)
    print(table(result))
    command = shlex.join(["python", "-m", "benchmarks.round", *sys.argv[1:]])
    path = args.out / f"{args.task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"command": command, "protocol": protocol("cpu")} | result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
