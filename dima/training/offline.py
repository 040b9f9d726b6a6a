"""Fit a world model to a dataset; the policy stays as it was initialised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dima.algorithms import named_algorithm
from dima.algorithms.base import Metrics
from dima.algorithms.model_based import ModelBased, ModelBasedConfig
from dima.config import user_path
from dima.datasets.reader import Dataset
from dima.envs import agreed_task, make_env
from dima.errors import ConfigError, DatasetError
from dima.experience.collector import largest_reward
from dima.presets import default_preset, preset_changes
from dima.registry import Named
from dima.runtime.device import pick_device
from dima.runtime.progress import Progress
from dima.runtime.signals import graceful_stop
from dima.runtime.summary import Summary
from dima.storage.run_folder import RunFolder
from dima.training.callbacks import Callback, Calls
from dima.training.loop import TrainingLoop, build, seeded
from dima.training.notices import gpu_advice
from dima.training.run_config import OfflineConfig, changed, offline_config
from dima.training.validation import HeldOut, state_std

_USED = ("world_model", "replay", "precision", "workers", "cuda_graphs")  # settings of a learner with an effect here


def fit_config(
    dataset: str | Path,
    algorithm: Named = "dima",
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    task: Named | None = None,
) -> OfflineConfig:
    """Build the resolved config of a run that fits a world model to a dataset.

    Of a preset only the learner's settings apply; the replay holds all training episodes, sampled uniformly.

    Args:
        dataset: its folder.
        algorithm: name of an algorithm that learns a world model, or the settings class of one of your own.
        preset: name of one of the algorithm's presets; by default ``small``, if it has that.
        overrides: changes to the preset, by dotted names or nested like the config.
        task: the dataset's task, repeated: consent to import it, where it is ``package.module:factory``.

    Raises:
        UserError: the dataset cannot be opened, a name or a field does not exist, a value does not fit, or the task is
            code that the user has not agreed to run.
    """
    data, algorithm = Dataset.open(dataset), named_algorithm(algorithm)
    name = agreed_task(data.task, data.header.env, (overrides or {}).get("task", task), dataset)
    config = offline_config(str(user_path(dataset).absolute()), name, algorithm)  # a run may be resumed from elsewhere
    if not isinstance(config.learner, ModelBasedConfig):
        raise ConfigError(f"{algorithm} learns no world model that could be fitted to a dataset: use --algorithm dima")
    preset = default_preset(algorithm) if preset is None else preset
    for changes in preset_changes(algorithm, preset, name):
        config = config.override({"learner": changes.get("learner") or {}})
    replay = {"capacity": data.steps, "recent_share": 0.25}
    fixed = {"preset": preset, "env": data.header.env, "learner": {"replay": replay}}
    return changed(config.override(fixed), overrides or {})


def fit(
    config: OfflineConfig,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
) -> Summary:
    """Fit a world model to a dataset in a new run folder.

    Args:
        config: of the run, see :func:`fit_config`.
        overwrite: replace an earlier run in the same folder.
        progress: display of phases and iterations; none by default.
        callbacks: called after iterations and evaluations.

    Raises:
        UserError: the dataset is of another task or damaged, the folder or the device cannot be used, or learning
            diverged. The last checkpoint is kept.
    """
    _refuse_unused(config)
    device, calls = pick_device(config.device), Calls(callbacks)
    with (
        seeded(config, device),
        graceful_stop() as stop,
        Fitting(config, device, progress or Progress(), calls=calls) as run,
    ):
        if advice := gpu_advice(config, device):
            run.progress.warn(advice)
        folder = RunFolder.create(config.folder, config.to_dict(), overwrite=overwrite, device=str(device))
        with folder:
            return run.run(folder, stop)


class Fitting(TrainingLoop):
    """A run on a dataset; its steps are its iterations."""

    config: OfflineConfig
    algorithm: ModelBased

    lower_is_better = True

    def __init__(
        self,
        config: OfflineConfig,
        device: torch.device,
        progress: Progress,
        known: int | None = None,
        calls: Calls | None = None,
    ) -> None:
        super().__init__(device, progress, calls)
        self.config, self.dataset = config, Dataset.open(config.dataset)
        progress.unit = "iteration"
        env = make_env(config.task, config.env)
        self.spec = spec = env.spec
        self.dataset.require(config.task, config.env, spec)
        env.close()
        _require_held_out(self.dataset)
        with progress.phase("read"):
            recorded = list(self.dataset.recorded())
        training = [one.episode for one in recorded if not one.held_out]
        assert isinstance(config.learner, ModelBasedConfig)
        algorithm = build(config, spec, device, known)
        assert isinstance(algorithm, ModelBased)
        self.algorithm = algorithm
        # a dataset is sorted by source; shuffled, any part of the replay is a fair sample
        order = np.random.default_rng(config.seed).permutation(len(training))
        self.algorithm.add([training[n] for n in order])
        if self.algorithm.replay.steps < sum(map(len, training)):
            raise ConfigError(
                f"replay.capacity = {config.learner.replay.capacity} cannot hold the dataset's training episodes: "
                f"raise it to {self.dataset.steps}"
            )
        self.warn_of_rewards(largest_reward(training), config.learner.world_model.reward_limits)
        self.held_out = HeldOut(
            [one.episode for one in recorded if one.held_out],
            state_std(training, spec),
            spec,
            self.algorithm.world_model.context,
            config.evaluation_horizon,
            config.evaluation_segments,
            device,
        )

    @property
    def step(self) -> int:
        return self.iterations

    @property
    def target(self) -> int:
        return self.config.iterations

    @property
    def highlights(self) -> dict[str, str]:
        return {self._measure: "held-out error"}

    def learn(self) -> Metrics:
        return self.algorithm.fit(self.progress)

    def evaluate(self, before: int) -> dict[str, float]:
        if self.step % self.config.evaluate_every and self.step < self.target:
            return {}
        with self.progress.phase("evaluate"):
            errors = self.held_out.errors(self.algorithm.world_model)
        metrics = {f"held_out/{name}": value for name, value in errors.items()}
        self.evaluations.append((self.step, metrics[self._measure]))
        return metrics

    def new_chunks(self) -> tuple[list[dict[str, Any]], int]:
        return [], 0  # the dataset is the replay's content

    def state(self) -> dict[str, Any]:
        return {"dataset": self.dataset.digest}

    def load_state(self, tree: dict[str, Any], chunks: Iterator[tuple[int, dict[str, Any]]]) -> None:
        if tree["dataset"] != self.dataset.digest:
            raise DatasetError(
                f"{self.dataset.path} is not the dataset that the run was started with: restore that one"
            )
        content = self.algorithm.replay.chunk()
        assert content is not None
        self.algorithm.restore(tree["algorithm"], [content])

    def summary(self, folder: Path, finished: bool) -> Summary:
        return Summary(
            task=self.config.task,
            algorithm=self.config.algorithm,
            folder=folder,
            steps=self.step,
            evaluations=self.evaluations,
            seconds=self.progress.seconds,
            wall=self.wall,
            env=self.config.env.to_dict(),
            finished=finished,
            unit="iterations",
            measure=f"{'' if self._tells_state else 'observation '}error after {self.config.evaluation_horizon} steps",
            digits=3,
            lower_is_better=self.lower_is_better,
            note=f"fitted to {self.dataset.path}; its policy is untrained",
        )

    @property
    def _measure(self) -> str:
        return f"held_out/{'state' if self._tells_state else 'obs'}_{self.config.evaluation_horizon}"

    @property
    def _tells_state(self) -> bool:
        return self.algorithm.world_model.predicts_state


def _require_held_out(dataset: Dataset) -> None:
    """Raise DatasetError, with what to do, if no episode is held out."""
    if dataset.held_out:
        return
    alone = "each of its sources has one episode: record more steps, or import more episodes"
    advice = alone if dataset.header.request.get("held_out") else "make it again with held_out above 0"
    raise DatasetError(f"{dataset.path} holds out no episode, so nothing can be forecast: {advice}")


def _refuse_unused(config: OfflineConfig) -> None:
    """Raise ConfigError for changed settings of collection or policy, which have no effect here."""
    base = fit_config(config.dataset, config.algorithm, config.preset, task=config.task)
    before, after = base.learner.to_dict(), config.learner.to_dict()
    for name, value in after.items():
        if name not in _USED and value != before[name]:
            raise ConfigError(f"learner.{name} has no effect here: the policy is not trained, only the world model is")
