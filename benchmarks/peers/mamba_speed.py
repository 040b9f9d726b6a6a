"""Time and operations of an iteration at the published sizes, ours beside that of MAMBA's authors, in turn.

    OMP_NUM_THREADS=2 python -m benchmarks.peers.mamba_speed --mamba MAMBA --agents 2 --obs 19 --actions 3 --out FILE

MAMBA is a clone of https://github.com/jbr-ai-labs/mamba, whose learner needs PyTorch and NumPy; its logger is replaced
by an empty module. The authors have discrete actions only, so both sides do: a gradient step of the world model, and
an imagined batch with PPO's gradient steps on it, as often as an iteration on StarCraft makes them. Networks and
numbers are equal (``tests/parity/test_mamba.py``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor

from benchmarks.peers.turns import KEEP, Side, measure, report, rows
from dima.algorithms.mamba import MambaConfig
from dima.data import EnvSpec
from dima.experience.replay import Rows
from dima.nn.optim import Fitter
from dima.world_models.rollout import imagine

OFTEN = {"update": 60, "policy": 4}  # in an iteration


def ours(spec: EnvSpec) -> Side:
    """A gradient step of the world model, and an imagined batch with PPO's steps."""
    window = _window(spec)
    config = MambaConfig()
    model = config.world_model.build(spec).eval()
    ppo = config.build_ppo(model.policy_spec)
    fit = Fitter(model.dynamics, config.world_model.dynamics_fit)

    def update() -> None:
        model.train()
        with fit.fitting():
            fit.step(model.loss(window)[0])
        model.eval()

    def policy() -> None:
        ppo.update(imagine(model, ppo.actor.act, window, config.horizon, every=True))

    return {"update": update, "policy": policy}


def theirs(root: Path, spec: EnvSpec) -> Side:
    """The same by the authors' learner."""
    window = _window(spec)
    sys.path.insert(0, str(root))
    sys.modules["wandb"] = MagicMock()
    for package in ("configs", "configs.dreamer"):  # whose own __init__ import simulators
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(root / package.replace(".", "/"))]
    from agent.learners.DreamerLearner import DreamerLearner
    from configs.dreamer.optimal.starcraft.LearnerConfig import DreamerLearnerConfig
    from environments import Env

    config = DreamerLearnerConfig()
    config.DEVICE, config.ENV_TYPE, config.CAPACITY = "cpu", Env.STARCRAFT, 1000
    config.IN_DIM, config.ACTION_SIZE = spec.obs_dim, spec.action_dim
    with tempfile.TemporaryDirectory() as folder:
        config.LOG_FOLDER = folder
        learner: Any = DreamerLearner(config)

    def everyone(values: Tensor) -> Tensor:
        return values[..., None, None].expand(-1, -1, spec.n_agents, -1).float()

    def in_time(values: Tensor, rows: slice) -> Tensor:
        return values.transpose(0, 1)[rows].contiguous()

    before, now = slice(None, -1), slice(1, None)
    none = torch.zeros_like(window.reward)
    sample = {
        "observation": in_time(window.obs, now),
        "action": in_time(window.action, before),
        "reward": in_time(everyone(window.reward), before),
        "done": in_time(everyone(none), before),
        "fake": in_time(everyone(none), now),
        "last": in_time(everyone(none), now),
        "av_action": in_time(window.action_mask.float(), now),
    }
    return {"update": lambda: learner.train_model(sample), "policy": lambda: learner.train_agent(sample)}


def _window(spec: EnvSpec) -> Rows:
    torch.manual_seed(0)
    return rows(spec, 40, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mamba", required=True, type=Path)
    for name, default in {"agents": 2, "obs": 19, "actions": 3, "turns": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--same-allocator", action="store_true", help="the authors' process keeps freed memory, too")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    names = tuple(f"agent_{n}" for n in range(args.agents))
    sizes = (args.obs,) * args.agents, (args.actions,) * args.agents
    spec = EnvSpec(names, args.obs, *sizes, discrete=True, masks_actions=True)
    sides = {"ours": partial(ours, spec), "theirs": partial(theirs, args.mamba, spec)}
    settings = {key: value for key, value in vars(args).items() if key not in ("mamba", "out")}
    report(settings | {"often": OFTEN}, measure(sides, OFTEN, args.turns, KEEP[args.same_allocator]), args.out)


if __name__ == "__main__":
    main()
