"""DIMA as one world model: state diffusion, observation decoder, reward and termination.

docs/reference/dima.md, "Data flow".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dima.config import SmallCount
from dima.data import EnvSpec, Episode, View
from dima.experience.replay import Replay, Rows, WeightedRows
from dima.nn.normalizer import UNSCALED
from dima.nn.optim import FitConfig
from dima.world_models.base import (
    Loss,
    Objective,
    Reveal,
    Step,
    WorldModelConfig,
    clip_action,
    mask_from_logits,
    select_rows,
)
from dima.world_models.dima.denoiser import Context, Denoiser, DenoiserConfig
from dima.world_models.dima.fused import FusedActionEncoder, FusedUNet
from dima.world_models.dima.reward_mlp import RewardMLP
from dima.world_models.dima.reward_termination import Memory, RewardTermination, RewardTerminationConfig, Segments
from dima.world_models.dima.reward_transformer import RewardTransformer
from dima.world_models.dima.sampler import (
    Denoise,
    SamplerConfig,
    agent_order,
    estimates,
    noise_schedule,
    reveal_masks,
    sample,
)
from dima.world_models.observation_decoder import ObservationDecoder, ObservationDecoderConfig
from dima.world_models.state_based import MIN_CHANGE_STD, StateModel


@dataclass(frozen=True)
class DimaModelConfig(WorldModelConfig):
    """DIMA: a diffusion-inspired multi-agent world model (arXiv 2505.20922), at its published sizes."""

    denoiser: DenoiserConfig = DenoiserConfig()
    denoisers: SmallCount = 1  # fitted apart; an imagined episode keeps one, lest a policy learn its errors
    sampler: SamplerConfig = SamplerConfig()
    decoder: ObservationDecoderConfig = ObservationDecoderConfig()
    reward: RewardTerminationConfig = RewardTerminationConfig()
    denoiser_fit: FitConfig = FitConfig(batch=64, lr=1e-4, weight_decay=0.01, warmup=100, max_grad_norm=1.0)
    decoder_fit: FitConfig = FitConfig(batch=256, lr=3e-4)
    reward_fit: FitConfig = FitConfig(batch=128, lr=1e-4, weight_decay=0.01, max_grad_norm=10.0)

    @property
    def reward_limits(self) -> dict[str, tuple[float, float]]:
        return {} if self.reward.normalize_reward else {"--learner.world-model.reward.normalize-reward": UNSCALED}

    def build(self, spec: EnvSpec) -> DimaWorldModel:
        return DimaWorldModel(self, spec, partial(Denoiser, unet=FusedUNet, encoder=FusedActionEncoder))


@dataclass
class Latent:
    """The recent past, and the reward model's memory of the rollout."""

    state: Tensor  # (B, C, S) scaled for the denoiser, newest last
    action: Tensor  # (B, C - 1, N, A) joint actions taken between those states
    valid: Tensor  # (B, C) bool
    action_mask: Tensor  # (B, N, A) bool, allowed now
    previous_action: Tensor  # (B, N, A) joint action that led here
    memory: Memory


class DimaWorldModel(StateModel[Latent]):
    """A diffusion model of the next state in which each denoising level sees one agent's action.

    Args:
        config: sizes and schedule.
        spec: of the task.
        make_denoiser: builds a diffusion model; by default in its plain form.
    """

    def __init__(
        self,
        config: DimaModelConfig,
        spec: EnvSpec,
        make_denoiser: Callable[[DenoiserConfig, EnvSpec], Denoiser] = Denoiser,
    ) -> None:
        super().__init__(spec)
        self.config = config
        self.past = config.denoiser.context
        self.context = self.past + 1  # one more, for the joint action that led to the first state
        self.denoiser = make_denoiser(config.denoiser, spec)
        self.decoder = ObservationDecoder(config.decoder, spec)
        reward = RewardTransformer if config.reward.backbone == "transformer" else RewardMLP
        self.reward: RewardTermination = reward(config.reward, spec)
        if config.reward.backbone == "transformer":
            self.visit_counters = (*self.visit_counters, "reward")
        for n in range(2, config.denoisers + 1):
            self.add_module(f"denoiser_{n}", make_denoiser(config.denoiser, spec))

    @property
    def denoisers(self) -> dict[str, Denoiser]:
        """By name: ``denoiser``, ``denoiser_2``, ..."""
        names = ("denoiser", *(f"denoiser_{n}" for n in range(2, self.config.denoisers + 1)))
        return {name: getattr(self, name) for name in names}

    @property
    def compile_targets(self) -> tuple[str, ...]:
        names = self.denoisers
        encoders = () if self.denoiser.encoder is None else tuple(f"{name}.encoder" for name in names)
        parts = (*encoders, *(f"{name}.net" for name in names))
        if not isinstance(self.reward, RewardTransformer):
            return parts
        # blocks that go step by step along a memory are another program at each step
        return (*parts, "reward.mix_agents", *(("reward.blocks",) if self.batched_rewards else ()))

    # -- fitting --------------------------------------------------------------------------------------------------

    def update_statistics(self, episodes: Sequence[Episode]) -> None:
        super().update_statistics(episodes)
        for episode in episodes:
            self.reward.reward_scale.update(episode.reward.to(self.action_valid.device))
        change_std = self.change_scale.var.sqrt() / self.state_scale.scale
        for denoiser in self.denoisers.values():
            denoiser.change_std.copy_(change_std.clamp(min=MIN_CHANGE_STD))

    def objectives(self) -> dict[str, Objective]:
        config = self.config
        return {
            **{
                name: Objective(self.denoiser_rows, partial(self.denoiser_loss, name=name), config.denoiser_fit)
                for name in self.denoisers
            },
            "reward": Objective(self.reward_rows, self.reward_loss, config.reward_fit),
            "decoder": self.decoder_objective(config.decoder_fit),
        }

    def denoiser_rows(self, replay: Replay) -> Rows:
        """(B, C + H) recent windows."""
        anchor = replay.recent(self.config.denoiser_fit.batch)
        return replay.gather(anchor, self.past - 1, self.config.denoiser.rollout)

    def denoiser_loss(self, rows: Rows, name: str = "denoiser") -> Loss:
        """EDM loss of the next states, of one of the ``denoisers``."""
        action = clip_action(rows.action, self.spec)
        loss, metrics = self.denoisers[name].loss(self.scale_state(rows.state), action, rows.valid)
        return loss, {f"{name}/{key}": value for key, value in metrics.items()}

    def reward_rows(self, replay: Replay) -> Rows:
        """The least visited segments (B, T + 1), or for an MLP transitions (B, 2)."""
        config, batch = self.config.reward, self.config.reward_fit.batch
        if config.backbone == "transformer":
            length = config.segment + 1
            return replay.segments(replay.least_visited("reward", batch, length), length)
        anchor, weight = replay.stratified(batch, config.terminal_share)
        return WeightedRows(**vars(replay.gather(anchor, 0, 1)), weight=weight)

    def reward_loss(self, rows: Rows) -> Loss:
        """Losses of reward, termination and action masks."""
        return self.reward.loss(self.segments(rows))

    def segments(self, rows: Rows) -> Segments:
        """T + 1 successive rows as T steps for the reward model."""
        state, weight = self.state_scale.normalize(rows.state), rows.acted[:, :-1].to(rows.reward.dtype)
        if isinstance(rows, WeightedRows):
            weight = weight * rows.weight[:, None]
        return Segments(
            state=state[:, :-1],
            next_state=state[:, 1:],
            action=clip_action(rows.action[:, :-1], self.spec),
            reward=rows.reward[:, :-1],
            terminated=rows.terminated[:, :-1],
            next_mask=rows.action_mask[:, 1:],
            next_alive=self.spec.alive(rows.state[:, 1:]),
            episode=rows.episode[:, :-1],
            weight=weight,
        )

    # -- rollouts -------------------------------------------------------------------------------------------------

    def start(self, rows: Rows) -> Latent:
        return Latent(
            state=self.scale_state(rows.state[:, 1:]) * rows.valid[:, 1:, None],
            action=clip_action(rows.action[:, 1:-1], self.spec),
            valid=rows.valid[:, 1:],
            action_mask=rows.action_mask[:, -1],
            previous_action=clip_action(rows.action[:, -2], self.spec),
            memory=Memory(),
        )

    def observe(self, latent: Latent) -> View:
        state = self._newest(latent)
        return View(
            obs=self.decode(state),
            state=self.state_scale.denormalize(state),
            action_mask=latent.action_mask,
            previous_action=latent.previous_action,
        )

    def step(self, latent: Latent, action: Tensor) -> Step[Latent]:
        return self._step(latent, action, self._default_order(latent))

    def _step(self, latent: Latent, action: Tensor, order: Tensor) -> Step[Latent]:
        reached = self._advance(latent, action, order)
        prediction, memory = self.reward.step(
            latent.memory, self._newest(latent), reached.previous_action, self._newest(reached)
        )
        mask = latent.action_mask
        if prediction.mask_logits is not None:
            mask = mask_from_logits(prediction.mask_logits, self.action_valid)
        reached = replace(reached, action_mask=mask, memory=memory)
        return Step(reached, prediction.reward, prediction.continuation)

    def _advance(self, latent: Latent, action: Tensor, order: Tensor) -> Latent:
        action = clip_action(action, self.spec)
        context = self._context(latent, action)
        next_state = self.next_state(context, order, torch.randn_like(latent.state[:, -1]))
        return replace(
            latent,
            state=torch.cat([latent.state[:, 1:], next_state[:, None]], dim=1),
            action=context.action[:, 1:],
            valid=torch.cat([latent.valid[:, 1:], latent.valid[:, -1:]], dim=1),
            previous_action=action,
        )

    def next_state(self, context: Context, order: Tensor, noise: Tensor) -> Tensor:
        """Sample the next scaled state, (B, S), each row from one of the denoisers, the same in every step.

        Args:
            context: past states and joint actions, the newest action whole; the sampler hides what it should.
            order: (B, N) agents in the order they are revealed.
            noise: (B, S) standard normal start.
        """
        reached = torch.empty_like(noise)
        for rows, denoiser in self._shares(len(noise)):
            known = context[rows]
            denoise, sigmas = self.denoising(known, order[rows], denoiser)
            drawn = denoiser.add_residual(sample(denoise, noise[rows], sigmas, self.config.sampler.solver), known)
            reached[rows] = denoiser.to_state(drawn, known.state[:, -1])
        return reached

    def _shares(self, batch: int) -> Iterator[tuple[slice, Denoiser]]:
        """The rows of a batch that each denoiser predicts."""
        denoisers = list(self.denoisers.values())
        for n, denoiser in enumerate(denoisers[:batch]):
            yield slice(n, None, len(denoisers)), denoiser

    def denoising(self, context: Context, order: Tensor, denoiser: Denoiser) -> tuple[Denoise, Tensor]:
        """The denoising function of each noise level and the (K + 1,) levels, arguments as :meth:`next_state`."""
        config, net = self.config.sampler, denoiser.net.prepare()
        masks = reveal_masks(order, self.config.denoiser.reveal, self.config.denoiser.group_size)  # (G, B, N)
        # the condition does not depend on the noise: the Perceiver runs once on all masks, before the loop
        encoded = denoiser.encode_actions(
            context.action.repeat(len(masks), 1, 1, 1), context.valid.repeat(len(masks), 1), masks.flatten(0, 1)
        ).chunk(len(masks))

        def denoise(x: Tensor, sigma: Tensor, level: int) -> Tensor:
            group = self._visible_group(level, len(masks))
            return denoiser.denoise(x, sigma, context, masks[group], encoded[group], net)

        levels = config.levels(self._groups)
        return denoise, noise_schedule(levels, config.sigma_min, config.sigma_max, config.rho, context.state.device)

    @property
    def members(self) -> int:
        return self.config.denoisers

    def uncertainty(self, latent: Latent, action: Tensor) -> Tensor:
        """As the protocol has it; the denoisers begin with the same noise and sample no residuals."""
        context, order = self._context(latent, clip_action(action, self.spec)), self._default_order(latent)
        noise, drawn = torch.randn_like(latent.state[:, -1]), []
        for denoiser in self.denoisers.values():
            denoise, sigmas = self.denoising(context, order, denoiser)
            target = sample(denoise, noise, sigmas, self.config.sampler.solver)
            change = denoiser.to_state(target, context.state[:, -1]) - context.state[:, -1]
            drawn.append(change / (self.config.denoiser.sigma_data * denoiser.change_std))
        return torch.stack(drawn).std(0).mean(-1) * self.reward.reward_scale.scale

    # -- rewards of a finished rollout ----------------------------------------------------------------------------

    @property
    def batched_rewards(self) -> bool:
        return self.reward.mask_head is None

    def advance(self, latent: Latent, action: Tensor) -> Latent:
        return self._advance(latent, action, self._default_order(latent))

    def predict_rewards(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.reward.predict(self.state_scale.normalize(state), clip_action(action, self.spec))

    # -- single rollouts of a batch -------------------------------------------------------------------------------

    def reset_rows(self, latent: Latent, fresh: Latent, rows: Tensor) -> Latent:
        return Latent(
            state=select_rows(rows, fresh.state, latent.state),
            action=select_rows(rows, fresh.action, latent.action),
            valid=select_rows(rows, fresh.valid, latent.valid),
            action_mask=select_rows(rows, fresh.action_mask, latent.action_mask),
            previous_action=select_rows(rows, fresh.previous_action, latent.previous_action),
            memory=latent.memory.reset_rows(rows),
        )

    # -- sequential reveal ----------------------------------------------------------------------------------------

    @property
    def reveal_order(self) -> tuple[int, ...]:
        agents = range(self.spec.n_agents)
        return tuple(agents if self.config.sampler.order == "ascending" else reversed(agents))

    def step_in_order(self, latent: Latent, action: Tensor, order: Sequence[int]) -> Step[Latent]:
        return self._step(latent, action, self._same_order(latent, order))

    def reveal(self, latent: Latent, action: Tensor, order: Sequence[int]) -> Reveal:
        context, orders = self._context(latent, clip_action(action, self.spec)), self._same_order(latent, order)
        noise = torch.randn_like(latent.state[:, -1])
        estimate = noise.new_empty(self.config.sampler.levels(self._groups), *noise.shape)
        for rows, denoiser in self._shares(len(noise)):
            denoise, sigmas = self.denoising(context[rows], orders[rows], denoiser)
            drawn = estimates(denoise, noise[rows], sigmas, self.config.sampler.solver)
            estimate[:, rows] = denoiser.to_state(drawn, latent.state[rows, -1]) / self.config.denoiser.sigma_data
        masks = reveal_masks(orders[:1], self.config.denoiser.reveal, self.config.denoiser.group_size)[:, 0]
        groups = [self._visible_group(level, len(masks)) for level in range(len(estimate))]
        return Reveal(
            [masks[group].nonzero()[:, 0].tolist() for group in groups], self.state_scale.denormalize(estimate)
        )

    def _default_order(self, latent: Latent) -> Tensor:
        state = latent.state
        return agent_order(self.config.sampler.order, len(state), self.spec.n_agents, state.device)

    def _same_order(self, latent: Latent, order: Sequence[int]) -> Tensor:
        """One order for every row, (B, N)."""
        return torch.tensor(order, device=latent.state.device).expand(len(latent.state), -1)

    @property
    def _groups(self) -> int:
        return self.config.denoiser.reveal_groups(self.spec.n_agents)

    def _visible_group(self, level: int, masks: int) -> int:
        """The reveal mask that holds at a noise level."""
        return min(self.config.sampler.group_index(level, self._groups), masks - 1)

    # -- units ----------------------------------------------------------------------------------------------------

    def scale_state(self, state: Tensor) -> Tensor:
        """Environment units -> standard deviation ``sigma_data``, as the denoiser expects."""
        return self.state_scale.normalize(state) * self.config.denoiser.sigma_data

    def _newest(self, latent: Latent) -> Tensor:
        """The newest state, normalised."""
        return latent.state[:, -1] / self.config.denoiser.sigma_data

    def _context(self, latent: Latent, action: Tensor) -> Context:
        """What the next state depends on, once the team takes this (clipped) action."""
        return Context(latent.state, torch.cat([latent.action, action[:, None]], dim=1), latent.valid)
