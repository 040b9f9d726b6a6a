"""Win rates of the policies of runs on SMAX: the earlier ones that a run keeps, and its last.

python -m benchmarks.studies.wins runs/smax/3m/* --episodes 100 --out wins.json

The policy's mode plays battles whose seeds training does not use.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import dima
from dima.data import Act
from dima.envs import make_env
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError
from dima.experience.evaluation import evaluate


def win_rates(run: Path, episodes: int) -> dict[str, Any]:
    """Win rate, mean return and length by environment steps.

    Raises:
        ConfigError: the run is not one on SMAX.
    """
    agent = dima.load(run, device="cpu")
    if not agent.config.task.startswith("smax/"):
        raise ConfigError(f"{run}: it is a run on {agent.config.task}: give one on smax/...")
    policies: dict[int, Act] = {**agent.earlier_policies(), agent.steps: agent.algorithm.act}
    rows = []
    with VectorEnv(partial(make_env, agent.config.task, agent.config.env), min(episodes, 20)) as envs:
        for steps, act in sorted(policies.items()):
            played = evaluate(envs, partial(act, mode=True), episodes, agent.evaluation_seed)
            length = sum(played.lengths) / episodes
            rows.append({"steps": steps, "won": played.means["success"], "return": played.mean, "length": length})
    return {"run": run.name, "task": agent.config.task, "algorithm": agent.config.algorithm, "policies": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    found = []
    for run in args.runs:
        found.append(win_rates(run, args.episodes))
        print(f"{found[-1]['algorithm']} on {found[-1]['task']}, {args.episodes} battles")
        for row in found[-1]["policies"]:
            print(f"{row['steps']:>10,} steps  won {row['won']:.0%}  return {row['return']:.2f}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"episodes": args.episodes, "runs": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
