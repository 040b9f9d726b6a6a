"""Returns of random and scripted policies.

python -m benchmarks.studies.scripted mamujoco/halfcheetah-2x3 --policy random --episodes 20
python -m benchmarks.studies.scripted mpe/simple_spread --policy greedy --episodes 200
python -m benchmarks.studies.scripted mpe/simple_spread --continuous --policy random --episodes 200
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dima.data import Act, EnvSpec, View
from dima.envs import make_env
from dima.envs.mpe import MpeConfig, greedy_spread
from dima.envs.vector import VectorEnv
from dima.experience.episodes import random_policy
from dima.experience.evaluation import evaluate


def greedy_policy(spec: EnvSpec) -> Act:
    """The scripted player of ``mpe/simple_spread``."""

    def act(view: View) -> tuple[Tensor, Tensor]:
        action = np.stack([greedy_spread(obs.numpy()) for obs in view.obs])
        return torch.from_numpy(action).float(), torch.zeros(view.obs.shape[:-1])

    return act


POLICIES = {"random": random_policy, "greedy": greedy_policy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--policy", choices=POLICIES, default="random")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--continuous", action="store_true", help="particles steered by a Box; not for greedy")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.continuous and args.policy == "greedy":
        parser.error("greedy chooses between directions: leave --continuous out")
    torch.manual_seed(args.seed)
    env = MpeConfig(continuous_actions=True) if args.continuous else None
    with VectorEnv(partial(make_env, args.task, env), min(args.episodes, 20)) as envs:
        result = evaluate(envs, POLICIES[args.policy](envs.spec), args.episodes, args.seed)
    facts = {
        "task": args.task,
        "policy": args.policy,
        "episodes": args.episodes,
        "seed": args.seed,
        "mean": result.mean,
        "std": result.std,
        "returns": result.returns,
    }
    print(f"{args.policy} on {args.task}: {result.mean:.1f} ± {result.std:.1f} over {args.episodes} episodes")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
