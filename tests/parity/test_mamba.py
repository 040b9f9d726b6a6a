"""MAMBA's parts compute what its authors' code does (``data/mamba.json``, written by ``data/mamba_reference.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dima.algorithms.objectives import lambda_returns, ppo_policy_loss
from dima.data import EnvSpec
from dima.policies.distributions import Categorical
from dima.policies.team_critic import TeamCritic, TeamCriticConfig
from dima.world_models.mamba.latent import balanced_kl
from dima.world_models.mamba.losses import information_loss, reconstruction_loss
from dima.world_models.mamba.model import MambaModelConfig
from dima.world_models.mamba.networks import Dynamics

AUTHORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "mamba.json").read_text())
SPEC = EnvSpec(("a", "b", "c"), state_dim=1, obs_sizes=(4, 4, 4), action_sizes=(2, 2, 2), discrete=False)


def tensors(part: str, kind: str) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in AUTHORS[part][kind].items()}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_transition_prior_and_posterior() -> None:
    config = MambaModelConfig(hidden=8, deterministic=6, categoricals=2, classes=3)
    dynamics, weights, given = (
        Dynamics(config, SPEC).eval(),
        tensors("transition", "weights"),
        tensors("transition", "inputs"),
    )
    ours = dynamics.state_dict()
    for name, weight in weights.items():
        name = name if name.startswith("prior") else f"filter.{name}"
        assert ours[name].shape == weight.shape
        ours[name] = weight
    dynamics.load_state_dict(ours)
    following = dynamics.filter.transition(given["action"], given["stochastic"], given["deterministic"])
    results = tensors("transition", "results")
    close(following, results["deterministic"])
    close(dynamics.prior_logits(following).flatten(-2), results["prior"])
    close(dynamics.filter.posterior_logits(following, given["embedding"]).flatten(-2), results["posterior"])
    unnamed = {"encoder", "trunk", "decoder", "reward", "continuation", "classifier"}
    assert {name.removeprefix("filter.").split(".")[0] for name in ours} - unnamed == {
        "transition",
        "prior",
        "posterior",
    }
    assert len(weights) == sum("filter.encoder" not in n and n.startswith(("filter", "prior")) for n in ours)


@torch.no_grad()
def test_critic() -> None:
    critic, weights = TeamCritic(TeamCriticConfig(width=8), SPEC), tensors("critic", "weights")
    critic.load_state_dict(weights)
    close(critic(tensors("critic", "inputs")["features"].flatten(-2)), tensors("critic", "results")["value"])


def test_divergence_and_its_gradients() -> None:
    given, results = tensors("divergence", "inputs"), tensors("divergence", "results")
    prior, posterior = (given[name].requires_grad_() for name in ("prior", "posterior"))
    loss = balanced_kl(posterior.unflatten(-1, (2, 3)), prior.unflatten(-1, (2, 3)), 0.8).mean()
    loss.backward()
    close(loss, results["loss"])
    for logits, name in ((prior, "prior"), (posterior, "posterior")):
        assert logits.grad is not None
        close(logits.grad, results[f"{name}_gradient"])


def test_returns() -> None:
    given = {name: value[..., 0].transpose(0, 1) for name, value in tensors("returns", "inputs").items()}
    boundary = torch.zeros(5, 7, 1, dtype=torch.bool)
    ours = lambda_returns(given["reward"], given["discount"], boundary, given["value"][:, 1:], 0.99, 0.95)
    close(ours, tensors("returns", "results")["returns"][..., 0].transpose(0, 1))


def test_reconstruction() -> None:
    given = tensors("reconstruction", "inputs")
    loss = reconstruction_loss(given["predicted"][None], given["obs"][None], torch.ones(3, 4), given["real"][None])
    close(loss, tensors("reconstruction", "results")["loss"])


def test_information() -> None:
    given, valid = tensors("information", "inputs"), torch.ones(3, 3, dtype=torch.bool)
    close(
        information_loss(given["logits"], given["action"], valid, given["known"], discrete=True),
        tensors("information", "results")["loss"],
    )


def test_policy_loss() -> None:
    given, valid = tensors("policy", "inputs"), torch.ones(3, 3)
    new, old = (Categorical(given[name], valid.bool(), valid) for name in ("logits", "old_logits"))
    log_probs = (one.log_prob(given["action"])[..., None] for one in (new, old))
    loss, _ = ppo_policy_loss(*log_probs, given["advantage"], 0.2)
    close(loss - 0.001 * new.entropy().mean(), tensors("policy", "results")["loss"])


@pytest.mark.parametrize("part", ["transition", "critic"])
def test_the_numbers_are_of_something(part: str) -> None:
    for value in tensors(part, "results").values():
        assert value.std() > 0.01
