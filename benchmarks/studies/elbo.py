"""Evidence lower bound of a transition under the diffusion model (DIMA theorem 2).

With noise levels s_1 < ... < s_K and D_k the denoiser at level k, which sees the actions revealed there:

    q(x_k | x_0) = N(x_0, s_k^2 I)                                    noising; x_0 is the true next state
    q(x_{k-1} | x_k, x_0) = N(r_k x_k + (1 - r_k) x_0, v_k I)         r_k = s_{k-1}^2 / s_k^2, v_k = s_{k-1}^2 (1 - r_k)
    p(x_{k-1} | x_k, s, a) = N(r_k x_k + (1 - r_k) D_k(x_k), v_k I)   the same with the estimate in x_0's place
    p(x_0 | x_1, s, a) = N(D_1(x_1), s_1^2 I),   p(x_K) = N(0, s_K^2 I)

so that every term of the theorem is closed but for the expectation over x_k, which one draw estimates without bias:

    log p(x_0 | s, a) >= E log N(x_0; D_1(x_1), s_1^2 I) - |x_0|^2 / (2 s_K^2)
                         - sum over k = 2..K of (1 / s_{k-1}^2 - 1 / s_k^2) / 2 * E |x_0 - D_k(x_k)|^2

This bounds the model's own likelihood, whatever the denoiser; averaged over real transitions, that in turn is never
above the true log-likelihood. The noise levels and the reveal masks are the sampler's, so it is the ancestral
(stochastic) twin of the sampler that is measured.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dima.world_models.dima.denoiser import Context
from dima.world_models.dima.model import DimaWorldModel
from dima.world_models.dima.sampler import Denoise, agent_order


class Bound(NamedTuple):
    """The terms of the bound in nats, (B,) each; the bound is ``reconstruction - prior - levels``."""

    reconstruction: Tensor
    prior: Tensor
    levels: Tensor

    @property
    def total(self) -> Tensor:
        return self.reconstruction - self.prior - self.levels


def elbo(denoise: Denoise, clean: Tensor, sigmas: Tensor) -> Bound:
    """One unbiased draw of the bound for each row.

    Args:
        denoise: the estimate of the clean state at a level, level 0 the noisiest.
        clean: (B, S) true next states in the denoiser's scale.
        sigmas: (K + 1,) decreasing noise levels that end in 0.
    """
    size = clean.shape[-1]
    error = torch.stack(
        [  # (K, B), the noisiest first
            (denoise(clean + sigma * torch.randn_like(clean), sigma[None, None], level) - clean).square().sum(-1)
            for level, sigma in enumerate(sigmas[:-1])
        ]
    )
    precision = sigmas[:-1].double().square().reciprocal()
    rise = precision[1:] - precision[:-1]  # of what is known of the clean state, from a level to the next
    reconstruction = -0.5 * (precision[-1] * error[-1] + size * (math.log(2 * math.pi) - precision[-1].log()))
    prior = 0.5 * precision[0] * clean.square().sum(-1)
    return Bound(reconstruction, prior, 0.5 * (rise[:, None] * error[:-1]).sum(0))


@torch.no_grad()
def transition_elbo(model: DimaWorldModel, context: Context, state: Tensor, draws: int = 1) -> Tensor:
    """(B,) lower bound of log p(s' | s, a) as a density in the environment's units.

    Args:
        model: in evaluation mode.
        context: past states and joint actions, scaled, as in a rollout.
        state: (B, S) true next states in the environment's units.
        draws: Monte-Carlo draws to average.
    """
    denoise, sigmas = model.denoising(context, default_order(model, len(state)), model.denoiser)
    clean = model.denoiser.to_target(model.scale_state(state), context.state[:, -1])
    bound = torch.stack([elbo(denoise, clean, sigmas).total for _ in range(draws)]).mean(0)
    unit = model.config.denoiser.sigma_data / model.state_scale.scale.double()  # d(clean) / d(state)
    if model.config.denoiser.target == "change":
        unit = unit / model.denoiser.change_std.double()
    return bound + unit.log().sum()


def default_order(model: DimaWorldModel, batch: int) -> Tensor:
    """(B, N) agents in the order of the model's sampler."""
    return agent_order(model.config.sampler.order, batch, model.spec.n_agents, model.action_valid.device)
