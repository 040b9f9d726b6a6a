"""The preset ``published`` on SMAX has HARL's settings for SMAC, tuned_configs/smac and smacv2 at d539bad."""

from __future__ import annotations

import pytest

from dima.envs.smax import MAPS
from dima.training.run_config import build_config

# million steps, clip, gamma, epochs, minibatches, hidden
HAPPO = {
    "3s5z": (20, 0.2, 0.99, 5, 1, (64, 64, 64)),
    "25m": (20, 0.2, 0.99, 5, 1, (64, 64, 64)),
    "5m_vs_6m": (20, 0.05, 0.95, 5, 1, (64, 64, 64)),
    "10m_vs_11m": (20, 0.05, 0.95, 5, 1, (64, 64, 64)),
    "27m_vs_30m": (20, 0.05, 0.95, 5, 1, (64, 64, 64)),
    "3s5z_vs_3s6z": (20, 0.1, 0.95, 5, 2, (64, 64, 64)),
    "6h_vs_8z": (40, 0.05, 0.95, 10, 2, (64, 64, 64)),
    "smacv2_5_units": (10, 0.05, 0.99, 5, 1, (64,)),
    "smacv2_10_units": (20, 0.05, 0.99, 5, 1, (64,)),
}
# million steps, gamma, n-step
HASAC = {
    "3s5z": (10, 0.99, 20),
    "5m_vs_6m": (10, 0.95, 20),
    "10m_vs_11m": (10, 0.95, 20),
    "3s5z_vs_3s6z": (20, 0.99, 10),
    "6h_vs_8z": (40, 0.99, 5),
}


@pytest.mark.parametrize("algorithm", ["mappo", "happo"])
@pytest.mark.parametrize("name", HAPPO)
def test_happo(algorithm, name):
    config = build_config(f"smax/{name}", algorithm, "published")
    ppo = config.learner.ppo
    assert ppo.actor.hidden == ppo.critic.hidden
    found = (config.steps / 1e6, ppo.clip, ppo.gamma, ppo.epochs, ppo.minibatches, ppo.actor.hidden)
    assert found == HAPPO[name]
    assert (config.envs, config.learner.rollout, config.evaluation_episodes) == (20, 160, 40)
    assert config.evaluate_every == 25 * 20 * 160
    assert (ppo.entropy, ppo.lr, ppo.critic_lr, ppo.lam, ppo.max_grad_norm) == (0.01, 5e-4, 5e-4, 0.95, 10.0)
    assert ppo.critic.input_norm


@pytest.mark.parametrize("name", HASAC)
def test_hasac(name):
    config = build_config(f"smax/{name}", "hasac", "published")
    learner = config.learner
    assert (config.steps / 1e6, learner.gamma, learner.n_step) == HASAC[name]
    assert (config.envs, learner.batch, learner.capacity, learner.warmup) == (20, 1_000, 1_000_000, 10_000)
    assert (learner.lr, learner.critic_lr, learner.alpha, learner.alpha_lr) == (3e-4, 5e-4, None, 3e-4)
    assert (learner.hidden, learner.interval, learner.updates) == ((256, 256), 50, 1.0)


@pytest.mark.parametrize("algorithm", ["mappo", "happo", "hasac"])
def test_other_maps_have_the_recipe_of_3s5z(algorithm):
    tuned = {*HAPPO, *HASAC, "smacv2_20_units"}
    for name in MAPS.keys() - tuned:
        ours = build_config(f"smax/{name}", algorithm, "published")
        assert ours == build_config("smax/3s5z", algorithm, "published").override({"task": ours.task})
