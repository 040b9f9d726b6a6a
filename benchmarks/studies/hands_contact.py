"""How well contacts and limits of ``dexhands/...`` hold under bang-bang actions, the roughest there are.

    python -m benchmarks.studies.hands_contact [TASK ...] [--steps 10000] [--out FILE]

Every action is -1 or 1, drawn anew each step in one half of the steps and every ten steps in the other: full force in
one direction for a sixth of a second. Reported are the deepest contact and the worst violation of the limits of joints.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.hands import task_names
from dima.envs.dexhands.env import AGENTS, DexHandsEnv
from dima.envs.dexhands.hand import JOINTS
from dima.envs.dexhands.settings import DexHandsConfig
from dima.runtime.provenance import protocol


def measure(env: DexHandsEnv, steps: int, seed: int = 0) -> dict[str, Any]:
    """Play bang-bang actions, with a new episode after each failure.

    Raises:
        AssertionError: the state is not finite, or MuJoCo warned.
    """
    model, data, rng = env.model, env.data, np.random.default_rng(seed)
    limited = np.flatnonzero(model.jnt_limited)
    low, high = model.jnt_range[limited].T
    of_hand = np.array([model.joint(joint).name.rpartition("_")[2] in JOINTS for joint in limited])
    deepest, beyond, pairs, failures = [0.0], np.zeros(len(limited)), [("", "")], 0
    env.reset(seed=seed)
    for step in range(steps):
        if step % (1 if step < steps // 2 else 10) == 0:
            actions = {agent: rng.choice([-1.0, 1.0], 26) for agent in AGENTS}
        if not env.agents:
            env.reset(seed=seed + step)
            failures += 1
        env.step(actions)
        assert np.isfinite(data.qpos).all() and np.isfinite(data.qvel).all(), f"step {step}: the state is not finite"
        assert not data.warning.number.any(), f"step {step}: MuJoCo warned"  # a reset would forget it
        angles = data.qpos[model.jnt_qposadr[limited]]
        beyond = np.maximum(beyond, np.maximum(low - angles, angles - high))
        if data.ncon:
            worst = int(data.contact.dist.argmin())
            deepest.append(-float(data.contact.dist[worst]))
            if deepest[-1] == max(deepest):
                pairs.append(tuple(model.geom(int(geom)).name for geom in data.contact.geom[worst]))
    return {
        "steps": steps,
        "episodes": failures + 1,
        "contact_mm": {"deepest": 1e3 * max(deepest), "99 %": 1e3 * float(np.percentile(deepest, 99))},
        "deepest_between": pairs[-1],
        "hand_joints_beyond_limits_rad": float(beyond[of_hand].max()),
        "object_joints_beyond_limits": {
            model.joint(j).name: float(b) for j, b in zip(limited[~of_hand], beyond[~of_hand], strict=True)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="default: all")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    tasks = task_names(args.tasks, parser)
    facts: dict[str, Any] = {"command": shlex.join(["python", "-m", "benchmarks.studies.hands_contact", *sys.argv[1:]])}
    facts |= {"protocol": protocol("cpu"), "tasks": {}}
    for task in tasks:
        facts["tasks"][task] = measure(DexHandsEnv(task, DexHandsConfig(episode_limit=100_000)), args.steps, args.seed)
        print(f"{task}: {json.dumps(facts['tasks'][task])}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
