"""Replay recorded episodes with the robot's joints divided among other agents.

    python -m benchmarks.studies.repartition DATASET mamujoco/halfcheetah-6x1 --out OTHER

Every episode is played again in the other task, from its seed and with the same torques, so that models of teams of
different sizes can be compared on the same trajectories. The split into training and held-out episodes stays the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import cast

import numpy as np
import torch

from dima.data import Episode
from dima.datasets.format import Header
from dima.datasets.reader import Dataset, RecordedEpisode
from dima.datasets.writer import DatasetWriter
from dima.envs import make_env
from dima.envs.base import JointEnv
from dima.envs.mujoco.env import MamujocoEnv
from dima.errors import DatasetError
from dima.runtime.provenance import protocol

TOLERANCE = 1e-4  # of a state that is played again; the simulator is deterministic, its floats are stored as 32 bits


def torques(env: JointEnv, action: torch.Tensor) -> torch.Tensor:
    """(T, N, A) actions of the agents -> (T, D) of the robot's actuators; a team whose agents drive equally many."""
    actuators = np.concatenate(list(_robot(env).actuators.values()))
    return action.flatten(1)[:, np.argsort(actuators)]


def divided(env: JointEnv, torque: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`torques`."""
    return torch.stack([torque[:, actuators] for actuators in _robot(env).actuators.values()], dim=1)


def played_again(env: JointEnv, seed: int, action: torch.Tensor) -> Episode:
    """The episode that these joint actions (T, N, A) lead to."""
    seen, _ = env.reset(seed=seed)
    rows, steps = [seen], []
    for joint in action.numpy():
        seen, *outcome, _ = env.step(joint)
        rows.append(seen)
        steps.append(outcome)
        if any(outcome[1:]):
            break
    reward, terminated, truncated = (torch.tensor(column) for column in zip(*steps, strict=True))
    truncated[-1] |= ~terminated[-1]  # a recording may have been cut before the task's own limit
    seen_as = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    return Episode(
        **seen_as, action=action[: len(steps)], reward=reward.float(), terminated=terminated, truncated=truncated
    )


def again(dataset: Dataset, source: JointEnv, target: JointEnv) -> Iterator[tuple[RecordedEpisode, Episode]]:
    """Every recorded episode, and what it is in the other task.

    Raises:
        DatasetError: an episode's seed is not known, or the robot went elsewhere than recorded.
    """
    for recorded in dataset.recorded():
        if recorded.seed is None:
            raise DatasetError(f"{dataset.path}: episode {recorded.number} has no seed, so it cannot be played again")
        action = divided(target, torques(source, recorded.episode.action))
        episode = played_again(target, recorded.seed, action)
        old, new = recorded.episode.state, episode.state
        if old.shape != new.shape or not torch.allclose(old, new, atol=TOLERANCE, rtol=TOLERANCE):
            raise DatasetError(f"{dataset.path}: episode {recorded.number} takes another course in {target.name}")
        yield recorded, episode


def _robot(env: JointEnv) -> MamujocoEnv:
    return cast(MamujocoEnv, env.parallel_env)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of `dima dataset record`")
    parser.add_argument("task", help="the same robot, divided otherwise")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new dataset")
    args = parser.parse_args()
    dataset = Dataset.open(args.dataset)
    source, target = make_env(dataset.task, dataset.env), make_env(args.task, dataset.env)
    header = replace(dataset.header, task=args.task, spec=target.spec)
    held_out = dataset.header.request["held_out"]
    with DatasetWriter.open(args.out, Header.from_dict(header.to_dict()), protocol("cpu")) as writer:
        for number, chunk in groupby(again(dataset, source, target), key=lambda pair: pair[0].source):
            recorded, episodes = zip(*chunk, strict=True)
            writer.add(episodes, number, [one.seed for one in recorded])
        other = writer.finish(held_out, dataset.header.request["seed"])
    if other.held_out != dataset.held_out:
        raise DatasetError(f"{args.out} holds out other episodes than {args.dataset}")
    print(f"{len(other)} episodes of {args.task} in {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
