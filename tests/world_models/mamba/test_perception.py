"""What the policy sees of real episodes: the latents that the world model filters."""

from __future__ import annotations

import torch

from dima.data import EnvSpec, View
from dima.experience.replay import Replay
from dima.policies.base import PerceivingPolicy
from dima.world_models.mamba.model import MambaWorldModel


def views(model: MambaWorldModel, episode, steps: int) -> list[View]:
    """Of one episode, as they come while it is played."""
    nothing = torch.zeros_like(episode.action[:1])
    return [
        View(
            episode.obs[t : t + 1],
            episode.state[t : t + 1],
            episode.action_mask[t : t + 1],
            episode.action[t - 1 : t] if t else nothing,
            torch.tensor([t == 0]),
        )
        for t in range(steps)
    ]


def seen(model: MambaWorldModel, shown: list[View], mode: bool = True) -> torch.Tensor:
    """(T, N, F) features."""
    memory, features = None, []
    for view in shown:
        perceived, memory = model.perception(view, memory, mode)
        features.append(perceived.obs[0])
    return torch.stack(features)


@torch.no_grad()
def test_an_episode_is_perceived_as_the_world_model_filters_it(build, episodes, any_spec: EnvSpec) -> None:
    model, (episode,) = build(any_spec, normalize_obs=True, window=9), episodes(any_spec, (12,))
    model.update_statistics([episode])
    rows = Replay.of([episode], any_spec, "cpu").gather(torch.tensor([5]), model.context - 1, 0)
    torch.manual_seed(2)
    latent = model.start(rows)
    torch.manual_seed(2)
    model.start(rows)  # draws for rows before the episode, too: only what does not depend on draws is compared
    perceived = seen(model, views(model, episode, 6))
    assert perceived.shape == (6, any_spec.n_agents, model.policy_spec.obs_dim)

    greedy = model.dynamics.filter
    z, h = torch.zeros(1, any_spec.n_agents, 12), torch.zeros(1, any_spec.n_agents, 8)
    obs = model._normalize_obs(episode.obs)
    for t in range(6):
        action = episode.action[t - 1 : t] if t else torch.zeros_like(episode.action[:1])
        h = greedy.transition(action, z, h)
        logits = greedy.posterior_logits(h, greedy.encoder(obs[t : t + 1]))
        z = torch.nn.functional.one_hot(logits.argmax(-1), 3).float().flatten(-2)
        torch.testing.assert_close(perceived[t], torch.cat([z, h], dim=-1)[0])
    assert torch.equal(latent.action_mask[0], episode.action_mask[5])


@torch.no_grad()
def test_a_start_in_the_first_steps_of_an_episode_knows_all_of_it(build, episodes, spec: EnvSpec) -> None:
    """With one class likely everywhere, draws do not matter, and both ways lead to one latent."""
    model, (episode,) = build(spec, window=9), episodes(spec, (12,))
    model.dynamics.filter.posterior[-1].weight.mul_(1000)
    perceived = seen(model, views(model, episode, 6), mode=False)
    latent = model.start(Replay.of([episode], spec, "cpu").gather(torch.tensor([5]), model.context - 1, 0))
    torch.testing.assert_close(perceived[-1], model.policy_view(latent).obs[0])
    assert torch.equal(model.policy_view(latent).previous_action[0], episode.action[4])


@torch.no_grad()
def test_memory_ends_with_the_episode_of_its_environment(build, episodes, spec: EnvSpec) -> None:
    model = build(spec)
    first, second = episodes(spec, (12, 12))
    alone = seen(model, views(model, second, 4))
    memory = None
    for one in views(model, first, 3):  # two environments play the same
        both = View(*(torch.cat([value, value]) for value in vars(one).values()))
        _, memory = model.perception(both, memory, True)
    for t, (going_on, fresh) in enumerate(zip(views(model, first, 7)[3:], views(model, second, 4), strict=True)):
        both = View(*(torch.cat(pair) for pair in zip(vars(going_on).values(), vars(fresh).values(), strict=True)))
        perceived, memory = model.perception(both, memory, True)
        torch.testing.assert_close(perceived.obs[1], alone[t])
    torch.testing.assert_close(perceived.obs[0], seen(model, views(model, first, 7))[-1])


@torch.no_grad()
def test_the_policys_mode_draws_nothing(build, episodes, spec: EnvSpec) -> None:
    model, (episode,) = build(spec), episodes(spec, (12,))
    before = torch.get_rng_state()
    one = seen(model, views(model, episode, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, seen(model, views(model, episode, 5)))
    assert not torch.equal(one, seen(model, views(model, episode, 5), mode=False))


def test_a_policy_holds_no_more_than_it_needs_to_act(build, spec: EnvSpec) -> None:
    model = build(spec)
    names = PerceivingPolicy(model.perception, torch.nn.Identity()).state_dict()  # type: ignore[arg-type]
    assert {name.split(".")[2] for name in names} == {"encoder", "transition", "posterior"}
