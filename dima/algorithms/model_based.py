"""Learning in imagination: fit a world model to real experience, update the policy inside it.

docs/reference/dima.md, "Learning in imagination" and "Schedule".
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from dima.algorithms.base import Algorithm, AlgorithmConfig, Metrics
from dima.algorithms.objectives import survival
from dima.algorithms.ppo import PPO, PPOConfig, RealSteps
from dima.config import Count, NonNegative, Range, Whole, count
from dima.data import Act, EnvSpec, Episode, Rollout
from dima.errors import ConfigError
from dima.experience.collector import Collector
from dima.experience.replay import Replay, ReplayConfig, Rows
from dima.nn.normalizer import Normalizer
from dima.nn.optim import Average
from dima.policies.actors import TeamActor
from dima.policies.base import PerceivingPolicy, Policy
from dima.runtime.cuda_graph import CudaGraph, compile_parts
from dima.runtime.device import Precision, autocast, require_precision
from dima.runtime.fork import can_fork, one_thread, parallel_map
from dima.runtime.progress import Progress
from dima.runtime.rng import drawn_from
from dima.world_models.base import Uncertain, WorldModel, WorldModelConfig
from dima.world_models.fitting import WorldModelFitter
from dima.world_models.rollout import imagine

OPTIMISM_STARTS = 128  # states of new episodes from which imagination is compared with them


@dataclass(frozen=True)
class ModelBasedConfig(AlgorithmConfig):
    """A world model and the MAPPO that learns in it; defaults are the published DIMA schedule."""

    world_model: WorldModelConfig
    ppo: PPOConfig = PPOConfig()
    replay: ReplayConfig = ReplayConfig()
    iteration_steps: Count = 200  # environment steps collected per iteration, rounded up to whole episodes
    episode_steps: Whole = 0  # limit of collected episodes; 0: the task's own
    learn_after: Count = 5_000  # environment steps before the first iteration learns
    policy_after: Whole = 9  # iterations that fit the world model only
    imaginations: Whole = 5  # imagined batches per iteration, each followed by a policy update
    imagination_batch: Count = 600  # imagined episodes in a batch
    horizon: Count = 15  # imagined steps
    replay_value: NonNegative = 0.0  # weight of real steps, as many as imagined ones, in the critic's loss
    uncertainty_penalty: NonNegative = 0.0  # of imagined rewards, per unit of the world model's disagreement (MOPO)
    policy_ema: Annotated[float, Range(0, 0.9999)] = 0.0  # decay, per update, of the average policy that acts; 0: none
    precision: Precision = "float32"  # of matrix products in fits and imagination; bf16 where the device has units
    workers: Annotated[int, Range(1, 64)] = 1  # CPU processes that share fits, imagination and policy updates
    compile: bool = False  # compile the slowest modules, minutes before the first iteration; cached on disk
    cuda_graphs: bool = True  # on a GPU, capture imagination and gradients as CUDA graphs
    collect_in_background: bool = False  # collect the next iteration's episodes while an iteration learns

    @property
    def reward_limits(self) -> dict[str, tuple[float, float]]:
        return self.world_model.reward_limits | self.ppo.reward_limits

    def build_ppo(self, spec: EnvSpec) -> PPO:
        """Policy, critic and their update, for views of these sizes."""
        return self.ppo.build(spec)

    def build(self, spec: EnvSpec, device: str) -> ModelBased:
        return ModelBased(self, spec, device)

    @property
    def first_steps(self) -> int:
        return self.learn_after

    @property
    def first_iterations(self) -> int:
        return self.policy_after

    def for_acting(self) -> ModelBasedConfig:
        return replace(self, replay=replace(self.replay, capacity=1), compile=False, precision="float32")


class ModelBased(Algorithm):
    """A world model fitted to a replay of real episodes, and a PPO that learns from imagined ones only."""

    config: ModelBasedConfig
    replay: Replay

    def __init__(self, config: ModelBasedConfig, spec: EnvSpec, device: str) -> None:
        super().__init__()
        require_precision(device, config.precision)
        self.config, self.spec, self.device = config, spec, device
        self.world_model: WorldModel[Any] = config.world_model.build(spec).to(device).eval()
        several = isinstance(self.world_model, Uncertain) and self.world_model.members > 1
        if config.uncertainty_penalty and not several:
            raise ConfigError(
                "learner.uncertainty_penalty needs a world model of several networks that can disagree, dima with "
                "learner.world_model.denoisers = 2 or more or ensemble: set it to 0 otherwise"
            )
        self.fitter = WorldModelFitter(self.world_model, config.precision, config.workers, config.cuda_graphs)
        self.ppo = config.build_ppo(self.world_model.policy_spec).to(device)
        self.average_actor = average_of(self.ppo.actor) if config.policy_ema else None
        perception = self.world_model.perception
        self._policy: Policy = self.actor if perception is None else PerceivingPolicy(perception, self.actor)
        self.policy_updates = 0
        self.replay = Replay(config.replay, spec, device, self.world_model.visit_counters)
        if config.compile:
            parts = [self.world_model.get_submodule(name) for name in self.world_model.compile_targets]
            compile_parts([block for part in parts for block in _blocks(part)], device)
        self.graph = CudaGraph(self._imagine)
        self.iterations = 0  # in which the world model was fitted
        self.warm = False  # whether the modules are compiled

    @property
    def actor(self) -> TeamActor:
        """The policy that acts on what the model imagines; gradients are those of ``ppo.actor``."""
        return self.ppo.actor if self.average_actor is None else self.average_actor

    @property
    def policy(self) -> Policy:
        """The policy that plays real episodes: the same, behind the world model's perception, if it has one."""
        return self._policy

    def collect(self, collector: Collector, progress: Progress) -> Metrics:
        config = self.config
        with progress.phase("collect"):
            missing = config.learn_after - self.replay.steps if self.iterations == 0 else 0
            steps = max(missing, config.iteration_steps)
            episodes = collector.play(self.policy, steps, config.episode_steps)
            self.add(episodes)
            optimism = self.optimism(sum(map(len, episodes))) if self.iterations else {}
        if config.compile and not self.warm:
            self.warm_up(progress)  # before any process is forked
        return {
            "collect/return": float(np.mean([e.team_return for e in episodes])),
            "collect/length": float(np.mean([len(e) for e in episodes])),
            **optimism,
        }

    @torch.no_grad()
    def optimism(self, fresh: int) -> dict[str, Tensor]:
        """Reward and terminations per step of new episodes, beside those imagined from the same states.

        The model has not been fitted to the episodes yet. The policy that imagines is the one that played them, or
        with ``collect_in_background`` its successor.

        Args:
            fresh: steps of the new episodes, the newest in the replay.
        """
        context, horizon = self.world_model.context, self.config.horizon
        steps = self.replay.index.steps[-fresh:]
        anchor = steps[torch.randint(len(steps), (OPTIMISM_STARTS,), device=self.device)]
        rows = self.replay.gather(anchor, context - 1, horizon - 1)
        imagined, real = self._roll_out(rows[:, :context], self.actor.act), rows[:, context - 1 :]
        weight, acted = survival(imagined.continuation, imagined.boundary), real.acted.float()

        def average(values: Tensor, weight: Tensor) -> Tensor:
            return (values * weight).sum() / weight.sum()

        return {
            "optimism/imagined_reward": average(imagined.reward, weight),
            "optimism/real_reward": average(real.reward, acted),
            "optimism/imagined_terminations": average(1 - imagined.continuation, weight),
            "optimism/real_terminations": average(real.terminated.float(), acted),
        }

    def collect_in_background(self, collector: Collector, progress: Progress) -> AbstractContextManager[None]:
        if not self.config.collect_in_background:
            return nullcontext()
        return collector.in_background(self.policy, self.config.iteration_steps, self.config.episode_steps, progress)

    def add(self, episodes: Sequence[Episode]) -> None:
        """Add real episodes to the replay, and update all running statistics with them."""
        for episode in episodes:
            self.replay.add(episode)
            self.ppo.update_statistics(episode.obs.to(self.device), episode.state.to(self.device))
        self.world_model.update_statistics(episodes)

    def fit(self, progress: Progress) -> Metrics:
        self.iterations += 1
        return {**self.fitter.fit(self.replay, progress, self.iterations)}

    def update_policy(self, progress: Progress, done: float) -> Metrics:
        if self.iterations <= self.config.policy_after:
            return {}
        config, average = self.config, Average()
        with progress.phase("imagine and update", total=config.imaginations) as advance:
            for _ in range(config.imaginations):
                rollout = self.imagine(self.world_model.imagination_rows(self.replay, config.imagination_batch))
                replayed = self.replayed_steps() if config.replay_value else None
                average.add(self.ppo.update(rollout, done, config.workers, replayed))
                self.update_average_actor()
                advance()
        return {f"policy/{key}": value for key, value in average.values().items()}

    @torch.no_grad()
    def update_average_actor(self) -> None:
        """Move the average policy towards the present one."""
        if self.average_actor is None:
            return
        self.policy_updates += 1
        # a smaller decay at first, so that the average forgets the initial policy
        decay = min(self.config.policy_ema, self.policy_updates / (10 + self.policy_updates))
        torch._foreach_lerp_(list(self.average_actor.parameters()), list(self.ppo.actor.parameters()), 1 - decay)

    def replayed_steps(self) -> RealSteps:
        """Recent real windows, as many and as long as an imagined batch."""
        horizon = self.config.horizon
        rows = self.replay.gather(self.replay.recent(self.config.imagination_batch), 1, horizon)
        before, now, after = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
        last = ~after.acted
        last[:, -1] = True
        return RealSteps(
            state=now.state,
            previous_action=before.action,
            action=now.action,
            reward=now.reward,
            continuation=1 - now.terminated.float(),
            boundary=last,
            next_state=after.state,
            weight=self.config.replay_value * now.acted.float(),
        )

    def imagine(self, start: Rows) -> Rollout:
        """Roll out the policy in the world model, in parallel over ``workers``.

        Args:
            start: real rows (B, C, ...), the world model's ``imagination_rows``.
        """

        def imagine_share(rows: Tensor, seed: int, forked: bool) -> Rollout:
            with drawn_from(self.device, seed):
                if self.config.cuda_graphs and self.world_model.capturable:
                    return self.graph(start[rows]).clone()
                return self._imagine(start[rows])

        shares = torch.arange(len(start.state), device=self.device).chunk(self.config.workers)
        seeds = torch.randint(2**62, (len(shares),)).tolist()
        jobs = [partial(imagine_share, *drawn) for drawn in zip(shares, seeds, strict=True)]
        return Rollout.cat(parallel_map(jobs, self.config.workers))

    def _imagine(self, start: Rows) -> Rollout:
        return self._roll_out(start, self.ppo.actor.act, True, self.config.uncertainty_penalty)

    def _roll_out(self, start: Rows, act: Act, every: bool = False, penalty: float = 0.0) -> Rollout:
        with autocast(self.device, self.config.precision):
            return imagine(self.world_model, act, start, self.config.horizon, every, penalty)

    def warm_up(self, progress: Progress) -> None:
        """Compile for all shapes of an iteration in this process, since child processes cannot keep compiled code."""
        visits = {name: counts.clone() for name, counts in self.replay.visits.items()}
        model = {
            name: value.clone() for name, value in self.world_model.state_dict().items()
        }  # a codebook is updated by the forward pass
        workers, batch = self.config.workers, self.config.imagination_batch
        threads = one_thread() if workers > 1 and can_fork() else nullcontext()  # as in an iteration
        with progress.phase("compile"), threads, drawn_from(self.device, 0):
            for name, objective in self.world_model.objectives().items():
                part = self.world_model.get_submodule(name).train()
                with autocast(self.device, self.config.precision):
                    loss, _ = objective.loss(objective.sample(self.replay))
                loss.backward()
                part.zero_grad(set_to_none=True)
                part.eval()
            for size in {len(share) for share in torch.arange(batch).chunk(workers)}:
                self._imagine(self.world_model.imagination_rows(self.replay, size))
        self.replay.visits |= visits
        self.world_model.load_state_dict(model)
        self.warm = True

    def checkpoint(self) -> dict[str, Any]:
        return {
            "world_model": self.world_model.state_dict(),
            "fitter": self.fitter.checkpoint(),
            "ppo": self.ppo.checkpoint(),
            "replay": self.replay.checkpoint(),
            "iterations": self.iterations,
            "average_actor": None if self.average_actor is None else self.average_actor.state_dict(),
            "policy_updates": self.policy_updates,
        }

    def restore(self, saved: dict[str, Any], chunks: list[dict[str, Any]] | None) -> None:
        self.world_model.load_state_dict(saved["world_model"])
        self.ppo.restore(saved["ppo"], learning=chunks is not None)
        if self.average_actor is not None:
            self.average_actor.load_state_dict(saved["average_actor"])
        self.policy_updates = count(saved["policy_updates"])
        if chunks is not None:
            self.fitter.restore(saved["fitter"])
            self.replay.restore(saved["replay"], chunks)
        self.iterations = count(saved["iterations"])


def average_of(actor: TeamActor) -> TeamActor:
    """A copy of a policy whose weights will be averages; running statistics of observations are shared."""
    shared = {id(part): part for part in actor.modules() if isinstance(part, Normalizer)}
    average = deepcopy(actor, dict(shared))
    return average.requires_grad_(False)


def _blocks(part: nn.Module) -> list[nn.Module]:
    """The elements of a module list, which share compiled code; any other module itself."""
    return list(part) if isinstance(part, nn.ModuleList | nn.Sequential) else [part]
