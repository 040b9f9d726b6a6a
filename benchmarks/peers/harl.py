"""HARL's own MAPPO, HAPPO and HASAC in our environments: an independent yardstick for ours.

HARL (https://github.com/PKU-MARL/HARL, MIT licence) is the authors' implementation of HAPPO and HASAC, and has a MAPPO.
Nothing of it is part of this library; give a checkout of your own:

    git clone https://github.com/PKU-MARL/HARL HARL
    git -C HARL checkout d539bad20f677bc4ce9fa200fa5de31b5f0b9d37
    python -m benchmarks.peers.harl mamujoco/halfcheetah-2x3 --harl HARL --algorithm mappo --seed 0 \\
        --steps 200000 --run RUN

Its runners, buffers, networks and tuned settings are used as they are. What is ours: the environment with its
observations and clipped actions, the seeds of the episodes, and the evaluation, which plays the same episodes as
`dima train` with the same seed does. RUN becomes a run folder that `dima report` can read. Only what `dima` needs is
needed: simulators and loggers that HARL imports are replaced by empty modules where they are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from dima.data import Act, View
from dima.envs import make_env, suite_config
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError, UserError
from dima.experience.episodes import episode_seed
from dima.experience.evaluation import evaluate
from dima.storage.run_folder import RunFolder

IMPORTED = ("absl", "gym", "pysc2", "pysc2.lib", "s2clientprotocol", "setproctitle", "tensorboardX", "uu")
ROBOTS = {"ant": "Ant-v2", "halfcheetah": "HalfCheetah-v2", "walker2d": "Walker2d-v2"}
ALGORITHMS = ("mappo", "happo", "hasac")


class HarlEnv:
    """A task of ours as HARL's vectorised environments want it.

    Args:
        task: a task with continuous actions whose agents are all of one size.
        seed: the run's seed.
        rank: which of the copies it is; its episodes are number rank, rank + copies, ... of the run.
        copies: how many there are.
    """

    def __init__(self, task: str, seed: int, rank: int, copies: int) -> None:
        self.env = make_env(task)
        spec = self.env.spec
        if spec.discrete or len({*spec.action_sizes}) > 1 or len({*spec.obs_sizes}) > 1:
            raise ConfigError(f"{task}: only Box actions and agents of one size can be handed to HARL")
        self.seed, self.episode, self.copies = seed, rank, copies
        self.n_agents = spec.n_agents
        self.observation_space = [_box(spec.obs_dim, np.inf) for _ in spec.agents]
        self.share_observation_space = [_box(spec.state_dim, np.inf) for _ in spec.agents]
        self.action_space = [_box(spec.action_dim, 1) for _ in spec.agents]

    def reset(self) -> tuple[np.ndarray, np.ndarray, None]:
        seen, _ = self.env.reset(seed=episode_seed(self.seed, self.episode))
        self.episode += self.copies
        return self._arrays(seen)

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        seen, reward, terminated, truncated, _ = self.env.step(np.asarray(actions))
        obs, state, nothing = self._arrays(seen)
        infos = [{"bad_transition": truncated} for _ in range(self.n_agents)]
        ended = np.full(self.n_agents, terminated or truncated)
        return obs, state, np.full((self.n_agents, 1), reward), ended, infos, nothing

    def close(self) -> None:
        self.env.close()

    def _arrays(self, seen: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, None]:
        return seen["obs"], np.tile(seen["state"], (self.n_agents, 1)), None  # no actions are forbidden


class HarlRun:
    """One of HARL's runners on a task of ours.

    Args:
        checkout: a clone of HARL.
        task: such as ``mamujoco/halfcheetah-2x3``.
        algorithm: ``mappo``, ``happo`` or ``hasac``.
        seed: the run's.
        steps: environment steps, HASAC's random play among them.
        processes: step the environments in processes, as HARL does by itself, instead of in this one.

    Raises:
        UserError: there is no HARL, or it has no settings for the task.
    """

    def __init__(
        self, checkout: Path, task: str, algorithm: str, seed: int, steps: int, processes: bool = False
    ) -> None:
        self.settings = settings = tuned(checkout, task, algorithm)
        self.algorithm, train = algorithm, settings["algo_args"]["train"]
        self.envs = int(train["n_rollout_threads"])
        self.warmup = int(train.get("warmup_steps", 0))
        train["num_env_steps"] = steps - self.warmup
        train["eval_interval"] = int(train.get("train_interval", 1))  # eval is called after every iteration
        train["log_interval"] = steps  # never
        settings["algo_args"]["seed"] = {"seed": seed, "seed_specify": True}
        settings["algo_args"]["device"] |= {"cuda": False, "torch_threads": torch.get_num_threads()}
        with _importable(checkout), contextlib.redirect_stdout(io.StringIO()):
            runners, wrappers = import_module("harl.runners"), import_module("harl.envs.env_wrappers")
            kind = runners.RUNNER_REGISTRY[algorithm]
            vectors = wrappers.ShareSubprocVecEnv if processes else wrappers.ShareDummyVecEnv
            copies = [partial(HarlEnv, task, seed, rank, self.envs) for rank in range(self.envs)]
            self._logs = tempfile.TemporaryDirectory()
            settings["algo_args"]["logger"]["log_dir"] = self._logs.name
            for base in ("on_policy_base_runner", "off_policy_base_runner"):
                module = import_module(f"harl.runners.{base}")
                module.make_train_env = lambda *_: vectors(copies)
                module.make_eval_env = lambda *_: None  # evaluation is ours
            arguments = {"algo": algorithm, "env": "mamujoco", "exp_name": "ours"}
            self.runner = kind(arguments, settings["algo_args"], settings["env_args"])

    def learn(self, after_iteration: Callable[[int], None]) -> None:
        """Run to the end; ``after_iteration`` receives the environment steps so far, after every update."""
        rows = self.settings["algo_args"]["train"].get("episode_length", 0) * self.envs

        def evaluated(step: int | None = None) -> None:
            after_iteration(self.runner.logger.episode * rows if step is None else step)

        self.runner.eval, self.runner.save = evaluated, lambda: None
        with contextlib.redirect_stdout(io.StringIO()):
            self.runner.run()

    def act(self, view: View) -> tuple[Tensor, Tensor]:
        """The policies' modes."""
        obs = view.obs.numpy()
        if self.algorithm == "hasac":
            action = self.runner.get_actions(obs, np.full(len(obs), None), add_random=False)
        else:
            memory, alive = np.zeros((len(obs), 1, 1), np.float32), np.ones((len(obs), 1), np.float32)
            chosen = [
                member.act(obs[:, n], memory, alive, None, deterministic=True)[0]
                for n, member in enumerate(self.runner.actor)
            ]
            action = np.stack([one.numpy() for one in chosen], axis=1)
        return torch.from_numpy(action), torch.zeros(action.shape[:-1])

    def close(self) -> None:
        self.runner.envs.close()
        self._logs.cleanup()


def tuned(checkout: Path, task: str, algorithm: str) -> dict[str, Any]:
    """The settings that HARL's authors tuned for a task.

    Raises:
        UserError: there are none.
    """
    robot, _, partition = task.removeprefix("mamujoco/").partition("-")
    where = checkout / "tuned_configs" / "mamujoco" / f"{ROBOTS.get(robot, robot)}-{partition}" / algorithm
    if not (where / "config.json").is_file():
        raise UserError(f"{where}/config.json does not exist: give a clone of HARL, and a task that it was tuned for")
    settings: dict[str, Any] = json.loads((where / "config.json").read_text())
    return settings


def measured(envs: VectorEnv, act: Act, episodes: int, seed: int) -> dict[str, float]:
    """Our evaluation, as it stands in a run's metrics."""
    with torch.no_grad():
        result = evaluate(envs, act, episodes, seed)
    return {
        "evaluate/return": result.mean,
        "evaluate/std": result.std,
        "evaluate/length": sum(result.lengths) / len(result.lengths),
    }


@contextlib.contextmanager
def _importable(checkout: Path) -> Iterator[None]:
    """HARL on the path, and empty modules for what it imports but does not need here."""
    for name in IMPORTED:
        if name not in sys.modules and (name.partition(".")[0] in _stubbed() or find_spec(name) is None):
            sys.modules[name] = MagicMock()
    sys.path.insert(0, str(checkout.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(checkout.resolve()))


def _stubbed() -> set[str]:
    return {name for name in IMPORTED if isinstance(sys.modules.get(name), MagicMock)}


def _box(size: int, bound: float) -> Box:
    return Box(-bound, bound, (size,), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--harl", type=Path, required=True, help="a clone of HARL")
    parser.add_argument("--algorithm", choices=ALGORITHMS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=200_000, help="environment steps")
    parser.add_argument("--evaluate-every", type=int, default=20_000, help="environment steps")
    parser.add_argument("--episodes", type=int, default=5, help="of an evaluation")
    parser.add_argument("--run", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = HarlRun(args.harl, args.task, args.algorithm, args.seed, args.steps)
    config = {
        "task": args.task,
        "algorithm": f"harl-{args.algorithm}",
        "preset": "tuned",
        "seed": args.seed,
        "steps": args.steps,
        "envs": run.envs,
        "evaluate_every": args.evaluate_every,
        "evaluation_episodes": args.episodes,
        "tensorboard": False,
        "wandb": False,
        "env": suite_config(args.task)().to_dict(),
        "learner": run.settings["algo_args"]["algo"] | run.settings["algo_args"]["model"],
    }
    began = time.perf_counter()
    with VectorEnv(partial(make_env, args.task), args.episodes) as envs, RunFolder.create(args.run, config) as folder:

        def after_iteration(step: int) -> None:
            nonlocal began
            record = {"step": step, "time/iteration": time.perf_counter() - began}
            if step % args.evaluate_every == 0:
                record |= measured(envs, run.act, args.episodes, args.seed)
                print(f"step {step:,}: {record['evaluate/return']:.0f}", flush=True, file=sys.stderr)
            folder.log(record)
            began = time.perf_counter()

        run.learn(after_iteration)
    run.close()


if __name__ == "__main__":
    main()
