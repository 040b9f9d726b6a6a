"""Parity with HARL's MAPPO and HAPPO: equal results on equal inputs, or a documented difference.

A test of a deliberate difference says how and why the library differs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dima.algorithms.happo import AgentBatch, SequentialPPO
from dima.algorithms.objectives import clipped_value_loss, lambda_returns, ppo_policy_loss
from dima.algorithms.ppo import PPO
from dima.data import Rollout
from dima.policies.critics import ValueNorm
from tests.parity.harl import HARL, SPEC, assert_weights, cases, load, max_change, ppo_config, tensors

pytestmark = pytest.mark.usefixtures("one_thread")


class Returns:
    """A case of HARL's critic buffer in our layout: one environment per row."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.reward, self.expected = torch.tensor(case["reward"]), torch.tensor(case["returns"])
        self.done, self.truncated = torch.tensor(case["done"]), torch.tensor(case["truncated"])
        self.value = torch.tensor(case["value"])
        if case["seen"] is not None:
            norm = ValueNorm()
            norm.update(torch.tensor(case["seen"]))
            self.value = norm.denormalize(self.value)
        self.value, self.next_value = self.value[:, :-1], self.value[:, 1:]

    def ours(self, next_value: Tensor, terminated: Tensor) -> Tensor:
        gamma, lam = HARL["ppo"]["gamma"], HARL["ppo"]["gae_lambda"]
        return lambda_returns(self.reward, 1 - terminated.float(), self.done, next_value, gamma, lam)


@cases("returns")
def test_returns_are_equal_once_truncated_steps_are_dropped(case: dict[str, Any]) -> None:
    """HARL drops the last step of a truncated episode: its target is its own value. A suitable next value does that."""
    harl = Returns(case)
    if case["proper"]:
        without_error = (harl.value - harl.reward) / HARL["ppo"]["gamma"]
        got = harl.ours(torch.where(harl.truncated, without_error, harl.next_value), harl.done & ~harl.truncated)
    else:  # truncation counts as termination
        got = harl.ours(harl.next_value, harl.done)
    torch.testing.assert_close(got, harl.expected, rtol=1e-5, atol=1e-5)


def test_difference_a_truncated_step_bootstraps_from_the_true_final_state() -> None:
    """So returns differ by that step's TD error, decayed by gamma lambda per earlier step of the episode."""
    harl = Returns(HARL["returns"][1])
    rate, reached = HARL["ppo"]["gamma"] * HARL["ppo"]["gae_lambda"], torch.full_like(harl.reward, 2.0)
    got = harl.ours(torch.where(harl.truncated, reached, harl.next_value), harl.done & ~harl.truncated)
    expected = harl.expected.clone()
    for env, last in harl.truncated.nonzero().tolist():
        error = harl.reward[env, last] + HARL["ppo"]["gamma"] * 2.0 - harl.value[env, last]
        for step in range(last, -1, -1):
            if step < last and harl.done[env, step]:
                break
            expected[env, step] += error * rate ** (last - step)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert (got - harl.expected).abs().max() > 0.5


# -- value normalisation ---------------------------------------------------------------------------------------------


@cases("value_norm")
def test_value_norms_are_equal(case: dict[str, Any]) -> None:
    """Difference: float64, as HARL's float32 loses the variance of returns far from zero."""
    norm, far = ValueNorm(), case["name"] == "far from zero"
    seen: list[Tensor] = []
    for update in case["updates"]:
        seen.append(torch.tensor(update["batch"]))
        norm.update(seen[-1])
        mean, std = norm.moments()
        assert float(mean) == pytest.approx(update["mean"], rel=1e-5, abs=1e-6)
        true = float(torch.cat(seen).double().var(correction=0))  # a decay of 0.99999 hardly forgets
        assert float(std**2) == pytest.approx(true if far else update["var"], rel=1e-4)
        if far:
            assert abs(update["var"] / true - 1) > 0.05
    if not far:
        got, back = norm.normalize(torch.tensor(case["probe"])), norm.denormalize(torch.tensor(case["units"]))
        torch.testing.assert_close(got, torch.tensor(case["normalized"]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(back, torch.tensor(case["denormalized"]), rtol=1e-4, atol=1e-5)


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["mappo", "happo"])
def test_policy_losses_are_equal(algorithm: str) -> None:
    """Difference: one log-probability per action, the sum; HARL keeps one per dimension and multiplies ratios."""
    harl = tensors({key: value for key, value in HARL["policy_loss"].items() if key not in ("mappo", "happo")})
    new, old = (harl[name].sum(-1, keepdim=True) for name in ("log_prob", "old_log_prob"))
    weight = harl["factor"][:, None] if algorithm == "happo" else 1.0
    loss, metrics = ppo_policy_loss(new, old, harl["advantage"], float(harl["clip"]), weight)
    assert 0.2 < float(metrics["clip_fraction"]) < 0.8  # both branches occur
    assert float(loss) == pytest.approx(HARL["policy_loss"][algorithm]["loss"], rel=1e-5)


def test_value_losses_are_equal() -> None:
    """Difference: the value clip is a setting of its own; by default it is the policy's, as in HARL."""
    harl = tensors(HARL["value_loss"])
    row = [harl[name] for name in ("value", "old_value", "target")]
    clip, delta = float(harl["clip"]), float(harl["delta"])
    by_row = torch.stack([clipped_value_loss(*one, clip, delta) for one in zip(*row, strict=True)])
    torch.testing.assert_close(by_row, harl["by_row"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(clipped_value_loss(*row, clip, delta), harl["loss"], rtol=1e-5, atol=1e-6)
    moved, error = (
        (harl["value"] - harl["old_value"]).abs() > clip,
        (harl["target"] - harl["value"]).abs() > delta,
    )
    assert {(bool(a), bool(b)) for a, b in zip(moved, error, strict=True)} == {(a, b) for a in (0, 1) for b in (0, 1)}


# -- whole iterations on a rollout ------------------------------------------------------------------------------------


def actor_weights(harl: dict[str, Any]) -> dict[str, Tensor]:
    """HARL's names of an actor's weights -> ours."""
    hidden, weights = len(HARL["ppo"]["hidden_sizes"]), tensors(harl)
    ours = {"log_std": weights.pop("act.action_out.log_std")}
    for name, value in weights.items():
        name = name.replace("base.feature_norm", "input_norm").replace("base.mlp.fc", "net")
        ours[name.replace("act.action_out.fc_mean", f"net.{3 * hidden}")] = value
    return ours


def critic_weights(harl: dict[str, Any]) -> dict[str, Tensor]:
    head = f"net.{3 * len(HARL['ppo']['hidden_sizes'])}"
    ours = (("base.feature_norm", "input_norm"), ("base.mlp.fc", "net"), ("v_out", head))
    weights = tensors(harl)
    for theirs, name in ours:
        weights = {key.replace(theirs, name): value for key, value in weights.items()}
    return weights


def rollout(harl: dict[str, Tensor]) -> Rollout:
    return Rollout(
        **harl,
        action_mask=torch.ones_like(harl["action"], dtype=torch.bool),
        previous_action=torch.zeros_like(harl["action"]),
        boundary=harl["continuation"] == 0,
    )


@pytest.mark.parametrize("algorithm", ["mappo", "happo"])
def test_an_iteration_leaves_the_same_weights(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All epochs of actors and critic with HARL's networks, gradients clipped, from a fresh ValueNorm.

    Difference: ValueNorm is updated once per iteration, in HARL at every gradient step of the critic. From a fresh one
    that is the same, as repeating a batch does not change its average.
    """
    harl = HARL[algorithm]
    monkeypatch.setattr("dima.algorithms.ppo.HUBER_DELTA", HARL["ppo"]["huber_delta"])
    config = ppo_config(HARL["ppo"])
    team: PPO
    if algorithm == "mappo":
        team = PPO(config, SPEC)
        members: list[nn.Module] = [team.actor]
    else:
        team = SequentialPPO(config, SPEC, fixed_order=True)
        members = list(team.actor.members)
    before, after = ([actor_weights(one) for one in harl[when]["actors"]] for when in ("before", "after"))
    for member, weights in zip(members, before, strict=True):
        load(member, weights)
    load(team.critic, critic_weights(harl["before"]["critic"]))
    collected = rollout(tensors(harl["rollout"]))
    policy = team.actor(collected.obs, collected.action_mask)
    torch.testing.assert_close(policy.log_prob(collected.action), collected.log_prob, rtol=1e-5, atol=1e-5)

    factors: dict[int, Tensor] = {}
    if isinstance(team, SequentialPPO):
        agent_step = team.agent_step

        def record(agent: int, batch: AgentBatch) -> dict[str, Tensor]:
            factors[agent] = batch.factor
            return agent_step(agent, batch)

        monkeypatch.setattr(team, "agent_step", record)
    batch, _ = team.prepare(collected)
    torch.testing.assert_close(
        team.value_norm.denormalize(batch.target), torch.tensor(harl["returns"]).flatten(), rtol=1e-5, atol=1e-5
    )
    metrics = team.run_epochs(batch)
    assert min(float(metrics["actor_grad_norm"]), float(metrics["critic_grad_norm"])) > HARL["ppo"]["max_grad_norm"]
    assert 0.1 < float(metrics["clip_fraction"]) < 0.9

    for member, old, new in zip(members, before, after, strict=True):
        assert_weights(member, new, atol=2e-5)
        assert max_change(old, new) > 0.02  # a thousand times the tolerance
    assert_weights(team.critic, critic_weights(harl["after"]["critic"]), atol=2e-5)
    assert max_change(critic_weights(harl["before"]["critic"]), critic_weights(harl["after"]["critic"])) > 0.02
    assert sorted(factors) == list(range(len(harl["factors"])))
    for agent, expected in enumerate(harl["factors"]):
        torch.testing.assert_close(factors[agent], torch.tensor(expected).flatten(), rtol=1e-4, atol=1e-5)
    if factors:
        assert min(float((factors[agent] - 1).abs().max()) for agent in (1, 2)) > 0.05
