"""The same numbers into HARL's MAPPO, HAPPO and HASAC and into ours: the same comes out, or differs by decision.

``tests/data/harl_reference.py`` asked HARL; its answers are in ``tests/data/harl.json``. Where ours is meant to be
different, a test says how and why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dima.algorithms.happo import AgentBatch, SequentialPPO
from dima.algorithms.hasac import Hasac, HasacConfig
from dima.algorithms.mappo import MappoConfig
from dima.algorithms.objectives import clipped_value_loss, lambda_returns, ppo_policy_loss
from dima.algorithms.on_policy import OnPolicyConfig
from dima.algorithms.ppo import PPO, PPOConfig
from dima.data import EnvSpec, Rollout, TransitionBatch
from dima.envs import all_tasks
from dima.experience.transitions import NStepBatch, Transitions
from dima.policies.actors import ActorConfig
from dima.policies.critics import CriticConfig, ValueNorm
from dima.policies.soft_actors import TanhGaussian
from dima.training.run_config import build_config

HARL: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "harl.json").read_text())
SPEC = EnvSpec(
    ("a", "b", "c"), state_dim=5, obs_sizes=(4, 4, 4), action_sizes=(2, 2, 2), discrete=False, obs_has_id=True
)

pytestmark = pytest.mark.usefixtures("one_thread")


def cases(name: str) -> Any:
    return pytest.mark.parametrize("case", HARL[name], ids=[case["name"] for case in HARL[name]])


def tensors(told: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in told.items()}


def is_like(module: nn.Module, expected: dict[str, Tensor], atol: float) -> None:
    torch.testing.assert_close(dict(module.named_parameters()), expected, rtol=0, atol=atol)


def load(module: nn.Module, weights: dict[str, Tensor]) -> None:
    assert weights.keys() == dict(module.named_parameters()).keys()
    module.load_state_dict(weights, strict=False)  # buffers hold what the specification says


def farthest(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    return max(float((after[name] - before[name]).abs().max()) for name in before)


# -- returns ----------------------------------------------------------------------------------------------------------


class Returns:
    """A case of HARL's critic buffer in our terms: one environment a row."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.reward, self.expected = torch.tensor(case["reward"]), torch.tensor(case["returns"])
        self.done, self.cut = torch.tensor(case["done"]), torch.tensor(case["truncated"])
        self.value = torch.tensor(case["value"])
        if case["seen"] is not None:
            norm = ValueNorm()
            norm.update(torch.tensor(case["seen"]))
            self.value = norm.denormalize(self.value)
        self.value, self.following = self.value[:, :-1], self.value[:, 1:]

    def ours(self, following: Tensor, ended: Tensor) -> Tensor:
        gamma, lam = HARL["ppo"]["gamma"], HARL["ppo"]["gae_lambda"]
        return lambda_returns(self.reward, 1 - ended.float(), self.done, following, gamma, lam)


@cases("returns")
def test_returns_are_alike_once_a_step_cut_by_a_time_limit_teaches_nothing(case: dict[str, Any]) -> None:
    """HARL drops that step: its target is its own value. A next value of our choice makes ours the same."""
    told = Returns(case)
    if case["proper"]:
        nothing = (told.value - told.reward) / HARL["ppo"]["gamma"]
        got = told.ours(torch.where(told.cut, nothing, told.following), told.done & ~told.cut)
    else:  # the limit is taken for an end of the task
        got = told.ours(told.following, told.done)
    torch.testing.assert_close(got, told.expected, rtol=1e-5, atol=1e-5)


def test_by_decision_a_step_cut_by_a_time_limit_is_bootstrapped_from_what_was_really_reached() -> None:
    """So it differs by that step's own error, handed back through the episode at the rate gamma lambda."""
    told = Returns(HARL["returns"][1])
    rate, reached = HARL["ppo"]["gamma"] * HARL["ppo"]["gae_lambda"], torch.full_like(told.reward, 2.0)
    got = told.ours(torch.where(told.cut, reached, told.following), told.done & ~told.cut)
    expected = told.expected.clone()
    for env, last in told.cut.nonzero().tolist():
        error = told.reward[env, last] + HARL["ppo"]["gamma"] * 2.0 - told.value[env, last]
        for step in range(last, -1, -1):
            if step < last and told.done[env, step]:
                break
            expected[env, step] += error * rate ** (last - step)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert (got - told.expected).abs().max() > 0.5


# -- the scale of values ----------------------------------------------------------------------------------------------


@cases("value_norm")
def test_the_scale_of_values_moves_alike(case: dict[str, Any]) -> None:
    """By decision in float64: far from zero HARL's float32 loses the variance, which is a small difference."""
    norm, far = ValueNorm(), case["name"] == "far from zero"
    seen: list[Tensor] = []
    for update in case["updates"]:
        seen.append(torch.tensor(update["batch"]))
        norm.update(seen[-1])
        mean, std = norm.moments()
        assert float(mean) == pytest.approx(update["mean"], rel=1e-5, abs=1e-6)
        true = float(torch.cat(seen).double().var(correction=0))  # 0.99999 per update is hardly any forgetting
        assert float(std**2) == pytest.approx(true if far else update["var"], rel=1e-4)
        if far:
            assert abs(update["var"] / true - 1) > 0.05
    if not far:
        got, back = norm.normalize(torch.tensor(case["probe"])), norm.denormalize(torch.tensor(case["units"]))
        torch.testing.assert_close(got, torch.tensor(case["normalized"]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(back, torch.tensor(case["denormalized"]), rtol=1e-4, atol=1e-5)


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["mappo", "happo"])
def test_policy_losses_are_alike(algorithm: str) -> None:
    """By decision an action has one log-probability, the sum; HARL keeps one per dimension and multiplies ratios."""
    told = tensors({key: value for key, value in HARL["policy_loss"].items() if key not in ("mappo", "happo")})
    new, old = (told[name].sum(-1, keepdim=True) for name in ("log_prob", "old_log_prob"))
    weight = told["factor"][:, None] if algorithm == "happo" else 1.0
    loss, metrics = ppo_policy_loss(new, old, told["advantage"], float(told["clip"]), weight)
    assert 0.2 < float(metrics["clip_fraction"]) < 0.8  # both branches have rows
    assert float(loss) == pytest.approx(HARL["policy_loss"][algorithm]["loss"], rel=1e-5)


def test_value_losses_are_alike() -> None:
    """By decision the clip is a setting of its own; unset it is the policy's, as in HARL."""
    told = tensors(HARL["value_loss"])
    row = [told[name] for name in ("value", "old_value", "target")]
    clip, delta = float(told["clip"]), float(told["delta"])
    by_row = torch.stack([clipped_value_loss(*one, clip, delta) for one in zip(*row, strict=True)])
    torch.testing.assert_close(by_row, told["by_row"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(clipped_value_loss(*row, clip, delta), told["loss"], rtol=1e-5, atol=1e-6)
    moved, error = (told["value"] - told["old_value"]).abs() > clip, (told["target"] - told["value"]).abs() > delta
    assert {(bool(a), bool(b)) for a, b in zip(moved, error, strict=True)} == {(a, b) for a in (0, 1) for b in (0, 1)}


# -- whole iterations on a rollout ------------------------------------------------------------------------------------


def actor_weights(told: dict[str, Any]) -> dict[str, Tensor]:
    """HARL's names of an actor's weights -> ours."""
    hidden, weights = len(HARL["ppo"]["hidden_sizes"]), tensors(told)
    ours = {"log_std": weights.pop("act.action_out.log_std")}
    for name, value in weights.items():
        name = name.replace("base.feature_norm", "input_norm").replace("base.mlp.fc", "net")
        ours[name.replace("act.action_out.fc_mean", f"net.{3 * hidden}")] = value
    return ours


def critic_weights(told: dict[str, Any]) -> dict[str, Tensor]:
    head = f"net.{3 * len(HARL['ppo']['hidden_sizes'])}"
    return {name.replace("base.mlp.fc", "net").replace("v_out", head): value for name, value in tensors(told).items()}


def rollout(told: dict[str, Tensor]) -> Rollout:
    return Rollout(
        **told,
        action_mask=torch.ones_like(told["action"], dtype=torch.bool),
        previous_action=torch.zeros_like(told["action"]),
        boundary=told["continuation"] == 0,
    )


def ppo_config() -> PPOConfig:
    told = HARL["ppo"]
    assert told["ppo_epoch"] == told["critic_epoch"]
    return PPOConfig(
        actor=ActorConfig(hidden=tuple(told["hidden_sizes"]), std_scale=told["std_y_coef"]),
        critic=CriticConfig(hidden=tuple(told["hidden_sizes"]), previous_action=False),
        gamma=told["gamma"],
        lam=told["gae_lambda"],
        clip=told["clip_param"],
        epochs=told["ppo_epoch"],
        entropy=told["entropy_coef"],
        huber_delta=told["huber_delta"],
        max_grad_norm=told["max_grad_norm"],
        lr=told["lr"],
        critic_lr=told["critic_lr"],
        adam_eps=told["opti_eps"],
    )


@pytest.mark.parametrize("algorithm", ["mappo", "happo"])
def test_an_iteration_leaves_the_same_weights(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch of actors and critic, gradients clipped, from a fresh scale of values.

    By decision the scale moves once in an iteration, in HARL at every gradient step of the critic: from a fresh scale
    that is the same, for repeating a batch does not move a plain average of nothing else.
    """
    told = HARL[algorithm]
    team: PPO
    if algorithm == "mappo":
        team = PPO(ppo_config(), SPEC)
        members: list[nn.Module] = [team.actor]
    else:
        team = SequentialPPO(ppo_config(), SPEC, fixed_order=True)
        members = list(team.actor.members)
    before, after = ([actor_weights(one) for one in told[when]["actors"]] for when in ("before", "after"))
    for member, weights in zip(members, before, strict=True):
        load(member, weights)
    load(team.critic, critic_weights(told["before"]["critic"]))
    played = rollout(tensors(told["rollout"]))
    policy = team.actor(played.obs, played.action_mask)
    torch.testing.assert_close(policy.log_prob(played.action), played.log_prob, rtol=1e-5, atol=1e-5)

    factors: dict[int, Tensor] = {}
    if isinstance(team, SequentialPPO):
        learn = team.agent_step

        def note(agent: int, turn: AgentBatch) -> dict[str, Tensor]:
            factors[agent] = turn.factor
            return learn(agent, turn)

        monkeypatch.setattr(team, "agent_step", note)
    batch, _ = team.prepare(played)
    torch.testing.assert_close(
        team.value_norm.denormalize(batch.target), torch.tensor(told["returns"]).flatten(), rtol=1e-5, atol=1e-5
    )
    metrics = team.run_epochs(batch)
    assert min(float(metrics["actor_grad_norm"]), float(metrics["critic_grad_norm"])) > HARL["ppo"]["max_grad_norm"]
    assert 0.1 < float(metrics["clip_fraction"]) < 0.9

    for member, old, new in zip(members, before, after, strict=True):
        is_like(member, new, atol=2e-5)
        assert farthest(old, new) > 0.02  # a thousand times more than is forgiven
    is_like(team.critic, critic_weights(told["after"]["critic"]), atol=2e-5)
    assert farthest(critic_weights(told["before"]["critic"]), critic_weights(told["after"]["critic"])) > 0.02
    assert sorted(factors) == list(range(len(told["factors"])))
    for agent, expected in enumerate(told["factors"]):
        torch.testing.assert_close(factors[agent], torch.tensor(expected).flatten(), rtol=1e-4, atol=1e-5)
    if factors:
        assert min(float((factors[agent] - 1).abs().max()) for agent in (1, 2)) > 0.05


# -- off-policy -------------------------------------------------------------------------------------------------------


def soft_weights(told: dict[str, Any]) -> dict[str, Tensor]:
    """HARL's names of a squashed Gaussian's weights -> ours; its two heads are halves of one."""
    weights, head = tensors(told), f"net.{2 * len(HARL['sac']['hidden_sizes'])}"
    ours = {name.replace("net.mlp", "net"): value for name, value in weights.items() if name.startswith("net.mlp")}
    for part in ("weight", "bias"):
        ours[f"{head}.{part}"] = torch.cat([weights[f"mu_layer.{part}"], weights[f"log_std_layer.{part}"]])
    return ours


def twin_weights(told: dict[str, Any]) -> dict[str, Tensor]:
    return {name.replace("mlp.mlp.", ""): value for name, value in tensors(told).items()}


def draw_from(noise: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard normals come from a list."""
    queue = iter(noise)

    def feed(x: Tensor) -> Tensor:
        given = torch.tensor(next(queue))
        assert given.shape == x.shape
        return given

    monkeypatch.setattr(torch, "randn_like", feed)


def test_squashed_gaussians_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    told = HARL["tanh_gaussian"]
    actor = TanhGaussian(HARL["sac"]["hidden_sizes"], SPEC.obs_dim, SPEC.action_dim)
    load(actor, soft_weights(told["weights"]))
    obs = torch.tensor(told["obs"])
    draw_from([told["noise"]], monkeypatch)
    action, log_prob = actor.sample(obs, torch.ones(len(obs), SPEC.action_dim, dtype=torch.bool))
    torch.testing.assert_close(action, torch.tensor(told["action"]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_prob, torch.tensor(told["log_prob"]), rtol=1e-4, atol=1e-4)
    mode = actor.mode(obs, torch.ones(len(obs), SPEC.action_dim, dtype=torch.bool))
    torch.testing.assert_close(mode, torch.tensor(told["mode"]), rtol=1e-5, atol=1e-6)


@cases("n_step")
def test_stretches_are_alike(case: dict[str, Any]) -> None:
    """Over true ends, time limits, the newest steps and the seam of the ring.

    By decision the ring holds whole moments of all environments: of a capacity that is no multiple of their number
    the rest stays unused, where HARL keeps some environments one step longer.
    """
    reward = torch.tensor(case["reward"])
    envs, moments = reward.shape
    spec = EnvSpec(("a", "b"), state_dim=2, obs_sizes=(1, 1), action_sizes=(1, 1), discrete=False)
    state = torch.stack([torch.arange(envs)[:, None].expand(-1, moments), torch.arange(moments).expand(envs, -1)], -1)
    obs = torch.zeros(envs, moments, 2, 1)
    after = state + torch.tensor([0.0, 0.5])
    ends = tensors({name: case[name] for name in ("terminated", "boundary")})
    lived = TransitionBatch(
        obs, state.float(), obs == 0, obs, reward, **ends, next_obs=obs, next_state=after, next_mask=obs == 0
    )
    store = Transitions(case["capacity"], spec, "cpu")
    for moment in range(moments):
        store.add(TransitionBatch(**{name: value[:, moment : moment + 1] for name, value in vars(lived).items()}))
    torch.manual_seed(0)
    drawn = store.sample(1_000, case["n_step"], case["gamma"])
    found: dict[tuple[float, ...], NStepBatch] = {tuple(drawn.state[n].tolist()): drawn[n] for n in range(1_000)}
    expected = {tuple(begin): n for n, begin in enumerate(case["begin"])}
    assert found.keys() <= expected.keys()
    assert len(found) == min(envs * moments, case["capacity"] // envs * envs)
    for begin, stretch in found.items():
        n = expected[begin]
        assert float(stretch.ret) == pytest.approx(case["ret"][n], abs=1e-5)
        assert float(stretch.discount) == pytest.approx((1 - case["term"][n]) * case["discount"][n], abs=1e-6)
        assert stretch.next_state.tolist() == case["end"][n]


def test_updates_of_hasac_leave_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them: targets with their price of entropy, both critics, agents in turn, temperatures, slow targets.

    HARL draws an agent's action anew when its turn comes, although its policy is still that of the first draw; we keep
    the first. As likely, and made the same here by their noise.
    """
    told, sac = HARL["hasac"], HARL["sac"]
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
    before, after = told["before"], told["after"]
    for member, weights in zip(team.actors.members, before["actors"], strict=True):
        load(member, soft_weights(weights))
    for critic in (team.critic, team.target):
        for twin, name in zip(critic.twins, ("critic", "critic2"), strict=True):
            load(twin, twin_weights(before[name]))
    for log_alpha, start in zip(team.log_alpha, before["log_alpha"], strict=True):
        log_alpha.data.fill_(start)
    batch = tensors(told["batch"])
    everything = torch.ones(len(batch["ret"]), SPEC.n_agents, SPEC.action_dim, dtype=torch.bool)
    stretch = NStepBatch(
        **{name: batch[name].transpose(0, 1) for name in ("obs", "action", "next_obs")},
        **{name: batch[name] for name in ("state", "next_state", "ret")},
        discount=batch["discount"] * ~batch["term"],
        action_mask=everything,
        next_mask=everything,
    )
    team_size, noise = SPEC.n_agents, told["noise"]
    per_update = 4 * team_size  # HARL's: next actions, present ones, and in turn the one learnt from and the one after
    kept = [*range(2 * team_size), *range(2 * team_size + 1, per_update - 1, 2)]
    draw_from([noise[update * per_update + n] for update in range(2) for n in kept], monkeypatch)
    targets: list[Tensor] = []
    backup = team.target_value
    monkeypatch.setattr(team, "target_value", lambda stretch: targets.append(backup(stretch)) or targets[-1])
    for _ in told["targets"]:
        team.critic_step(stretch)
        team.actor_steps(stretch)
        team.polyak_update()
    torch.testing.assert_close(torch.stack(targets), torch.tensor(told["targets"]), rtol=1e-4, atol=1e-4)
    for member, old, new in zip(team.actors.members, before["actors"], after["actors"], strict=True):
        is_like(member, soft_weights(new), atol=2e-5)
        assert farthest(soft_weights(old), soft_weights(new)) > 0.01
    for critic, names in ((team.critic, ("critic", "critic2")), (team.target, ("target", "target2"))):
        for twin, name in zip(critic.twins, names, strict=True):
            is_like(twin, twin_weights(after[name]), atol=2e-5)
    assert farthest(twin_weights(before["critic"]), twin_weights(after["target"])) > 1e-3
    assert [float(value.detach()) for value in team.log_alpha] == pytest.approx(after["log_alpha"], abs=1e-5)
    assert before["log_alpha"] != pytest.approx(after["log_alpha"], abs=1e-3)


# -- settings ---------------------------------------------------------------------------------------------------------

OWN = {info.name for info in all_tasks()}


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in HARL["tuned"] if case["task"] in OWN])
def test_published_presets_are_the_authors_settings(case: dict[str, Any]) -> None:
    config = build_config(case["task"], case["algorithm"], "published")
    learner = config.learner
    assert (config.steps, config.envs) == (case["num_env_steps"], case["n_rollout_threads"])
    if isinstance(learner, HasacConfig):
        assert learner == HasacConfig(
            hidden=tuple(case["hidden_sizes"]),
            capacity=case["buffer_size"],
            warmup=case["warmup_steps"],
            interval=case["train_interval"],
            updates=case["update_per_train"],
            batch=case["batch_size"],
            n_step=case["n_step"],
            gamma=case["gamma"],
            tau=case["polyak"],
            lr=case["lr"],
            critic_lr=case["critic_lr"],
            alpha=None if case["auto_alpha"] else case["alpha"],
            alpha_lr=case["alpha_lr"],
            choice_entropy=0.0 if case["task"].startswith("mpe/") else 0.98,
        )
        assert not (case["use_huber_loss"] or case["use_valuenorm"] or case["share_param"])
        return
    assert isinstance(learner, OnPolicyConfig)
    alike = case["task"] != "mpe/simple_speaker_listener"  # HARL's agents of different sizes cannot share a network
    assert case["share_param"] == (isinstance(learner, MappoConfig) and alike)
    assert learner.rollout == case["episode_length"]
    assert case["critic_epoch"] == case["ppo_epoch"] and case["critic_num_mini_batch"] == case["actor_num_mini_batch"]
    hidden = tuple(case["hidden_sizes"])
    assert learner.ppo == PPOConfig(
        actor=ActorConfig(hidden=hidden, std_scale=case["std_y_coef"]),
        critic=CriticConfig(hidden=hidden, previous_action=False),
        gamma=case["gamma"],
        lam=case["gae_lambda"],
        clip=case["clip_param"],
        epochs=case["ppo_epoch"],
        minibatches=case["actor_num_mini_batch"],
        entropy=case["entropy_coef"],
        huber_delta=case["huber_delta"],
        max_grad_norm=case["max_grad_norm"],
        lr=case["lr"],
        critic_lr=case["critic_lr"],
        adam_eps=case["opti_eps"],
        linear_lr_decay=case["use_linear_lr_decay"],
    )


@pytest.mark.parametrize("algorithm", ["mappo", "happo", "hasac"])
def test_untuned_tasks_have_the_nearest_recipe(algorithm: str) -> None:
    nearest = {"ant-2x4": "ant-4x2", "halfcheetah-3x2": "halfcheetah-2x3", "halfcheetah-6x1": "halfcheetah-2x3"}
    nearest |= {"walker2d-3x2": "walker2d-2x3"}
    tuned = {case["task"] for case in HARL["tuned"] if case["algorithm"] == algorithm}
    for task, other in nearest.items():
        if f"mamujoco/{task}" not in tuned:
            ours = build_config(f"mamujoco/{task}", algorithm, "published")
            assert ours == build_config(f"mamujoco/{other}", algorithm, "published").override({"task": ours.task})
