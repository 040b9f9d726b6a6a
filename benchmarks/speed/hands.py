"""Steps a second of ``dexhands/...``, against a plain step that looks parts up by name, one at a time.

    python -m benchmarks.speed.hands [--tasks dexhands/pen ...] [--steps 500] [--repeats 5] [--out FILE]

Both make the same physics steps under the same random actions, in turn; ``tests/benchmarks/test_plain_hands.py``
compares their results. The library's step is the whole of ``step()`` of the PettingZoo environment, and of the adapter
around it. Physics alone is what neither can go below.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import mujoco
import numpy as np
import torch

from benchmarks.speed.plain.dexhands import PlainHands
from benchmarks.speed.timing import CLOCKS, Timing, ratio
from benchmarks.studies.hands import task_names
from dima.envs import make_env
from dima.envs.dexhands.env import AGENTS, DexHandsEnv
from dima.envs.dexhands.settings import DexHandsConfig
from dima.runtime.provenance import protocol

LONG = DexHandsConfig(episode_limit=100_000)


def variants(task: str, steps: int, seed: int) -> dict[str, Callable[[], None]]:
    """Calls that make ``steps`` steps from the task's start, with the same actions up to a failure of the task."""
    joint = make_env(f"dexhands/{task}", LONG)
    env: DexHandsEnv = joint.parallel_env
    plain = PlainHands(task, env.model)
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, 2, 26)).astype(np.float32)
    env.reset(seed=seed)
    start = env.snapshot()[:-1]

    def ours() -> None:
        env.reset(seed=seed)
        for action in actions:
            if not env.agents:
                env.reset(seed=seed)
            env.step(dict(zip(AGENTS, action, strict=True)))

    def adapted() -> None:
        joint.reset(seed=seed)
        for action in actions:
            _, _, terminated, truncated, _ = joint.step(action)
            if terminated or truncated:
                joint.reset(seed=seed)

    def simple() -> None:
        plain.place(start)
        for action in actions:
            _, _, failed, _ = plain.step(action)
            if failed:
                plain.place(start)

    def physics() -> None:
        env.reset(seed=seed)
        for action in actions:
            if not env.agents:
                env.reset(seed=seed)
            env.data.ctrl[env.motors] = env.targets(action)
            mujoco.mj_step(env.model, env.data, LONG.frame_skip)

    return {"plain": simple, "step": ours, "with adapter": adapted, "physics": physics}


def measure(task: str, steps: int, seed: int, timing: Timing) -> dict[str, Any]:
    """Steps a second of each variant, and ratios."""
    seconds = timing.each(variants(task, steps, seed))
    rates = {name: steps / median(spent) for name, spent in seconds.items()}
    ratios = {name: ratio(seconds["plain"], seconds[name]) for name in ("step", "with adapter")}
    return {"task": f"dexhands/{task}", "steps": steps, "steps_per_second": rates, "times_as_fast_as_plain": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="default: all")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    timing = Timing(torch.device("cpu"), repeats=args.repeats, clock=args.clock)
    results = []
    for task in task_names(args.tasks, parser):
        result = measure(task, args.steps, args.seed, timing)
        results.append(result)
        rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in result["steps_per_second"].items())
        print(f"{task}: steps a second: {rates}; {result['times_as_fast_as_plain']['step']:.2f} times the plain step")
    if args.out:
        facts = {"command": shlex.join(["python", "-m", "benchmarks.speed.hands", *sys.argv[1:]])}
        facts |= {"clock": args.clock, "protocol": protocol("cpu"), "tasks": results}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
