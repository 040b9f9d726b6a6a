"""The ELBO of theorem 2 against its definition and exact likelihoods; the linear-Gaussian study in small."""

from __future__ import annotations

import itertools
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from benchmarks.studies.elbo import default_order, elbo, transition_elbo
from dima.envs.toy import Linear
from dima.world_models.dima.model import DimaWorldModel
from dima.world_models.dima.sampler import noise_schedule

MEAN, STD = torch.tensor([0.3, -0.2]), torch.tensor([0.5, 0.2])
UPDATES = 400


def gaussian(x: Tensor, sigma: Tensor, _: int) -> Tensor:
    """The exact denoiser of N(MEAN, STD^2)."""
    return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)


def schedule(levels: int) -> Tensor:
    return noise_schedule(levels, 0.002, 5.0, 7.0, torch.device("cpu"))


def test_each_term_is_that_of_the_theorem() -> None:
    sigmas, clean = torch.tensor([3.0, 1.0, 0.4, 0.0]), torch.randn(7, 2)
    torch.manual_seed(1)
    bound = elbo(gaussian, clean, sigmas)
    torch.manual_seed(1)
    levels = torch.zeros(7)
    for k, (sigma, below) in enumerate(itertools.pairwise(sigmas)):
        x = clean + sigma * torch.randn(7, 2)
        keep, guess = below**2 / sigma**2, gaussian(x, sigma, k)
        if below == 0:
            reconstruction = Independent(Normal(guess, sigma), 1).log_prob(clean)
            break
        spread = (below**2 * (1 - keep)).sqrt()
        true, model = (Normal(keep * x + (1 - keep) * centre, spread) for centre in (clean, guess))
        levels += kl_divergence(true, model).sum(-1)
    prior = kl_divergence(Normal(clean, sigmas[0]), Normal(torch.zeros(2), sigmas[0])).sum(-1)
    torch.testing.assert_close(bound.reconstruction.float(), reconstruction)
    torch.testing.assert_close(bound.levels.float(), levels)
    torch.testing.assert_close(bound.prior.float(), prior)
    torch.testing.assert_close(bound.total.float(), reconstruction - prior - levels)


def test_with_the_exact_denoiser_it_approaches_the_likelihood_with_more_levels() -> None:
    clean = MEAN + STD * torch.randn(5_000, 2)
    exact = Independent(Normal(MEAN, STD), 1).log_prob(clean)
    gaps = []
    for levels in (10, 40, 160):
        sigmas = schedule(levels)
        found = exact - elbo(gaussian, clean, sigmas).total
        square = sigmas[:-1, None].double() ** 2
        error = (STD**2 * square / (STD**2 + square)).sum(-1)  # expected, in closed form
        kept = error[-1] / square[-1, 0] / 2 + (2 * torch.pi * square[-1, 0]).log()
        lost = ((1 / square[1:, 0] - 1 / square[:-1, 0]) * error[:-1]).sum() / 2
        prior = (MEAN**2 + STD**2).sum() / square[0, 0] / 2
        entropy = Independent(Normal(MEAN, STD), 1).entropy()
        gaps.append(float(kept + lost + prior - entropy))
        assert abs(float(found.mean()) - gaps[-1]) < 5 * float(found.std()) / 5_000**0.5
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.8


def test_a_worse_denoiser_has_a_lower_bound() -> None:
    clean = MEAN + STD * torch.randn(5_000, 2)

    def shifted(x: Tensor, sigma: Tensor, level: int) -> Tensor:
        return gaussian(x, sigma, level) + 0.1 * sigma / (1 + sigma)

    bounds = []
    for denoise in (gaussian, shifted):
        torch.manual_seed(1)  # the same noise for both
        bounds.append(float(elbo(denoise, clean, schedule(40)).total.mean()))
    assert bounds[1] < bounds[0] - 0.05


# -- on a trained model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proof() -> ModuleType:
    """The benchmark's own code."""
    path = Path(__file__).parents[3] / "benchmarks" / "studies" / "linear_gaussian.py"
    spec = spec_from_file_location("linear_gaussian", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(proof: ModuleType) -> dict[str, Any]:
    """A briefly trained model, held-out transitions and the bound before, amid and after training."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = proof.build("exact", Linear())
    tested = proof.transitions(proof.collect(900, 1), 128)
    bounds = []
    for _ in proof.fit(model, proof.collect(6_000, 0), UPDATES, evaluations=2):
        bound = transition_elbo(model, proof.as_context(model, *tested[:2]), tested[2], draws=4)
        bounds.append(float(bound.mean()))
    torch.set_num_threads(threads)
    return {"model": model, "tested": tested, "bounds": bounds}


def test_the_bound_rises_in_training_and_stays_below_the_likelihood(proof: ModuleType, trained) -> None:
    exact = proof.log_likelihood(Linear(), *trained["tested"])
    before, amid, after = trained["bounds"]
    assert before < amid - 1
    assert before + 1 < after < exact


def test_samples_approach_the_closed_form(proof: ModuleType, trained) -> None:
    state, action = (part[:32] for part in trained["tested"][:2])
    found = proof.compare(trained["model"], Linear(), state, action, draws=16)
    untrained = proof.build("exact", Linear())
    untrained.state_scale = trained["model"].state_scale
    start = proof.compare(untrained, Linear(), state, action, draws=2)
    assert found["mean_error"] < 0.2
    assert found["covariance_error"] < 0.5
    assert start["mean_error"] > 3 * found["mean_error"]


@torch.no_grad()
def test_the_reveal_order_has_far_less_influence_than_the_actions(proof: ModuleType, trained) -> None:
    model: DimaWorldModel = trained["model"]
    state, action = (part[:64] for part in trained["tested"][:2])
    draws = 4
    noise = torch.randn(draws * len(state), state.shape[-1])

    def mean(action: Tensor, order: list[int]) -> Tensor:
        context = proof.as_context(model, state.repeat(draws, 1), action.repeat(draws, 1, 1))
        drawn = model.next_state(context, torch.tensor(order).expand(len(noise), -1), noise)
        return drawn.unflatten(0, (draws, -1)).mean(0)

    down, up, other = mean(action, [1, 0]), mean(action, [0, 1]), mean(action.flip(0), [1, 0])
    assert (down - up).abs().mean() < 0.05 * (down - other).abs().mean()


def test_the_bound_is_a_density_in_the_environments_units(proof: ModuleType, trained) -> None:
    """Units ten times smaller divide a density over 4 features by 10^4."""
    model, (state, action, after) = trained["model"], trained["tested"]
    scale = model.state_scale
    torch.manual_seed(0)
    one = transition_elbo(model, proof.as_context(model, state, action), after)
    scale.shift *= 10
    scale.scale *= 10
    torch.manual_seed(0)
    ten = transition_elbo(model, proof.as_context(model, 10 * state, action), 10 * after)
    scale.shift /= 10
    scale.scale /= 10
    torch.testing.assert_close(ten, one - 4 * torch.tensor(10.0).log(), rtol=1e-3, atol=0.05)


@torch.no_grad()
def test_the_bound_of_a_change_is_a_density_of_the_state_it_leads_to(proof: ModuleType, trained) -> None:
    state, action, after = trained["tested"]
    model = trained["model"].config.override({"denoiser": {"target": "change"}}).build(trained["model"].spec).eval()
    model.state_scale, change_std = trained["model"].state_scale, torch.tensor([0.1, 0.5, 1.0, 1.5])
    model.denoiser.change_std.copy_(change_std)
    context = proof.as_context(model, state, action)
    torch.manual_seed(0)
    found = transition_elbo(model, context, after)
    unit = 0.5 / model.state_scale.scale / change_std  # of the change, by sigma_data
    torch.manual_seed(0)
    denoise, sigmas = model.denoising(context, default_order(model, len(state)), model.denoiser)
    expected = elbo(denoise, (after - state) * unit, sigmas).total + unit.double().log().sum()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
