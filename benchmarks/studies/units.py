"""Learning in other units: one task, its features and rewards shifted and scaled.

    python benchmarks/studies/units.py --out results/units/after.json
    PYTHONPATH=../before python benchmarks/studies/units.py --out results/units/before.json
    python benchmarks/studies/units.py --table results/units/before.json results/units/after.json

Trains preset ``small`` of each algorithm, for fewer steps where it is slow, on two agents that are to stay at the
middle of a line. Each case changes units only, so that a learner that is indifferent to them reaches the same return
in each. Reported: the return of the last policy's mode over 20 episodes, in the units of ``base``; doing nothing
earns -8 to -11. A run that the file holds already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

import dima
from dima.envs.toy import Observations, Toy, ToyConfig
from dima.runtime.provenance import protocol
from dima.training.run_config import build_config

CASES: dict[str, dict[str, float]] = {  # arguments of Line
    "base": {},
    "constant 100": {"constant": 100.0},
    "unit 1e-4": {"unit": 1e-4},
    "offset 1e5": {"offset": 1e5},
    "reward 1e-4": {"reward": 1e-4},
    "reward 1e4": {"reward": 1e4},
}
SETTINGS: dict[str, dict[str, Any]] = {  # changes to preset small
    "mappo": {"steps": 10_000},
    "happo": {"steps": 10_000},
    "hasac": {"steps": 2_000, "learner": {"warmup": 800}},
    "dima": {
        "steps": 800,
        "learner": {
            "workers": 1,
            "learn_after": 600,
            "policy_after": 0,
            "imagination_batch": 100,
            "world_model": {
                "denoiser_fit": {"updates": 50, "batch": 64},
                "decoder_fit": {"updates": 50},
                "reward_fit": {"updates": 50, "batch": 32},
            },
        },
    },
}


class Line(Toy):
    """Agents on a line with the reward -|x|; each observes its own place and a constant.

    Args:
        constant: the second feature.
        unit: multiplies the place.
        offset: is added to the place, after the unit.
        reward: multiplies the reward.
    """

    name = "line"

    def __init__(self, constant: float = 0.5, unit: float = 1.0, offset: float = 0.0, reward: float = 1.0) -> None:
        super().__init__(ToyConfig(n_agents=2, episode_limit=20))
        self.constant, self.unit, self.offset, self.reward = constant, unit, offset, reward
        self.observation_spaces = {a: spaces.Box(-np.inf, np.inf, (2,), np.float32) for a in self.possible_agents}
        self.action_spaces = {a: spaces.Box(-1, 1, (1,), np.float32) for a in self.possible_agents}

    def _start(self) -> None:
        self._x = self._rng.uniform(-1, 1, size=self.config.n_agents)

    def _move(self, actions: list[Any]) -> tuple[Any, bool]:
        self._x = np.clip(self._x + 0.1 * np.concatenate(actions), -3, 3)
        return -np.abs(self._x) * self.reward, False

    def _observe(self) -> Observations:
        seen = [np.array([self.unit * x + self.offset, self.constant], dtype=np.float32) for x in self._x]
        return dict(zip(self.possible_agents, seen, strict=True))


TASK = f"{__spec__.name if __spec__ else Path(__file__).stem}:Line"


def score(algorithm: str, case: str, seed: int, preset: str, changes: dict[str, Any]) -> float:
    """Train in a case; return the last policy's return, in the units of ``base``."""
    arguments = CASES[case]
    common = {"seed": seed, "device": "cpu", "threads": 1, "tensorboard": False, "evaluation_episodes": 20}
    with tempfile.TemporaryDirectory() as folder:
        config = build_config(TASK, algorithm, preset, {"env": {"arguments": json.dumps(arguments)}})
        config = config.override(common | {"run": f"{folder}/run"}).override(changes)
        summary = dima.train(config.override({"evaluate_every": config.steps}))
    return summary.evaluations[-1][1] / arguments.get("reward", 1.0)


def table(studies: dict[str, dict[str, Any]]) -> str:
    """Mean and range over seeds, or a single seed's return, a row for each algorithm and study."""
    lines = ["| algorithm | code | " + " | ".join(CASES) + " |", "|---" * (2 + len(CASES)) + "|"]
    for algorithm in SETTINGS:
        for name, study in studies.items():
            cells = []
            for case in CASES:
                runs = [one for one in study["results"] if (one["algorithm"], one["case"]) == (algorithm, case)]
                found = [one["return"] for one in runs]
                spread = f" ({min(found):.1f} to {max(found):.1f})" if len(found) > 1 else ""
                cells.append(f"{statistics.mean(found):.1f}{spread}" if found else "-")
            lines.append(f"| {algorithm} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a JSON file, continued if it exists")
    parser.add_argument("--table", type=Path, nargs="+", default=[], metavar="FILE", help="print a table of such files")
    parser.add_argument("--algorithms", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--preset", default="small")
    args = parser.parse_args()
    if args.out:
        command = shlex.join(["python", "benchmarks/studies/units.py", *sys.argv[1:]])
        study: dict[str, Any] = {"command": command, "protocol": protocol("cpu"), "settings": SETTINGS, "results": []}
        if args.out.exists():
            study["results"] = json.loads(args.out.read_text())["results"]
        known = {(one["algorithm"], one["case"], one["seed"]) for one in study["results"]}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        for algorithm in args.algorithms:
            for case in args.cases:
                for seed in args.seeds:
                    run = {"algorithm": algorithm, "case": case, "seed": seed}
                    if (algorithm, case, seed) in known:
                        continue
                    run["return"] = score(algorithm, case, seed, args.preset, SETTINGS[algorithm])
                    study["results"].append(run)
                    args.out.write_text(json.dumps(study, indent=1) + "\n")
                    print(json.dumps(run), file=sys.stderr)
        args.table = args.table or [args.out]
    print(table({path.stem: json.loads(path.read_text()) for path in args.table}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
