"""A world model in one file outside the library: an MLP, fitted to recorded episodes, diagnosed, and learnt in.

    python examples/own_world_model.py

or, as its settings class is an algorithm by name (the policy learns in the model's rollouts):

    PYTHONPATH=examples dima train toy/walk --algorithm own_world_model:MlpModelConfig --preset small

Half a minute on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

import dima
from dima.config import Count
from dima.data import EnvSpec, View
from dima.errors import ConfigError
from dima.experience.replay import Replay, Rows
from dima.nn.mlp import mlp
from dima.nn.optim import FitConfig
from dima.world_models.base import Loss, Objective, Step, WorldModelConfig, clip_action
from dima.world_models.observation_decoder import ObservationDecoder, ObservationDecoderConfig
from dima.world_models.state_based import StateModel

TOY = {  # schedule and policy for the toy tasks
    "evaluate_every": 1_000,
    "learner": {
        "learn_after": 1_000,
        "iteration_steps": 500,
        "imagination_batch": 200,
        "horizon": 10,
        "ppo": {"actor": {"hidden": [32, 32]}, "critic": {"hidden": [64, 64]}},
    },
}


@dima.register_world_model("mlp")
@dataclass(frozen=True)
class MlpModelConfig(WorldModelConfig):
    """An MLP that predicts the next state, the reward and the continuation; for tasks without action masks."""

    hidden: tuple[Count, ...] = (128, 128)  # widths of the MLP's hidden layers
    decoder: ObservationDecoderConfig = ObservationDecoderConfig(bottleneck="none", hidden=(128,))
    network_fit: FitConfig = FitConfig(updates=100, batch=256, lr=1e-3)
    decoder_fit: FitConfig = FitConfig(updates=50, batch=256, lr=1e-3)

    presets: ClassVar[Mapping[str, Any]] = {"small": {"suites": {"toy": TOY}}}

    def build(self, spec: EnvSpec) -> MlpModel:
        if spec.masks_actions:
            raise ConfigError("the world model 'mlp' does not predict action masks: choose another for this task")
        return MlpModel(self, spec)


class MlpModel(StateModel[View]):
    """The network predicts the change of the state; the decoder turns states into observations."""

    context = 2  # real steps: the one that a rollout starts from, and that before for its action

    def __init__(self, config: MlpModelConfig, spec: EnvSpec) -> None:
        super().__init__(spec)
        self.config = config
        self.network = mlp((spec.state_dim + spec.n_agents * spec.action_dim, *config.hidden, spec.state_dim + 2))
        self.decoder = ObservationDecoder(config.decoder, spec)

    def predict(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S), (B, N, A) -> normalised change of the state (B, S), reward (B,), logit of the continuation (B,)."""
        out = self.network(torch.cat([self.state_scale.normalize(state), action.flatten(1)], dim=-1))
        return out[:, :-2], out[:, -2], out[:, -1]

    def objectives(self) -> dict[str, Objective]:
        return {
            "network": Objective(self.sample, self.loss, self.config.network_fit),
            "decoder": Objective(self.decoder_rows, self.decoder_loss, self.config.decoder_fit),
        }

    def sample(self, replay: Replay) -> Rows:
        return replay.gather(replay.recent(self.config.network_fit.batch), 0, 1)  # (B, 2) a step and the next

    def loss(self, rows: Rows) -> Loss:
        change, reward, continuation = self.predict(rows.state[:, 0], clip_action(rows.action[:, 0], self.spec))
        goes_on = (~rows.terminated[:, 0]).float()
        parts = {
            "state": F.mse_loss(change, self.change_scale.normalize(rows.state[:, 1] - rows.state[:, 0])),
            "reward": F.mse_loss(reward, rows.reward[:, 0]),
            "continuation": F.binary_cross_entropy_with_logits(continuation, goes_on),
        }
        metrics = {f"network/{name}": part.detach() for name, part in parts.items()}
        return torch.stack(list(parts.values())).sum(), metrics

    def start(self, rows: Rows) -> View:
        return self.view(rows.state[:, -1], rows.action_mask[:, -1], clip_action(rows.action[:, -2], self.spec))

    def observe(self, latent: View) -> View:
        return latent

    def step(self, latent: View, action: Tensor) -> Step[View]:
        action = clip_action(action, self.spec)
        change, reward, continuation = self.predict(latent.state, action)
        state = latent.state + self.change_scale.denormalize(change)
        return Step(self.view(state, latent.action_mask, action), reward, continuation.sigmoid())


def main(folder: str | Path = "runs/own-world-model", steps: int = 5_000, iterations: int = 10) -> float:
    """Record, fit, diagnose and train; the mean team return of the policy in the real task."""
    folder, device = Path(folder), {"device": "cpu", "threads": 1}  # small networks are fastest so
    recording = dima.record_config("toy/walk").override({"out": str(folder / "data"), "steps": 3_000, "device": "cpu"})
    dima.record(recording, overwrite=True)

    fitting = {"run": str(folder / "fit"), "iterations": iterations, **device}
    print(dima.fit(dima.fit_config(folder / "data", "mlp", "small", fitting), overwrite=True).table())
    few = dima.DiagnosisConfig(episodes=8, segments=64, calibration_segments=32, starts=32)
    print(*dima.diagnose(folder / "fit", few, device="cpu").findings, sep="\n")

    training = {"run": str(folder / "train"), "steps": steps, **device}
    print(dima.train(dima.build_config("toy/walk", "mlp", "small", training), overwrite=True).table())
    return dima.evaluate(folder / "train", episodes=20, device="cpu").mean


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", default="runs/own-world-model", help="where dataset and runs are kept")
    parser.add_argument("--steps", type=int, default=5_000, help="steps in the real task")
    parser.add_argument("--iterations", type=int, default=10, help="iterations of fitting to the recorded episodes")
    main(**vars(parser.parse_args()))
