"""PPO actors, and properties shared with critics."""

from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from dima.data import EnvSpec
from dima.policies.actors import Actor, ActorConfig, SeparateActors, TeamActor
from dima.policies.critics import Critic, CriticConfig
from dima.policies.distributions import Beta, Categorical, Gaussian
from dima.policies.soft_actors import SoftActors

EVEN = EnvSpec(("a", "b"), state_dim=6, obs_sizes=(5, 5), action_sizes=(3, 3), discrete=False)
UNEVEN = EnvSpec(("a", "b", "c"), state_dim=6, obs_sizes=(5, 3, 4), action_sizes=(2, 4, 1), discrete=False)
CHOICES = EnvSpec(("a", "b", "c"), state_dim=6, obs_sizes=(5, 3, 4), action_sizes=(2, 4, 3), discrete=True)
M = TypeVar("M", bound=nn.Module)
KINDS = [
    (UNEVEN, ActorConfig(hidden=(16, 16), normalize_obs=True)),
    (UNEVEN, ActorConfig(hidden=(16, 16), distribution="beta")),
    (CHOICES, ActorConfig(hidden=(16, 16))),
]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def inputs(spec: EnvSpec, batch: int = 8) -> tuple[Tensor, Tensor]:
    obs = torch.randn(batch, spec.n_agents, spec.obs_dim) * torch.from_numpy(spec.obs_valid)
    return obs, torch.from_numpy(spec.action_valid).expand(batch, -1, -1)


def shaken(module: M) -> M:
    """Large random weights, so that every path matters."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


@pytest.mark.parametrize(("spec", "config"), KINDS)
def test_actor_shapes(spec: EnvSpec, config: ActorConfig) -> None:
    obs, mask = inputs(spec)
    policy = Actor(config, spec)(obs, mask)
    action = policy.sample()
    assert action.shape == policy.mode().shape == (8, spec.n_agents, spec.action_dim)
    assert policy.log_prob(action).shape == policy.entropy().shape == (8, spec.n_agents)
    assert not action.requires_grad and not policy.mode().requires_grad
    assert policy.log_prob(action).requires_grad and policy.entropy().requires_grad


def test_initial_standard_deviation() -> None:
    policy = Actor(ActorConfig(), EVEN)(*inputs(EVEN))
    assert isinstance(policy, Gaussian)
    torch.testing.assert_close(policy.std, torch.full((3,), 0.3655293))
    torch.testing.assert_close(policy.entropy(), torch.full((8, 2), 3 * 0.412530))
    assert policy.mode().abs().max() < 0.1


def test_standard_deviation_is_bounded() -> None:
    actor = Actor(ActorConfig(), EVEN)
    nn.init.constant_(actor.log_std, 50.0)
    policy = actor(*inputs(EVEN))
    assert isinstance(policy, Gaussian) and policy.std.max() <= 0.5


def test_initial_weights() -> None:
    for net, head in ((Actor(ActorConfig(), EVEN).net, 0.01), (Critic(CriticConfig(), EVEN).net, 1.0)):
        linears = [layer for layer in net if isinstance(layer, nn.Linear)]
        for layer in linears[:-1]:
            w = layer.weight
            gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
            torch.testing.assert_close(gram, 2 * torch.eye(len(gram)), atol=1e-4, rtol=0)
        last = linears[-1].weight
        torch.testing.assert_close(last @ last.T, head**2 * torch.eye(len(last)), atol=1e-5 * head**2, rtol=0)
        assert not any(layer.bias.any() for layer in linears)


@pytest.mark.parametrize(("spec", "config"), KINDS)
def test_padding_has_no_effect(spec: EnvSpec, config: ActorConfig) -> None:
    actor = shaken(Actor(config, spec))
    obs, mask = inputs(spec)
    if actor.obs_scale is not None:
        actor.obs_scale.update(3 * obs + 1)
    policy = actor(obs, mask)
    action = policy.sample()
    real = torch.from_numpy(spec.action_valid)
    assert not action[:, ~real].any() and not policy.mode()[:, ~real].any()
    noisy_obs = torch.where(torch.from_numpy(spec.obs_valid), obs, 7.0)
    noisy = actor(noisy_obs, torch.ones_like(mask))
    noisy_action = torch.where(real, action, 7.0)
    torch.testing.assert_close(noisy.mode(), policy.mode())
    torch.testing.assert_close(noisy.entropy(), policy.entropy())
    torch.testing.assert_close(noisy.log_prob(noisy_action), policy.log_prob(action))


@pytest.mark.parametrize("kind", [Actor, SeparateActors, SoftActors])
def test_normalised_observations_have_no_unit(kind: type[Actor | SeparateActors | SoftActors]) -> None:
    unit, offset = torch.tensor([1, 1e-4, 1e4, 1, 0]), torch.tensor([0, 0, 0, 1e5, 100])
    (raw, mask), real = inputs(UNEVEN, 200), torch.from_numpy(UNEVEN.obs_valid)
    raw[..., 4] = raw[0, 0, 4] = 1.0
    actions = []
    for obs in (raw, (unit * raw + offset) * real):
        torch.manual_seed(1)
        team = SoftActors((16,), UNEVEN, True) if kind is SoftActors else kind(KINDS[0][1], UNEVEN)
        shaken(team).update_statistics(obs)
        actions.append(team(obs, mask).mode() if isinstance(team, TeamActor) else team.mode(obs, mask))
    torch.testing.assert_close(*actions, atol=0.05, rtol=0)  # 0.008: float32 at 1e5


@pytest.mark.parametrize(("spec", "config"), KINDS)
def test_padding_adds_nothing_to_density_and_entropy(spec: EnvSpec, config: ActorConfig) -> None:
    """Each agent's density and entropy are those of its real entries alone."""
    policy = shaken(Actor(config, spec))(*inputs(spec))
    action = policy.sample()
    for agent, size in enumerate(spec.action_sizes):
        part = (slice(None), slice(agent, agent + 1), slice(0, size))
        alone: Gaussian | Beta | Categorical
        if isinstance(policy, Gaussian):
            alone = Gaussian(policy.mean[part], policy.std[:size], torch.ones(1, size))
        elif isinstance(policy, Beta):
            alone = Beta(policy.alpha[part], policy.beta[part], torch.ones(1, size))
        else:
            alone = Categorical(policy.log_probs[part], torch.ones(1, size, dtype=torch.bool), torch.ones(1, size))
        torch.testing.assert_close(policy.log_prob(action)[:, [agent]], alone.log_prob(action[part]))
        torch.testing.assert_close(policy.entropy()[:, [agent]], alone.entropy())


def test_action_mask_rules_out_choices() -> None:
    obs, mask = inputs(CHOICES, 500)
    mask = mask.clone()
    mask[:, 1, :3] = False
    action = shaken(Actor(ActorConfig(hidden=(16,)), CHOICES))(obs, mask).sample()
    assert (action[:, 1, 3] == 1).all() and not action[~mask].any()


@pytest.mark.parametrize(
    ("choice", "has_id", "distinct"),
    [("auto", False, True), ("auto", True, False), ("always", True, True), ("never", False, False)],
)
def test_agent_id(choice: str, has_id: bool, distinct: bool) -> None:
    spec = EnvSpec(("a", "b"), 6, (5, 5), (3, 3), discrete=False, obs_has_id=has_id)
    actor = shaken(Actor(ActorConfig(hidden=(16,)).override({"agent_id": choice}), spec))
    obs, mask = inputs(spec)
    mode = actor(obs[:, :1].expand_as(obs), mask).mode()
    assert torch.equal(mode[:, 0], mode[:, 1]) != distinct


def test_agents_act_on_their_own_observation() -> None:
    actor = shaken(Actor(ActorConfig(), EVEN))
    obs, mask = inputs(EVEN)
    other = obs.clone()
    other[:, 1] += 1 + torch.rand(5)
    before, after = actor(obs, mask).mode(), actor(other, mask).mode()
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert not torch.allclose(after[:, 1], before[:, 1])


def test_without_a_norm_of_the_input_two_features_keep_their_size() -> None:
    spec, mask = EnvSpec(("a",), 2, (2,), (1,), discrete=False), torch.ones(2, 1, 1, dtype=torch.bool)
    obs = torch.tensor([[[-3.0, 1.0]], [[-1.0, 1.0]]])
    means = [Actor(ActorConfig(input_norm=norm), spec)(obs, mask).mode() for norm in (True, False)]
    assert torch.allclose(means[0][0], means[0][1], atol=1e-6)
    assert not torch.allclose(means[1][0], means[1][1], atol=1e-6)


def test_running_normaliser_of_observations() -> None:
    config = ActorConfig(hidden=(16,), normalize_obs=True, agent_id="never")
    plain = shaken(Actor(config.override({"normalize_obs": False}), EVEN))
    actor = Actor(config, EVEN)
    actor.load_state_dict(plain.state_dict(), strict=False)
    obs, mask = inputs(EVEN, 64)
    assert actor.obs_scale is not None
    actor.obs_scale.update(obs)
    scaled = (obs - obs.mean(0)) / obs.std(0, correction=0)
    torch.testing.assert_close(actor(obs, mask).mode(), plain(scaled, mask).mode(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("spec", "config"), KINDS)
def test_a_batch_equals_its_parts(spec: EnvSpec, config: ActorConfig) -> None:
    actor, critic = shaken(Actor(config, spec)), shaken(Critic(CriticConfig(hidden=(16,)), spec))
    obs, mask = inputs(spec)
    whole = actor(obs, mask)
    action, state = whole.sample(), torch.randn(8, 6)
    halves = [actor(o, m) for o, m in zip(obs.split(4), mask.split(4), strict=True)]
    torch.testing.assert_close(torch.cat([part.mode() for part in halves]), whole.mode())
    log_probs = [part.log_prob(a) for part, a in zip(halves, action.split(4), strict=True)]
    torch.testing.assert_close(torch.cat(log_probs), whole.log_prob(action))
    values = [critic(s, a) for s, a in zip(state.split(4), action.split(4), strict=True)]
    torch.testing.assert_close(torch.cat(values), critic(state, action))
    grid = actor(obs.unflatten(0, (2, 4)), mask.unflatten(0, (2, 4))).mode()
    torch.testing.assert_close(grid.flatten(0, 1), whole.mode())
