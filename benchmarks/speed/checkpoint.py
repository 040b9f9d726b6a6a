"""Time that checkpoints of a full-size learner take, part by part, and what their budget makes of it.

    python -m benchmarks.speed.checkpoint mamujoco/halfcheetah-2x3 [--preset published] [--device cpu] [--iterations 60]
        [--seconds 5.7] [--out results/speed/checkpoint.json]

The learner is untrained, its optimisers have their moments. An iteration is logged and saved as in a run, but
learning is a pause of ``--seconds`` and experience is noise: the pace of a GPU on a machine without one. The ratio
compares the share of time that goes to saving when every iteration is saved and under the default budget.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.speed.learners import fill, random_episode, small_replay
from dima.algorithms.model_based import ModelBased
from dima.runtime.device import pick_device
from dima.runtime.progress import Progress
from dima.runtime.provenance import protocol
from dima.runtime.signals import Stop
from dima.storage.atomic import fingerprint, sync
from dima.storage.checkpoint import replace_checkpoint
from dima.storage.run_folder import RunFolder
from dima.storage.serialization import Tree, encode
from dima.training.loop import Metrics
from dima.training.online import Trainer
from dima.training.run_config import TrainConfig, build_config

BUDGETS = (1.0, TrainConfig.checkpoint_budget)


class Paced(Trainer):
    """A run whose iterations take ``pause`` seconds and learn nothing."""

    algorithm: ModelBased

    def __init__(self, config: TrainConfig, device: torch.device, pause: float) -> None:
        super().__init__(config, device, Progress())
        self.pause = pause
        self.saves: list[float] = []  # when each of them was done
        fill(self.algorithm)
        optimizers = [fitter.optimizer for fitter in self.algorithm.fitter.fitters.values()]
        for optimizer in (*optimizers, self.algorithm.ppo.actor_optimizer, self.algorithm.ppo.critic_optimizer):
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    weight.grad = torch.zeros_like(weight)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def learn(self) -> Metrics:
        steps = self.algorithm.config.iteration_steps
        self.algorithm.replay.add(random_episode(self.algorithm.spec, steps))
        self.collector.steps += steps
        time.sleep(self.pause)
        return {}

    def evaluate(self, before: int) -> dict[str, float]:
        return {}

    def _save(self, folder: RunFolder) -> None:
        super()._save(folder)
        self.saves.append(time.perf_counter())


def parts(tree: Tree, folder: Path, repeats: int) -> dict[str, Any]:
    """Size of a checkpoint, median seconds of its parts and of the whole."""
    file = folder / "tensors"
    seconds: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = call()
        seconds.setdefault(name, []).append(time.perf_counter() - began)
        return result

    for _ in range(repeats):
        _, tensors = timed("to the host", lambda: encode(tree))
        timed("write", lambda tensors=tensors: save_file(tensors, file))
        timed("hash", lambda: fingerprint(file))
        timed("wait for the disk", lambda: sync(file))
        timed("delete", file.unlink)
        timed("whole", lambda: replace_checkpoint(folder / "checkpoint", tree))
    return {
        "tensors": len(tensors),
        "mebibytes": round(sum(tensor.nbytes for tensor in tensors.values()) / 2**20, 1),
        "seconds": {name: round(median(times), 4) for name, times in seconds.items()},
    }


def lived(config: TrainConfig, device: torch.device, pause: float) -> dict[str, Any]:
    """What a run spends on checkpoints, and what a kill at the worst moment would cost it."""
    with Paced(config, device, pause) as trainer, RunFolder.create(config.folder, config.to_dict()) as folder:
        began = time.perf_counter()
        trainer.run(folder, Stop())
        wall = time.perf_counter() - began
    spent = trainer.progress.seconds["save"]
    moments = [began, *trainer.saves]
    return {
        "checkpoint_budget": config.checkpoint_budget,
        "iterations": trainer.iterations,
        "saved": len(trainer.saves),
        "seconds": round(wall, 2),
        "seconds_saving": round(spent, 2),
        "share": round(spent / wall, 4),
        "longest_unsaved_seconds": round(max(later - sooner for sooner, later in pairwise(moments)), 1),
    }


def measure(
    config: TrainConfig, device: torch.device, iterations: int, pause: float, repeats: int, folder: Path
) -> dict[str, Any]:
    """Everything, ready for JSON; ``folder`` is on the disk to be measured."""
    config = small_replay(config)
    config = config.override({"steps": iterations * config.learner.iteration_steps})  # type: ignore[attr-defined]
    with Paced(config, device, pause) as trainer:
        made = parts(trainer._tree(), folder, repeats)
    runs = [
        lived(config.override({"run": f"{folder}/{budget}", "checkpoint_budget": budget}), device, pause)
        for budget in BUDGETS
    ]
    return {
        "task": config.task,
        "preset": config.preset,
        "pause": pause,
        "checkpoint": made,
        "runs": runs,
        "ratio": round(runs[0]["share"] / runs[1]["share"], 2),
        "protocol": protocol(str(device)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="whose sizes to use")
    parser.add_argument("--algorithm", default="dima", help="one that learns a world model")
    parser.add_argument("--preset", default="published")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--iterations", type=int, default=60, help="of each run")
    parser.add_argument("--seconds", type=float, default=5.7, help="that an iteration takes without its checkpoint")
    parser.add_argument("--repeats", type=int, default=7, help="timed checkpoints")
    parser.add_argument("--out", type=Path, default=Path("results/speed/checkpoint.json"))
    args = parser.parse_args()
    config = build_config(args.task, args.algorithm, args.preset, {"device": args.device, "tensorboard": False})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent) as name:  # on a disk: /tmp may be memory
        result = measure(config, pick_device(args.device), args.iterations, args.seconds, args.repeats, Path(name))
    result["command"] = shlex.join(["python", "-m", "benchmarks.speed.checkpoint", *sys.argv[1:]])
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    made = result["checkpoint"]
    print(f"{made['mebibytes']} MiB, {made['tensors']} tensors: " + json.dumps(made["seconds"]))
    for run in result["runs"]:
        kept = (
            f"{run['saved']} of {run['iterations']} iterations saved, at most {run['longest_unsaved_seconds']} s apart"
        )
        print(f"budget {run['checkpoint_budget']:g}: {run['share']:.1%} of {run['seconds']} s; {kept}")
    print(f"the share of every iteration's checkpoints is {result['ratio']} times that of the budget's")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
