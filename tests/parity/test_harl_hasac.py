"""Parity with HARL's HASAC: equal results on equal inputs, or a documented difference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dima.algorithms.hasac import Hasac, HasacConfig
from dima.data import EnvSpec, TransitionBatch
from dima.experience.transitions import NStepBatch, Transitions
from dima.policies.soft_actors import TanhGaussian
from tests.parity.harl import HARL, SPEC, assert_weights, cases, load, max_change, tensors

pytestmark = pytest.mark.usefixtures("one_thread")


def soft_weights(harl: dict[str, Any]) -> dict[str, Tensor]:
    """HARL's names of a squashed Gaussian's weights -> ours; its two heads are one of ours."""
    weights, head = tensors(harl), f"net.{2 * len(HARL['sac']['hidden_sizes'])}"
    ours = {name.replace("net.mlp", "net"): value for name, value in weights.items() if name.startswith("net.mlp")}
    for part in ("weight", "bias"):
        ours[f"{head}.{part}"] = torch.cat([weights[f"mu_layer.{part}"], weights[f"log_std_layer.{part}"]])
    return ours


def twin_weights(harl: dict[str, Any]) -> dict[str, Tensor]:
    return {name.replace("mlp.mlp.", ""): value for name, value in tensors(harl).items()}


def use_noise(noise: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Take standard normals from a list."""
    queue = iter(noise)

    def recorded(x: Tensor) -> Tensor:
        given = torch.tensor(next(queue))
        assert given.shape == x.shape
        return given

    monkeypatch.setattr(torch, "randn_like", recorded)


def test_squashed_gaussians_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    harl = HARL["tanh_gaussian"]
    actor = TanhGaussian(HARL["sac"]["hidden_sizes"], SPEC.obs_dim, SPEC.action_dim)
    load(actor, soft_weights(harl["weights"]))
    obs = torch.tensor(harl["obs"])
    use_noise([harl["noise"]], monkeypatch)
    action, log_prob = actor.sample(obs, torch.ones(len(obs), SPEC.action_dim, dtype=torch.bool))
    torch.testing.assert_close(action, torch.tensor(harl["action"]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_prob, torch.tensor(harl["log_prob"]), rtol=1e-4, atol=1e-4)
    mode = actor.mode(obs, torch.ones(len(obs), SPEC.action_dim, dtype=torch.bool))
    torch.testing.assert_close(mode, torch.tensor(harl["mode"]), rtol=1e-5, atol=1e-6)


@cases("n_step")
def test_n_step_samples_are_equal(case: dict[str, Any]) -> None:
    """Across terminations, truncations, the newest steps and the wrap-around of the ring.

    Difference: the ring holds time steps of all environments. Of a capacity that is no multiple of their number the
    rest stays unused, where HARL keeps some environments one step longer.
    """
    reward = torch.tensor(case["reward"])
    envs, steps = reward.shape
    spec = EnvSpec(("a", "b"), state_dim=2, obs_sizes=(1, 1), action_sizes=(1, 1), discrete=False)
    state = torch.stack([torch.arange(envs)[:, None].expand(-1, steps), torch.arange(steps).expand(envs, -1)], -1)
    obs = torch.zeros(envs, steps, 2, 1)
    after = state + torch.tensor([0.0, 0.5])
    ends = tensors({name: case[name] for name in ("terminated", "boundary")})
    transitions = TransitionBatch(
        obs, state.float(), obs == 0, obs, reward, **ends, next_obs=obs, next_state=after, next_mask=obs == 0
    )
    store = Transitions(case["capacity"], spec, "cpu")
    for step in range(steps):
        store.add(TransitionBatch(**{name: value[:, step : step + 1] for name, value in vars(transitions).items()}))
    torch.manual_seed(0)
    samples = store.sample(1_000, case["n_step"], case["gamma"])
    found: dict[tuple[float, ...], NStepBatch] = {tuple(samples.state[n].tolist()): samples[n] for n in range(1_000)}
    expected = {tuple(begin): n for n, begin in enumerate(case["begin"])}
    assert found.keys() <= expected.keys()
    assert len(found) == min(envs * steps, case["capacity"] // envs * envs)
    for begin, sample in found.items():
        n = expected[begin]
        assert float(sample.returns) == pytest.approx(case["ret"][n], abs=1e-5)
        assert float(sample.discount) == pytest.approx((1 - case["term"][n]) * case["discount"][n], abs=1e-6)
        assert sample.next_state.tolist() == case["end"][n]


def test_updates_of_hasac_leave_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates: entropy-regularised targets, both critics, sequential actors, temperatures, Polyak averages.

    HARL samples an agent's action anew for its own loss, although its policy is still that of its first sample; we keep
    the first. The distribution is the same, and here the samples are, by their noise.
    """
    harl, sac = HARL["hasac"], HARL["sac"]
    config = HasacConfig(
        hidden=tuple(sac["hidden_sizes"]),
        capacity=1,
        tau=sac["polyak"],
        lr=sac["lr"],
        critic_lr=sac["critic_lr"],
        alpha_lr=sac["alpha_lr"],
        fixed_order=True,
    )
    team: Hasac = config.build(SPEC, "cpu")
    before, after = harl["before"], harl["after"]
    for member, weights in zip(team.actors.members, before["actors"], strict=True):
        load(member, soft_weights(weights))
    for critic in (team.critic, team.target):
        for twin, name in zip(critic.twins, ("critic", "critic2"), strict=True):
            load(twin, twin_weights(before[name]))
    for log_alpha, start in zip(team.log_alpha, before["log_alpha"], strict=True):
        log_alpha.data.fill_(start)
    batch = tensors(harl["batch"])
    all_allowed = torch.ones(len(batch["ret"]), SPEC.n_agents, SPEC.action_dim, dtype=torch.bool)
    n_step_batch = NStepBatch(
        **{name: batch[name].transpose(0, 1) for name in ("obs", "action", "next_obs")},
        **{name: batch[name] for name in ("state", "next_state")},
        returns=batch["ret"],
        discount=batch["discount"] * ~batch["term"],
        action_mask=all_allowed,
        next_mask=all_allowed,
    )
    team_size, noise = SPEC.n_agents, harl["noise"]
    per_update = 4 * team_size  # HARL's: next actions, current ones, and in turn the one of the loss and the one after
    kept = [*range(2 * team_size), *range(2 * team_size + 1, per_update - 1, 2)]
    use_noise([noise[update * per_update + n] for update in range(2) for n in kept], monkeypatch)
    targets: list[Tensor] = []
    target_value = team.target_value
    monkeypatch.setattr(team, "target_value", lambda batch: targets.append(target_value(batch)) or targets[-1])
    for _ in harl["targets"]:
        team.critic_step(n_step_batch)
        team.actor_steps(n_step_batch)
        team.polyak_update()
    torch.testing.assert_close(torch.stack(targets), torch.tensor(harl["targets"]), rtol=1e-4, atol=1e-4)
    for member, old, new in zip(team.actors.members, before["actors"], after["actors"], strict=True):
        assert_weights(member, soft_weights(new), atol=2e-5)
        assert max_change(soft_weights(old), soft_weights(new)) > 0.01
    for critic, names in ((team.critic, ("critic", "critic2")), (team.target, ("target", "target2"))):
        for twin, name in zip(critic.twins, names, strict=True):
            assert_weights(twin, twin_weights(after[name]), atol=2e-5)
    assert max_change(twin_weights(before["critic"]), twin_weights(after["target"])) > 1e-3
    assert [float(value.detach()) for value in team.log_alpha] == pytest.approx(after["log_alpha"], abs=1e-5)
    assert before["log_alpha"] != pytest.approx(after["log_alpha"], abs=1e-3)
