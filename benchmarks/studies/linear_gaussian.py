"""Samples and ELBO against closed forms on a linear-Gaussian environment.

On ``toy/linear`` the next state is Gaussian with known mean and covariance. A small denoiser is trained on random play,
then its samples are compared with the closed form, and the bound of DIMA's theorem 2 with the exact log-likelihood:

    python benchmarks/studies/linear_gaussian.py --out results/linear_gaussian

Two settings are trained: ``exact`` (cumulative reveal, no noise floor, levels after the last reveal, Heun), which
should meet the closed form, and ``published`` (one agent per level, noise floor 0.3, Euler, 2 levels per agent), which
cannot.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.studies.elbo import default_order, transition_elbo
from dima.data import Episode, View
from dima.envs import make_env
from dima.envs.toy import Linear
from dima.envs.vector import VectorEnv
from dima.experience.episodes import play
from dima.experience.replay import Replay, ReplayConfig
from dima.nn.optim import Fitter
from dima.world_models.dima.denoiser import Context
from dima.world_models.dima.model import DimaModelConfig, DimaWorldModel

SMALL: dict[str, Any] = {  # sizes of both
    "denoiser": {
        "context": 1,
        "rollout": 1,
        "condition_dim": 32,
        "channels": [128],
        "blocks": 1,
        "encoder": {"token_dim": 16, "latents": 2, "latent_dim": 16, "depth": 1, "heads": 2, "head_dim": 8},
    },
    "decoder": {"bottleneck": "none", "hidden": [8]},
    "reward": {"dim": 8, "layers": 1, "heads": 1, "action_layers": 0, "action_heads": 1},
    "denoiser_fit": {"batch": 256, "lr": 3e-3, "max_grad_norm": 1.0},
}
FORMS: dict[str, dict[str, Any]] = {
    # the sampler starts at N(0, sigma_max^2), not at the data plus noise: a high start makes that difference vanish
    "exact": {
        "denoiser": {
            "reveal": "cumulative",
            "action_path": "condition+input",
            "target": "change",
            "sigma_offset": 0.0,
            "log_sigma_mean": -1.0,
            "log_sigma_std": 1.4,
        },
        "sampler": {
            "levels_per_agent": 1,
            "tail_levels": 26,
            "sigma_max": 20.0,
            "sigma_min": 0.03,
            "solver": "heun",
        },
    },
    "published": {},
}


def build(form: str, world: Linear) -> DimaWorldModel:
    """An untrained model of one of the ``FORMS``."""
    return DimaModelConfig().override(SMALL).override(FORMS[form]).build(make_env("toy/linear").spec).eval()


def collect(steps: int, seed: int) -> list[Episode]:
    """Episodes of uniformly random actions."""
    draw = torch.Generator().manual_seed(seed)
    envs = VectorEnv(partial(make_env, "toy/linear"), 10)

    def act(view: View) -> tuple[Tensor, Tensor]:
        action = 2 * torch.rand(view.previous_action.shape, generator=draw) - 1
        return action, torch.zeros(action.shape[:2])

    episodes = -(-steps // (envs.spec.episode_limit or 1))
    played = play(envs, act, [seed * 1_000_003 + n for n in range(episodes)])
    envs.close()
    return played


def fit(model: DimaWorldModel, episodes: list[Episode], updates: int, evaluations: int) -> Iterator[int]:
    """Train the denoiser with a cosine learning rate; yields at the evaluations, denser at first."""
    replay = Replay(ReplayConfig(capacity=10**6, recent_share=0.25), model.spec, "cpu", model.visit_counters)
    for episode in episodes:
        replay.add(episode)
    model.update_statistics(episodes)
    objective = model.objectives()["denoiser"]
    fitter = Fitter(model.denoiser, objective.fit)
    pauses = {updates * k**2 // evaluations**2 for k in range(evaluations)}
    for n in range(updates):
        if n in pauses:
            yield n
        fitter.optimizer.param_groups[0]["lr"] = fitter.config.lr * 0.5 * (1 + np.cos(np.pi * n / updates))
        model.train()
        fitter.step(objective.loss(objective.sample(replay))[0])
        model.eval()
    yield updates


def transitions(episodes: list[Episode], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """``count`` evenly spread real transitions: (count, S) state, (count, N, A) action, (count, S) next state."""
    state = torch.cat([e.state[:-1] for e in episodes])
    action = torch.cat([e.action for e in episodes])
    after = torch.cat([e.state[1:] for e in episodes])
    which = torch.linspace(0, len(state) - 1, count).long()
    return state[which], action[which], after[which]


def as_context(model: DimaWorldModel, state: Tensor, action: Tensor) -> Context:
    """The denoiser's context of single transitions."""
    return Context(model.scale_state(state)[:, None], action[:, None], torch.ones(len(state), 1, dtype=torch.bool))


@torch.no_grad()
def compare(model: DimaWorldModel, world: Linear, state: Tensor, action: Tensor, draws: int) -> dict[str, float]:
    """Conditional mean and covariance of samples against the closed form.

    Each transition is drawn with ``draws`` pairs of opposite noises, which makes the mean of a (nearly) linear sampler
    (nearly) free of Monte-Carlo error.

    Returns:
        Root mean square error of the conditional mean relative to the standard deviation of a step (``mean_error``) and
        to that of its noise alone (``mean_error_of_noise``); relative Frobenius error of the average conditional
        covariance (``covariance_error``).
    """
    pairs = torch.randn(draws, len(state), state.shape[-1])
    noise = torch.cat([pairs, -pairs])
    repeated = as_context(model, state.repeat(2 * draws, 1), action.repeat(2 * draws, 1, 1))
    order = default_order(model, len(repeated.state))
    scaled = model.next_state(repeated, order, noise.flatten(0, 1)) / model.config.denoiser.sigma_data
    drawn = model.state_scale.denormalize(scaled).double().unflatten(0, (2 * draws, -1))
    mean = drawn.mean(0)
    centred = (drawn - mean).flatten(0, 1)
    covariance = centred.T @ centred / (len(centred) - len(state))
    exact_mean = torch.from_numpy(world.mean(state.double().numpy(), action.double().numpy()))
    exact = torch.from_numpy(world.noise_cov)
    error = (mean - exact_mean).square().sum(-1).mean().sqrt()
    step = (exact_mean - state).square().sum(-1).mean() + exact.trace()
    return {
        "mean_error": float(error / step.sqrt()),
        "mean_error_of_noise": float(error / exact.trace().sqrt()),
        "covariance_error": float((covariance - exact).norm() / exact.norm()),
    }


def log_likelihood(world: Linear, state: Tensor, action: Tensor, after: Tensor) -> float:
    """Mean exact log p(s' | s, a) in nats."""
    mean = torch.from_numpy(world.mean(state.double().numpy(), action.double().numpy()))
    exact = torch.distributions.MultivariateNormal(mean, torch.from_numpy(world.noise_cov))
    return float(exact.log_prob(after.double()).mean())


def run(form: str, *, steps: int, updates: int, evaluations: int, draws: int, seed: int) -> dict[str, Any]:
    """Train one of the ``FORMS``, with evaluations along the way."""
    torch.manual_seed(seed)
    world, began = Linear(), time.perf_counter()
    model = build(form, world)
    tested = transitions(collect(1_500, seed + 1), 256)
    exact = log_likelihood(world, *tested)
    curve = []
    for n in fit(model, collect(steps, seed), updates, evaluations):
        with torch.random.fork_rng():  # the same noise every time
            torch.manual_seed(seed)
            bound = transition_elbo(model, as_context(model, *tested[:2]), tested[2], draws=16).mean()
        curve.append({"update": n, "elbo": float(bound)})
        print(f"{form:>9} update {n:>6}  ELBO {float(bound):9.3f} nats (exact log-likelihood {exact:.3f})", flush=True)
    result = compare(model, world, tested[0][:64], tested[1][:64], draws)
    print(f"{form:>9} " + "  ".join(f"{name} {100 * value:.1f} %" for name, value in result.items()), flush=True)
    return result | {"log_likelihood": exact, "elbo": curve, "seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--out", type=Path, help="folder for a JSON file of each form")
    parser.add_argument("--steps", type=int, default=400_000, help="environment steps of random play")
    parser.add_argument("--updates", type=int, default=6_000, help="gradient steps")
    parser.add_argument("--evaluations", type=int, default=5, help="points of the ELBO's curve")
    parser.add_argument("--draws", type=int, default=96, help="pairs of samples per tested transition")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    out, forms = options.pop("out"), options.pop("forms")
    for form in forms:
        result = {"command": " ".join(["python", *sys.argv]), "options": options} | run(form, **options)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{form}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
