"""Time each optimisation on and off, all others on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.learners import build
from benchmarks.speed.plain.layers import PlainAttention
from benchmarks.speed.plain.model import PlainFitter
from benchmarks.speed.timing import Timing, ratio
from benchmarks.speed.units import learning_units
from dima.algorithms.model_based import ModelBased
from dima.algorithms.ppo import ADAM_EPS
from dima.nn.attention import Attention
from dima.nn.optim import Fitter
from dima.training.run_config import TrainConfig
from dima.world_models.dima.action_encoder import ActionEncoder
from dima.world_models.dima.denoiser import Context, Denoiser
from dima.world_models.dima.model import DimaWorldModel
from dima.world_models.dima.sampler import Denoise, noise_schedule, reveal_masks
from dima.world_models.dima.unet import TemporalUNet


@dataclass(frozen=True)
class Switch:
    """An optimisation, the parts of an iteration it affects, and how to remove it."""

    name: str
    parts: tuple[str, ...]
    off: Callable[[ModelBased], None]


def _model(learner: ModelBased) -> DimaWorldModel:
    assert isinstance(learner.world_model, DimaWorldModel)
    return learner.world_model


def _renew_optimisers(learner: ModelBased, *parts: str) -> None:
    """Optimisers for modules whose weights were replaced."""
    for part in parts:
        fitters = learner.fitter.fitters
        fitters[part] = Fitter(_model(learner).get_submodule(part), fitters[part].config)


def _condition_at_every_level(learner: ModelBased) -> None:
    model = _model(learner)
    config = model.config.sampler

    def denoising(context: Context, order: Tensor, denoiser: Denoiser) -> tuple[Denoise, Tensor]:
        net = denoiser.net.prepare()
        masks = reveal_masks(order, denoiser.config.reveal, denoiser.config.group_size)
        groups = denoiser.config.reveal_groups(model.spec.n_agents)

        def denoise(x: Tensor, sigma: Tensor, level: int) -> Tensor:
            mask = masks[min(config.group_index(level, groups), len(masks) - 1)]
            encoded = denoiser.encode_actions(context.action, context.valid, mask)
            return denoiser.denoise(x, sigma, context, mask, encoded, net)

        device = context.state.device
        sigmas = noise_schedule(config.levels(groups), config.sigma_min, config.sigma_max, config.rho, device)
        return denoise, sigmas

    model.__dict__["denoising"] = denoising


def _plain_attention(learner: ModelBased) -> None:
    for module in list(_model(learner).modules()):
        for name, child in module.named_children():
            if isinstance(child, Attention):
                setattr(module, name, _as_products(child))
    _renew_optimisers(learner, *_model(learner).denoisers, "reward")


def _as_products(attention: Attention) -> PlainAttention:
    context = None if attention.context_norm is None else attention.context_norm.normalized_shape[0]
    dim, head_dim = attention.norm.normalized_shape[0], attention.query.out_features // attention.heads
    products = PlainAttention(dim, attention.heads, head_dim, context, attention.dropout)
    products.load_state_dict(attention.state_dict())
    return products.to(attention.query.weight.device).train(attention.training)


def _plain_unet(learner: ModelBased) -> None:
    for denoiser in _model(learner).denoisers.values():
        denoiser.net.__class__ = TemporalUNet  # with the same weights


def _plain_perceiver(learner: ModelBased) -> None:
    for denoiser in _model(learner).denoisers.values():
        denoiser.encoder.__class__ = ActionEncoder


def _step_by_step(learner: ModelBased) -> None:
    class StepByStep(DimaWorldModel):
        batched_rewards = False

    _model(learner).__class__ = StepByStep


def _default_optimisers(learner: ModelBased) -> None:
    fitters: Any = learner.fitter.fitters
    for part, fitter in fitters.items():
        fitters[part] = PlainFitter(_model(learner).get_submodule(part), fitter.config)
    ppo = learner.ppo
    for network, name in ((ppo.actor, "actor_optimizer"), (ppo.critic, "critic_optimizer")):
        lr = getattr(ppo, name).param_groups[0]["lr"]
        setattr(ppo, name, torch.optim.Adam(network.parameters(), lr=lr, eps=ADAM_EPS))


UPDATES = ("denoiser update", "reward update")
SWITCHES = (
    Switch("one condition call for all levels", ("imagination",), _condition_at_every_level),
    Switch("scaled_dot_product_attention", ("imagination", *UPDATES), _plain_attention),
    Switch("fused U-Net", ("imagination", "denoiser update"), _plain_unet),
    Switch("fused Perceiver", ("imagination", "denoiser update"), _plain_perceiver),
    Switch("batched rewards", ("imagination",), _step_by_step),
    Switch("fused optimisers", ("decoder update", *UPDATES, "policy update"), _default_optimisers),
)


def switched(config: TrainConfig, timing: Timing) -> dict[str, Any]:
    """For every optimisation and part: seconds with and without it, interleaved, and their ratio."""
    found: dict[str, Any] = {}
    for switch in SWITCHES:
        sides = {}
        for side in ("on", "off"):
            torch.manual_seed(config.seed)
            learner = build(config, str(timing.device))
            if side == "off":
                switch.off(learner)
            sides[side] = learning_units(learner, timing.share)
        for part in switch.parts:
            for units in sides.values():
                for prepare in (units[part].before, units[part].call):
                    if prepare is not None:
                        prepare()
            seconds = timing.each({side: units[part].call for side, units in sides.items()})
            result = {"seconds": seconds, "ratio": ratio(seconds["off"], seconds["on"])}
            found.setdefault(switch.name, {})[part] = result
    return found
