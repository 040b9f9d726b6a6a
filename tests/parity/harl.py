"""HARL's results (``data/harl.json``, written by ``data/harl_reference.py``) and helpers to compare with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dima.algorithms.ppo import ADAM_EPS, PPOConfig
from dima.data import EnvSpec
from dima.policies.actors import MAX_STD, ActorConfig
from dima.policies.critics import CriticConfig

HARL: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "harl.json").read_text())
SPEC = EnvSpec(
    ("a", "b", "c"), state_dim=5, obs_sizes=(4, 4, 4), action_sizes=(2, 2, 2), discrete=False, obs_has_id=True
)


def cases(name: str) -> Any:
    return pytest.mark.parametrize("case", HARL[name], ids=[case["name"] for case in HARL[name]])


def tensors(harl: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in harl.items()}


def assert_weights(module: nn.Module, expected: dict[str, Tensor], atol: float) -> None:
    torch.testing.assert_close(dict(module.named_parameters()), expected, rtol=0, atol=atol)


def load(module: nn.Module, weights: dict[str, Tensor]) -> None:
    assert weights.keys() == dict(module.named_parameters()).keys()
    module.load_state_dict(weights, strict=False)  # buffers follow from the specification


def max_change(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    return max(float((after[name] - before[name]).abs().max()) for name in before)


def ppo_config(settings: dict[str, Any]) -> PPOConfig:
    """HARL's settings as ours; those that are constants here must be equal."""
    assert (settings["opti_eps"], settings["std_y_coef"], settings["std_x_coef"]) == (ADAM_EPS, MAX_STD, 1)
    assert settings["critic_epoch"] == settings["ppo_epoch"]
    assert settings["critic_num_mini_batch"] == settings["actor_num_mini_batch"]
    assert settings["use_feature_normalization"]  # of actors: always
    hidden = tuple(settings["hidden_sizes"])
    return PPOConfig(
        actor=ActorConfig(hidden=hidden),
        critic=CriticConfig(hidden=hidden, previous_action=False, input_norm=settings["use_feature_normalization"]),
        gamma=settings["gamma"],
        lam=settings["gae_lambda"],
        clip=settings["clip_param"],
        epochs=settings["ppo_epoch"],
        minibatches=settings["actor_num_mini_batch"],
        entropy=settings["entropy_coef"],
        max_grad_norm=settings["max_grad_norm"],
        lr=settings["lr"],
        critic_lr=settings["critic_lr"],
        linear_lr_decay=settings.get("use_linear_lr_decay", False),
    )
