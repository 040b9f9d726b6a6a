"""Each optimisation on and off in the same run: what it alone is worth, all others on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.cost import interleaved, ratio
from benchmarks.learners import build
from benchmarks.plain.denoiser import PlainDenoiser
from benchmarks.plain.layers import PlainAttention
from benchmarks.plain.model import PlainFitter
from benchmarks.plain.reward import PlainReward
from benchmarks.plain.unet import PlainUNet
from benchmarks.units import learning_units
from dima.algorithms.model_based import ModelBased
from dima.attention import Attention
from dima.optim import Fitter
from dima.run_config import TrainConfig
from dima.world_models.dima.denoiser import Context
from dima.world_models.dima.model import DimaWorldModel


@dataclass(frozen=True)
class Switch:
    """An optimisation, the parts of a round it serves, and how to do without it."""

    name: str
    parts: tuple[str, ...]
    off: Callable[[ModelBased], None]  # takes it out of a learner


def _model(learner: ModelBased) -> DimaWorldModel:
    assert isinstance(learner.world_model, DimaWorldModel)
    return learner.world_model


def _renew(model: DimaWorldModel, *parts: str) -> None:
    """Optimisers for what the parts are made of now."""
    for part in parts:
        model.fitters[part] = Fitter(getattr(model, part), model.fitters[part].config)


def _perceiver_at_every_level(learner: ModelBased) -> None:
    model = _model(learner)
    spelt = PlainDenoiser(model.denoiser)
    spelt.encoder, spelt.condition, spelt.net = model.denoiser.encoder, model.denoiser.condition, model.denoiser.net  # type: ignore[assignment]

    def next_state(context: Context, noise: Tensor | None = None, order: Tensor | None = None) -> Tensor:
        start = torch.randn_like(context.state[:, -1])
        return spelt.sample(model.config.sampler, start, context.state, context.action, context.valid)

    model.__dict__["next_state"] = next_state
    model.denoiser.__dict__["loss"] = spelt.loss


def _attention_spelt_out(learner: ModelBased) -> None:
    model = _model(learner)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Attention):
                setattr(module, name, _spelt(child))
    _renew(model, "denoiser", "reward")


def _spelt(attention: Attention) -> PlainAttention:
    context = None if attention.context_norm is None else attention.context_norm.normalized_shape[0]
    dim, head_dim = attention.norm.normalized_shape[0], attention.query.out_features // attention.heads
    spelt = PlainAttention(dim, attention.heads, head_dim, context, attention.dropout)
    spelt.load_state_dict(attention.state_dict())
    return spelt.to(attention.query.weight.device).train(attention.training)


def _convolutions(learner: ModelBased) -> None:
    denoiser = _model(learner).denoiser
    config, spec = denoiser.config, denoiser.spec
    extra = spec.n_agents * (spec.action_dim + 1) if denoiser.direct else 0
    net = PlainUNet(spec.state_dim + extra, spec.state_dim, config.condition_dim, config.channels, config.blocks)
    net.take(denoiser.net.state_dict())
    denoiser.net = net.to(denoiser.change.device)  # type: ignore[assignment]
    _renew(_model(learner), "denoiser")


def _growing_cache(learner: ModelBased) -> None:
    reward = _model(learner).reward
    spelt = PlainReward(reward).to(reward.position.device).eval()
    reward.__dict__["start"] = lambda *_: spelt.start()
    reward.__dict__["step"] = spelt.step


def _default_optimisers(learner: ModelBased) -> None:
    model: Any = _model(learner)
    for part, fitter in model.fitters.items():
        model.fitters[part] = PlainFitter(getattr(model, part), fitter.config)
    ppo = learner.ppo
    for network, name in ((ppo.actor, "actor_optimizer"), (ppo.critic, "critic_optimizer")):
        lr = getattr(ppo, name).param_groups[0]["lr"]
        setattr(ppo, name, torch.optim.Adam(network.parameters(), lr=lr, eps=ppo.config.adam_eps))


UPDATES = ("denoiser update", "reward update")
DREAMS = ("imagination", "denoiser update")
SWITCHES = (
    Switch("one condition call for all levels or targets", DREAMS, _perceiver_at_every_level),
    Switch("scaled_dot_product_attention", ("imagination", *UPDATES), _attention_spelt_out),
    Switch("convolutions and norms over time as products", DREAMS, _convolutions),
    Switch("cache of fixed size", ("imagination",), _growing_cache),
    Switch("fused optimisers", ("decoder update", *UPDATES, "policy update"), _default_optimisers),
)


def switched(config: TrainConfig, device: torch.device, repeats: int, share: float) -> dict[str, Any]:
    """For every optimisation and part: seconds with and without it, interleaved, and their ratio."""
    found: dict[str, Any] = {}
    for switch in SWITCHES:
        sides = {}
        for side in ("on", "off"):
            torch.manual_seed(config.seed)
            learner = build(config, str(device))
            if side == "off":
                switch.off(learner)
            sides[side] = learning_units(learner, share)
        for part in switch.parts:
            for units in sides.values():
                for prepare in (units[part].before, units[part].call):
                    if prepare is not None:
                        prepare()
            seconds = interleaved({side: units[part].call for side, units in sides.items()}, repeats, device)
            told = {"seconds": seconds, "ratio": ratio(seconds["off"], seconds["on"])}
            found.setdefault(switch.name, {})[part] = told
    return found
