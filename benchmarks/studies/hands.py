"""Yardsticks of ``dexhands/...``: returns of doing nothing, of keeping still, of random and of scripted hands.

    python -m benchmarks.studies.hands [TASK ...] [--episodes 10] [--out results/dexhands]

``nothing`` is the action 0: no force, every joint driven to the middle of its range. ``still`` drives the joints to
where they start. ``random`` draws uniform actions. ``scripted`` is ``dima/envs/dexhands/scripted.py``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dima.envs.dexhands.env import AGENTS, DexHandsEnv
from dima.envs.dexhands.scripted import act_both
from dima.envs.dexhands.tasks import TASKS
from dima.experience.episodes import episode_seed
from dima.runtime.provenance import protocol

Act = Callable[[int, list[np.ndarray]], np.ndarray]  # step of the episode, observations -> actions (2, 26)


def players(env: DexHandsEnv, task: str, seed: int) -> dict[str, Act]:
    """Every yardstick's policy."""
    rng = np.random.default_rng(seed)
    nothing, still = np.zeros((2, 26)), np.zeros((2, 26))
    still[:, 6:] = env.start_action
    return {
        "nothing": lambda step, obs: nothing,
        "still": lambda step, obs: still,
        "random": lambda step, obs: rng.uniform(-1, 1, (2, 26)),
        "scripted": lambda step, obs: act_both(task, step, obs),
    }


def play(env: DexHandsEnv, policy: Act, seed: int) -> dict[str, Any]:
    """Return, length, success and the step at which it came, of one episode."""
    observations, _ = env.reset(seed=seed)
    total, step, succeeded = 0.0, 0, None
    while env.agents:
        actions = policy(step, [observations[agent] for agent in AGENTS])
        observations, rewards, _, _, infos = env.step(dict(zip(AGENTS, actions, strict=True)))
        total, step = total + rewards[AGENTS[0]], step + 1
        if succeeded is None and infos[AGENTS[0]]["success"]:
            succeeded = step
    return {"return": total, "length": step, "success": succeeded is not None, "success_at": succeeded}


def measure(task: str, episodes: int, seed: int) -> dict[str, Any]:
    """Every yardstick on a task."""
    env = DexHandsEnv(task)
    seeds = [episode_seed(seed, number, "evaluation") for number in range(episodes)]
    result: dict[str, Any] = {}
    for name, policy in players(env, task, seed).items():
        played = [play(env, policy, one) for one in seeds]
        returns = [one["return"] for one in played]
        result[name] = {
            "mean": float(np.mean(returns)),
            "std": float(np.std(returns)),
            "success": float(np.mean([one["success"] for one in played])),
            "length": float(np.mean([one["length"] for one in played])),
            "episodes": played,
        }
    return result


def task_names(given: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Names in ``TASKS`` of tasks given with or without their suite, or all; a wrong one ends the program."""
    tasks = [task.removeprefix("dexhands/") for task in given] or list(TASKS)
    if unknown := [task for task in tasks if task not in TASKS]:
        parser.error(f"no task {unknown[0]!r}: give some of {', '.join(TASKS)}")
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}; default: all")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for a JSON file per task")
    args = parser.parse_args()
    tasks = task_names(args.tasks, parser)
    made = protocol("cpu")  # before results make the working tree dirty
    print("| task | policy | return | success | steps |\n|---|---|---|---|---|")
    for task in tasks:
        result = measure(task, args.episodes, args.seed)
        for name, numbers in result.items():
            score = f"{numbers['mean']:.1f} ± {numbers['std']:.1f}"
            print(f"| {task} | {name} | {score} | {numbers['success']:.0%} | {numbers['length']:.0f} |")
        if args.out:
            facts = {"task": f"dexhands/{task}", "seed": args.seed, "protocol": made}
            facts |= {"command": shlex.join(["python", "-m", "benchmarks.studies.hands", *sys.argv[1:]])}
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f"{task}.json").write_text(json.dumps(facts | {"policies": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
