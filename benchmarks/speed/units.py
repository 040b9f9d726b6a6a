"""The calls of a learning iteration, timed one by one, and their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.speed.learners import Learner, fill, random_episode, small_replay
from benchmarks.speed.plain.model import PlainModel, plain_imagine
from dima.algorithms.model_based import ModelBased, ModelBasedConfig
from dima.data import EnvSpec, Rollout
from dima.runtime.progress import Progress
from dima.storage.run_folder import RunFolder
from dima.training.online import Trainer
from dima.training.run_config import TrainConfig
from dima.world_models.dima.model import DimaModelConfig
from dima.world_models.rollout import imagine

UPDATES = ("decoder update", "denoiser update", "reward update")
SAMPLING = ("sampling for the decoder", "sampling for the denoiser", "sampling for the reward", "sampling of starts")
KEEPING = (*SAMPLING, "checkpoint", "logging")  # neither experience nor learning
METRICS = 40  # numbers in a record of an iteration


@dataclass
class Unit:
    """A call, and how often an iteration makes it."""

    call: Callable[[], object]
    often: float
    before: Callable[[], object] | None = None  # prepares a call, untimed
    within: bool = False  # its time is also part of another unit's


def learning_units(learner: Learner, share: float = 1.0) -> dict[str, Unit]:
    """Gradient steps of each part, imagination and policy update.

    Args:
        learner: the library's or the reference.
        share: of a batch of rollouts that a call makes; an iteration makes so many more calls. The work is proportional
            to it.
    """
    model, config = learner.world_model, learner.config
    sizes = config.world_model
    assert isinstance(sizes, DimaModelConfig)
    batch = max(1, round(config.imagination_batch * share))
    calls = config.imaginations * config.imagination_batch / batch
    objectives = model.objectives()
    fitters = model.fitters if isinstance(model, PlainModel) else learner.fitter.fitters  # type: ignore[union-attr]
    rollouts: list[Rollout] = []

    def update(part: str) -> None:
        model.train()
        objective = objectives[part]
        fitters[part].step(objective.loss(objective.sample(learner.replay))[0])
        model.eval()

    def roll_out() -> None:
        start = learner.replay.gather(learner.replay.recent(batch), model.context - 1, 0)
        roll = plain_imagine if isinstance(model, PlainModel) else imagine
        rollouts[:] = [roll(model, learner.act, start, config.horizon)]  # type: ignore[arg-type]

    def update_policy() -> None:
        learner.ppo.update(rollouts[0])

    return {
        "decoder update": Unit(lambda: update("decoder"), sizes.decoder_fit.updates),
        "denoiser update": Unit(lambda: update("denoiser"), sizes.denoisers * sizes.denoiser_fit.updates),
        "reward update": Unit(lambda: update("reward"), sizes.reward_fit.updates),
        "imagination": Unit(roll_out, calls),
        "policy update": Unit(update_policy, calls, before=lambda: rollouts or roll_out()),
    }


def sampling_units(learner: ModelBased) -> dict[str, Unit]:
    """Sampling of every kind of batch, which the updates and the imagination include."""
    replay, config, model = learner.replay, learner.config, learner.world_model
    objectives = model.objectives()

    def starts() -> object:
        return replay.gather(replay.recent(config.imagination_batch), model.context - 1, 0)

    units = {
        name: Unit(
            partial(objectives[part].sample, replay),
            sum(one.fit.updates for key, one in objectives.items() if key.startswith(part)),  # of all denoisers
            within=True,
        )
        for name, part in zip(SAMPLING, ("decoder", "denoiser", "reward"), strict=False)
    }
    return units | {SAMPLING[-1]: Unit(starts, config.imaginations, within=True)}


def steps_of_a_iteration(config: TrainConfig, spec: EnvSpec) -> int:
    """Environment steps of an iteration where no episode ends early: whole episodes of every environment."""
    assert isinstance(config.learner, ModelBasedConfig)
    wanted = config.learner.iteration_steps
    together = (config.learner.episode_steps or spec.episode_limit or wanted) * config.envs
    return -(-wanted // together) * together


@contextmanager
def living_units(config: TrainConfig, device: torch.device, folder: Path) -> Iterator[dict[str, Unit]]:
    """Collection and evaluation in the real environment, checkpoint and log in a new folder."""
    with ExitStack() as held:
        trainer = held.enter_context(Trainer(small_replay(config), device, Progress()))
        learner = trainer.algorithm
        assert isinstance(learner, ModelBased)
        fill(learner)
        run = held.enter_context(RunFolder.create(folder, config.to_dict(), device=str(device)))
        run.save({"algorithm": learner.checkpoint()}, trainer.new_chunks()[0])  # an iteration saves only what is new
        steps = [0]
        settings, new_steps = learner.config, steps_of_a_iteration(config, learner.spec)

        def collect() -> None:
            trainer.collector.play(learner.policy, settings.iteration_steps, settings.episode_steps)

        def gain() -> None:
            learner.replay.add(random_episode(learner.spec, new_steps))

        def save() -> None:
            chunks, first = trainer.new_chunks()
            tree = trainer.state() | {"algorithm": learner.checkpoint()}
            run.save(tree, chunks, drop_before=first)

        def log() -> None:
            steps[0] += new_steps
            run.log({"step": steps[0], **{f"number/{n}": float(n) for n in range(METRICS)}})

        yield {
            "collection": Unit(collect, 1),
            "evaluation": Unit(
                lambda: trainer.evaluate(trainer.step - config.evaluate_every), new_steps / config.evaluate_every
            ),
            "checkpoint": Unit(save, 1, before=gain),
            "logging": Unit(log, 1),
        }
