"""Each optimisation on and off in the same run: what it alone is worth, all others on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.learners import build
from benchmarks.speed.plain.layers import PlainAttention
from benchmarks.speed.plain.model import PlainFitter
from benchmarks.speed.plain.reward import PlainReward
from benchmarks.speed.plain.unet import PlainUNet
from benchmarks.speed.timing import Timing, ratio
from benchmarks.speed.units import learning_units
from dima.algorithms.model_based import ModelBased
from dima.nn.attention import Attention, GegluFeedForward
from dima.nn.optim import Fitter
from dima.training.run_config import TrainConfig
from dima.world_models.dima.denoiser import Context
from dima.world_models.dima.model import DimaWorldModel
from dima.world_models.dima.sampler import agent_order, noise_schedule, reveal_masks, sample
from dima.world_models.dima.unet import Kernels


@dataclass(frozen=True)
class Switch:
    """An optimisation, the parts of an iteration it serves, and how to do without it."""

    name: str
    parts: tuple[str, ...]
    off: Callable[[ModelBased], None]  # takes it out of a learner
    both: Callable[[ModelBased], None] | None = None  # where it only shows without another one


def _model(learner: ModelBased) -> DimaWorldModel:
    assert isinstance(learner.world_model, DimaWorldModel)
    return learner.world_model


def _renew(model: DimaWorldModel, *parts: str) -> None:
    """Optimisers for what the parts are made of now."""
    for part in parts:
        model.fitters[part] = Fitter(getattr(model, part), model.fitters[part].config)


def _perceiver_at_every_level(learner: ModelBased) -> None:
    model = _model(learner)
    config, seen = model.config.sampler, model.config.denoiser

    def next_state(context: Context, order: Tensor | None, kernels: Kernels) -> Tensor:
        batch, device = len(context.state), context.state.device
        start = torch.randn_like(context.state[:, -1])
        order = agent_order(config.order, batch, model.spec.n_agents, device)
        masks = reveal_masks(order, seen.reveal, seen.agents_at_once)
        sigmas = noise_schedule(config.levels(model.turns), config.sigma_min, config.sigma_max, config.rho, device)

        def denoise(x: Tensor, sigma: Tensor, level: int) -> Tensor:
            mask = masks[min(config.stage(level, model.turns), len(masks) - 1)]
            encoded = model.denoiser.encode_actions(context.action, context.valid, mask)
            return model.denoiser.denoise(x, sigma, context, mask, encoded, kernels)

        drawn = sample(denoise, start, sigmas, config.solver)
        return model.denoiser.to_state(drawn, context.state[:, -1])

    model.__dict__["next_state"] = next_state


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


class _SpeltNet(nn.Module):
    """PyTorch's convolutions and group norms behind the interface of the library's U-Net."""

    def __init__(self, net: PlainUNet) -> None:
        super().__init__()
        self.net = net

    def kernels(self) -> dict[Any, Any]:
        return {}

    def steer(self, condition: Tensor) -> Tensor:
        return condition

    def forward(self, x: Tensor, condition: Tensor, kernels: Any) -> Tensor:
        return self.net(x, condition)[:, -1]


def _mean_at_the_end(learner: ModelBased) -> None:
    for layer in _model(learner).modules():
        if isinstance(layer, GegluFeedForward):
            layer.__dict__["pooled"] = lambda x, layer=layer: layer(x).mean(dim=-2)


def _wide_after_the_narrow(learner: ModelBased) -> None:
    feed = _model(learner).denoiser.encoder.read_feed
    feed.__dict__["after"] = lambda common, mixed, out: feed(common + out(mixed))


def _tokens_for_every_mask(learner: ModelBased) -> None:
    encoder = _model(learner).denoiser.encoder
    shared = encoder.forward

    def forward(action: Tensor, visible: Tensor) -> Tensor:
        masks = visible.unflatten(0, (1, -1)) if visible.dim() == 3 else visible
        every = shared(action.repeat(len(masks), 1, 1, 1), masks.flatten(0, 1)).unflatten(0, masks.shape[:2])
        return every[0] if visible.dim() == 3 else every

    encoder.__dict__["forward"] = forward


def _convolutions(learner: ModelBased) -> None:
    denoiser = _model(learner).denoiser
    config, spec = denoiser.config, denoiser.spec
    extra = spec.n_agents * (spec.action_dim + 1) if denoiser.direct else 0
    net = PlainUNet(spec.state_dim + extra, spec.state_dim, config.condition_dim, config.channels, config.blocks)
    net.take(denoiser.net.state_dict())
    denoiser.net = _SpeltNet(net).to(denoiser.change.device)  # type: ignore[assignment]
    _renew(_model(learner), "denoiser")


def _step_by_step(learner: ModelBased) -> None:
    class StepByStep(DimaWorldModel):
        batched_rewards = False

    _model(learner).__class__ = StepByStep


def _no_table(learner: ModelBased) -> None:
    _model(learner).decoder.__dict__["table"] = lambda: None


def _growing_cache(learner: ModelBased) -> None:
    reward = _model(learner).reward
    spelt = PlainReward(reward).to(reward.position.device).eval()

    def step(memory: Any, state: Tensor, action: Tensor, next_state: Tensor) -> Any:
        if not hasattr(memory, "grown"):
            memory.grown = spelt.start()
        return spelt.step(memory.grown, state, action, next_state)

    reward.__dict__["step"] = step


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
    Switch("one condition call for all levels", ("imagination",), _perceiver_at_every_level),
    Switch("scaled_dot_product_attention", ("imagination", *UPDATES), _attention_spelt_out),
    Switch("mean over latents before the last projection", ("imagination", *UPDATES), _mean_at_the_end),
    Switch("first feed-forward through the narrow attention", ("imagination", UPDATES[0]), _wide_after_the_narrow),
    Switch("tokens shared by all masks", ("imagination",), _tokens_for_every_mask),
    Switch("convolutions and norms over time as products", DREAMS, _convolutions),
    Switch("rewards and ends told in one pass afterwards", ("imagination",), _step_by_step),
    Switch("cache of fixed size, step by step", ("imagination",), _growing_cache, both=_step_by_step),
    Switch("decoder's first layer looked up", ("imagination",), _no_table),
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
            if switch.both is not None:
                switch.both(learner)
            if side == "off":
                switch.off(learner)
            sides[side] = learning_units(learner, timing.share)
        for part in switch.parts:
            for units in sides.values():
                for prepare in (units[part].before, units[part].call):
                    if prepare is not None:
                        prepare()
            seconds = timing.each({side: units[part].call for side, units in sides.items()})
            told = {"seconds": seconds, "ratio": ratio(seconds["off"], seconds["on"])}
            found.setdefault(switch.name, {})[part] = told
    return found
