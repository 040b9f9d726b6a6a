"""Time and operations of an iteration at the published sizes, ours beside that of MARIE's authors, in turn.

    OMP_NUM_THREADS=2 python -m benchmarks.peers.marie_speed --marie MARIE --agents 2 --obs 19 --actions 3 --out FILE

MARIE is a clone of https://github.com/breez3young/MARIE; what its files import besides PyTorch, NumPy and einops is
replaced by empty modules. Both sides do what an iteration does on batches of the same shape: a gradient of the world
model, the authors' mask of their buffer included, and a rollout of given actions. Networks and numbers are equal
(``tests/parity/test_marie.py``). The tokenizer's updates and PPO's are left out.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor

from benchmarks.peers.turns import KEEP, Side, measure, report, rows
from dima.data import EnvSpec
from dima.experience.replay import Rows
from dima.world_models.marie.model import MarieModelConfig

UNUSED = ("ipdb", "wandb", "gym", "torchvision", "environments", "matplotlib", "matplotlib.pyplot")
UNUSED += ("matplotlib.colors", "tqdm", "PIL")
LENGTH, HORIZON = 15, 14  # steps of a window, and of a rollout
OFTEN = {"update": 200, "imagination": 5}  # in an iteration


def ours(spec: EnvSpec, batch: int, starts: int) -> Side:
    """A gradient of the Transformer, and a rollout."""
    window, start, action = _inputs(spec, batch, starts)
    model = MarieModelConfig(segment_mean=True).build(spec).eval()

    def update() -> None:
        model.requires_grad_(True).transformer.train()
        model.transformer_loss(window)[0].backward()
        model.transformer.zero_grad()

    @torch.no_grad()
    def imagine() -> None:
        model.requires_grad_(False).eval()  # which the counter needs, too
        latent = model.start(start)
        for now in action.unbind(1):
            latent = model.step_(latent, now).latent
            model.observe(latent)

    return {"update": update, "imagination": imagine}


def theirs(root: Path, spec: EnvSpec, batch: int, starts: int) -> Side:
    """The same by the authors' code."""
    window, start, action = _inputs(spec, batch, starts)
    sys.path.insert(0, str(root))
    importlib.import_module("torch._dynamo")  # looks for some of these
    sys.modules |= {name: MagicMock() for name in UNUSED}
    from agent.models.transformer import PerceiverConfig, TransformerConfig
    from agent.models.vq import SimpleVQAutoEncoder
    from agent.models.world_model import MAWorldModel
    from agent.models.world_model_env import MAWorldModelEnv

    agents, size = spec.n_agents, 16 + spec.action_dim + 1
    tokenizer = SimpleVQAutoEncoder(
        in_dim=spec.obs_dim, embed_dim=64, num_tokens=16, codebook_size=512, learnable_codebook=False, ema_update=True
    ).eval()
    transformer = TransformerConfig(size, LENGTH, "causal", 10, 4, 256, 0.1, 0.1, 0.1)
    perceiver = PerceiverConfig(256, 256, agents, 2, 8, 64, 8, 64, 0.1, 0.1)
    model = MAWorldModel(
        obs_vocab_size=512,
        act_vocab_size=256,
        num_action_tokens=spec.action_dim,
        num_agents=agents,
        config=transformer,
        perattn_config=perceiver,
        action_dim=spec.action_dim,
        action_low=-1.0,
        action_high=1.0,
        use_ce_for_reward=True,
        rewards_prediction_config={"loss_type": "hlgauss", "min_v": -3.0, "max_v": 3.0, "bins": 128},
    )
    mask_of = _method(root / "agent/memory/DreamerMemory.py", "generate_attn_mask", {"torch": torch})

    def everyone(values: Tensor) -> Tensor:
        return values[..., None, None].expand(-1, -1, agents, -1).float()

    sample = {"observation": window.obs, "action": window.action}
    sample |= {"reward": everyone(window.reward), "done": everyone(window.terminated)}

    def update() -> None:
        model.requires_grad_(True).train()
        mask = mask_of(None, sample["done"], size)
        model.compute_loss(sample, tokenizer, attention_mask=mask)[0].backward()
        model.zero_grad()

    @torch.no_grad()
    def imagine() -> None:
        model.requires_grad_(False)
        world = MAWorldModelEnv(tokenizer, model, "cpu", sys.modules["environments"].Env.MAMUJOCO)
        world.reset_from_initial_observations(start.obs[:, -1])
        for now in action.unbind(1):
            world.step(now)

    return {"update": update, "imagination": imagine}


def _inputs(spec: EnvSpec, batch: int, starts: int) -> tuple[Rows, Rows, Tensor]:
    """A batch of windows, starts of rollouts, and their actions."""
    torch.manual_seed(0)
    return rows(spec, batch, LENGTH), rows(spec, starts, 2), rows(spec, starts, HORIZON).action


def _method(file: Path, name: str, scope: dict[str, Any]) -> Any:
    """A method of a file that cannot be imported, as a function."""
    node = next(n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef) and n.name == name)
    exec(compile(ast.Module([node], []), str(file), "exec"), scope)
    return scope[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--marie", required=True, type=Path)
    for name, default in {"agents": 2, "obs": 19, "actions": 3, "batch": 40, "starts": 600, "turns": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--same-allocator", action="store_true", help="the authors' process keeps freed memory, too")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    names = tuple(f"agent_{n}" for n in range(args.agents))
    spec = EnvSpec(names, args.obs, (args.obs,) * args.agents, (args.actions,) * args.agents, discrete=False)
    sides = {
        "ours": partial(ours, spec, args.batch, args.starts),
        "theirs": partial(theirs, args.marie, spec, args.batch, args.starts),
    }
    settings = {key: value for key, value in vars(args).items() if key not in ("marie", "out")}
    report(settings | {"often": OFTEN}, measure(sides, OFTEN, args.turns, KEEP[args.same_allocator]), args.out)


if __name__ == "__main__":
    main()
