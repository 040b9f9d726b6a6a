"""DIMA as one world model: state diffusion, observation decoder, reward and termination (DIMA section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dima.data import EnvSpec, Episode, View
from dima.experience.replay import Replay, Rows
from dima.nn.optim import FitConfig, Fitter
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
from dima.world_models.dima.reward_termination import Memory, RewardTermination, RewardTerminationConfig, Segments
from dima.world_models.dima.sampler import (
    Denoise,
    SamplerConfig,
    agent_order,
    estimates,
    noise_schedule,
    reveal_masks,
    sample,
)
from dima.world_models.dima.unet import Kernels
from dima.world_models.observation_decoder import ObservationDecoder, ObservationDecoderConfig
from dima.world_models.state_based import StateModel

MIN_CHANGE_STD = (
    0.01  # least spread of a step's change, in units of the state's: slower features are as good as constant
)


@dataclass(frozen=True)
class DimaModelConfig(WorldModelConfig):
    """DIMA's world model; the defaults are the published sizes and schedule (DIMA section 7)."""

    denoiser: DenoiserConfig = DenoiserConfig()
    sampler: SamplerConfig = SamplerConfig()
    decoder: ObservationDecoderConfig = ObservationDecoderConfig()
    reward: RewardTerminationConfig = RewardTerminationConfig()
    denoiser_fit: FitConfig = FitConfig(batch=64, lr=1e-4, weight_decay=0.01, warmup=100, max_grad_norm=1.0)
    decoder_fit: FitConfig = FitConfig(batch=256, lr=3e-4)
    reward_fit: FitConfig = FitConfig(batch=128, lr=1e-4, weight_decay=0.01, max_grad_norm=10.0)

    def build(self, spec: EnvSpec) -> DimaWorldModel:
        return DimaWorldModel(self, spec)


class Precomputed(NamedTuple):
    """Weights in the form in which an imagination uses them again and again."""

    kernels: Kernels  # of the denoiser's network
    table: Tensor | None  # of the decoder


@dataclass
class Latent:
    """Where an imagination stands: the recent past, and what the reward model remembers of it."""

    state: Tensor  # (B, C, S) scaled for the denoiser, newest last
    action: Tensor  # (B, C - 1, N, A) joint actions taken between those states
    valid: Tensor  # (B, C) bool
    action_mask: Tensor  # (B, N, A) bool, allowed now
    previous_action: Tensor  # (B, N, A) joint action that led here
    memory: Memory
    precomputed: Precomputed


class DimaWorldModel(StateModel[Latent]):
    """A diffusion model of the next state that sees one agent's action per denoising level."""

    visit_counters = ("decoder", "reward")

    def __init__(self, config: DimaModelConfig, spec: EnvSpec) -> None:
        super().__init__(spec)
        self.config = config
        self.past = config.denoiser.context
        self.context = self.past + 1  # one more, for the joint action that led to the first state
        self.turns = config.denoiser.turns(spec.n_agents)
        self.denoiser = Denoiser(config.denoiser, spec)
        self.decoder = ObservationDecoder(config.decoder, spec)
        self.reward = RewardTermination(config.reward, spec)
        self.fitters = {
            "decoder": Fitter(self.decoder, config.decoder_fit),
            "denoiser": Fitter(self.denoiser, config.denoiser_fit),
            "reward": Fitter(self.reward, config.reward_fit),
        }

    @property
    def compile_targets(self) -> tuple[str, ...]:
        parts = ("denoiser.encoder", "denoiser.net", "reward.mix_agents")
        # blocks that go step by step over a cache are another program at each step
        return (*parts, "reward.blocks") if self.batched_rewards else parts

    # -- learning from real experience ----------------------------------------------------------------------------

    def update_statistics(self, episodes: Sequence[Episode]) -> None:
        super().update_statistics(episodes)
        for episode in episodes:
            self.reward.reward_scale.update(episode.reward.to(self.action_valid.device))
        change = self.change_scale.var.sqrt() / self.state_scale.scale
        self.denoiser.change.copy_(change.clamp(min=MIN_CHANGE_STD))

    def losses(self) -> dict[str, Objective]:
        return {
            "denoiser": Objective(self.denoiser_rows, self.denoiser_loss),
            "reward": Objective(self.reward_rows, self.reward_loss),
            "decoder": Objective(self.decoder_rows, self.decoder_loss),
        }

    def denoiser_rows(self, replay: Replay) -> Rows:
        """(B, C + H) recent windows."""
        anchor = replay.recent(self.config.denoiser_fit.batch)
        return replay.gather(anchor, self.past - 1, self.config.denoiser.rollout)

    def denoiser_loss(self, rows: Rows) -> Loss:
        """EDM's."""
        return self.denoiser.loss(self.scale_state(rows.state), self._sent(rows.action), rows.valid)

    def reward_rows(self, replay: Replay) -> Rows:
        """(B, T + 1) the least visited segments."""
        length = self.config.reward.segment + 1
        return replay.segments(replay.least_visited("reward", self.config.reward_fit.batch, length), length)

    def reward_loss(self, rows: Rows) -> Loss:
        """Of reward, termination and action masks."""
        return self.reward.loss(self.segments(rows))

    def segments(self, rows: Rows) -> Segments:
        """T + 1 successive rows as the reward model wants T of them."""
        state = self.state_scale.normalize(rows.state)
        return Segments(
            state=state[:, :-1],
            next_state=state[:, 1:],
            action=self._sent(rows.action[:, :-1]),
            reward=rows.reward[:, :-1],
            terminated=rows.terminated[:, :-1],
            next_mask=rows.action_mask[:, 1:],
            episode=rows.episode[:, :-1],
            valid=rows.acted[:, :-1],
        )

    # -- imagination ----------------------------------------------------------------------------------------------

    def start(self, rows: Rows) -> Latent:
        return Latent(
            state=self.scale_state(rows.state[:, 1:]) * rows.valid[:, 1:, None],
            action=self._sent(rows.action[:, 1:-1]),
            valid=rows.valid[:, 1:],
            action_mask=rows.action_mask[:, -1],
            previous_action=self._sent(rows.action[:, -2]),
            memory=Memory(),
            precomputed=Precomputed(self.denoiser.net.kernels(), self.decoder.table()),
        )

    def observe(self, latent: Latent) -> View:
        normalized = latent.state[:, -1] / self.config.denoiser.sigma_data
        return View(
            obs=self.decode(normalized, latent.precomputed.table),
            state=self.state_scale.denormalize(normalized),
            action_mask=latent.action_mask,
            previous_action=latent.previous_action,
        )

    def step(self, latent: Latent, action: Tensor) -> Step[Latent]:
        return self._step(latent, action, None)

    def _step(self, latent: Latent, action: Tensor, order: Tensor | None) -> Step[Latent]:
        after = self._advance(latent, action, order)
        now, reached = (x.state[:, -1] / self.config.denoiser.sigma_data for x in (latent, after))
        reward, continuation, mask_logits = self.reward.step(latent.memory, now, after.previous_action, reached)
        if mask_logits is not None:
            after = replace(after, action_mask=mask_from_logits(mask_logits, self.action_valid))
        return Step(after, reward, continuation)

    def _advance(self, latent: Latent, action: Tensor, order: Tensor | None) -> Latent:
        action = self._sent(action)
        context = self._context(latent, action)
        after = self.next_state(context, order=order, kernels=latent.precomputed.kernels)
        return replace(
            latent,
            state=torch.cat([latent.state[:, 1:], after[:, None]], dim=1),
            action=context.action[:, 1:],
            valid=torch.cat([latent.valid[:, 1:], latent.valid[:, -1:]], dim=1),
            previous_action=action,
        )

    @property
    def batched_rewards(self) -> bool:
        return self.reward.mask_head is None

    def advance(self, latent: Latent, action: Tensor) -> Latent:
        return self._advance(latent, action, None)

    def predict_rewards(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.reward.predict_rewards(self.state_scale.normalize(state), self._sent(action))

    def reset_rows(self, latent: Latent, fresh: Latent, which: Tensor) -> Latent:
        return Latent(
            state=select_rows(which, fresh.state, latent.state),
            action=select_rows(which, fresh.action, latent.action),
            valid=select_rows(which, fresh.valid, latent.valid),
            action_mask=select_rows(which, fresh.action_mask, latent.action_mask),
            previous_action=select_rows(which, fresh.previous_action, latent.previous_action),
            memory=self.reward.forget(latent.memory, which),
            precomputed=fresh.precomputed,
        )

    def next_state(
        self,
        context: Context,
        noise: Tensor | None = None,
        order: Tensor | None = None,
        kernels: Kernels | None = None,
    ) -> Tensor:
        """Draw the next scaled state, (B, S).

        Args:
            context: past states and joint actions, the newest action whole; the sampler hides what it should.
            noise: (B, S) standard normal start, drawn when not given.
            order: (B, N) agents in the order they are revealed, the configured one when not given.
            kernels: of the denoiser's network, where they are at hand.
        """
        if noise is None:
            noise = torch.randn_like(context.state[:, -1])
        denoise, sigmas = self.levels(context, order, kernels)
        drawn = sample(denoise, noise, sigmas, self.config.sampler.solver)
        return self.denoiser.to_state(drawn, context.state[:, -1])

    def levels(
        self, context: Context, order: Tensor | None = None, kernels: Kernels | None = None
    ) -> tuple[Denoise, Tensor]:
        """The denoising function of each level and the (K + 1,) noise levels, for the same arguments."""
        config, agents = self.config.sampler, self.spec.n_agents
        batch, device = len(context.state), context.state.device
        if order is None:
            order = agent_order(config.order, batch, agents, device)
        # the condition depends on what is revealed, not on the noise: all stages in one call, before the loop
        masks, turns = self._masks(order), self.turns  # (G, B, N)
        stages = len(masks)
        encoded = self.denoiser.encode_actions(context.action, context.valid, masks)
        kernels = self.denoiser.net.kernels() if kernels is None else kernels

        def denoise(x: Tensor, sigma: Tensor, level: int) -> Tensor:
            stage = min(config.stage(level, turns), stages - 1)
            return self.denoiser.denoise(x, sigma, context, masks[stage], encoded[stage], kernels)

        return denoise, noise_schedule(config.levels(turns), config.sigma_min, config.sigma_max, config.rho, device)

    # -- agent by agent -------------------------------------------------------------------------------------------

    @property
    def reveal_order(self) -> tuple[int, ...]:
        agents = range(self.spec.n_agents)
        return tuple(agents if self.config.sampler.order == "ascending" else reversed(agents))

    def step_in_order(self, latent: Latent, action: Tensor, order: Sequence[int]) -> Step[Latent]:
        return self._step(latent, action, self._everywhere(latent, order))

    def reveal(self, latent: Latent, action: Tensor, order: Sequence[int]) -> Reveal:
        config = self.config
        denoise, sigmas = self.levels(self._context(latent, self._sent(action)), self._everywhere(latent, order))
        noise = torch.randn_like(latent.state[:, -1])
        estimate = estimates(denoise, noise, sigmas, config.sampler.solver)
        estimate = self.denoiser.to_state(estimate, latent.state[:, -1]) / config.denoiser.sigma_data
        masks = self._masks(torch.tensor([order]))[:, 0]
        stages = [min(config.sampler.stage(level, self.turns), len(masks) - 1) for level in range(len(estimate))]
        seen = [masks[stage].nonzero()[:, 0].tolist() for stage in stages]
        return Reveal(seen, self.state_scale.denormalize(estimate))

    def _masks(self, order: Tensor) -> Tensor:
        """(G, B, N) what is visible at each stage, of orders (B, N)."""
        config = self.config.denoiser
        return reveal_masks(order, config.reveal, config.agents_at_once)

    def _everywhere(self, latent: Latent, order: Sequence[int]) -> Tensor:
        """One order for every row, (B, N)."""
        return torch.tensor(order, device=latent.state.device).expand(len(latent.state), -1)

    # -- units ----------------------------------------------------------------------------------------------------

    def scale_state(self, state: Tensor) -> Tensor:
        """Environment units -> standard deviation ``sigma_data``, as the denoiser wants it."""
        return self.state_scale.normalize(state) * self.config.denoiser.sigma_data

    def _context(self, latent: Latent, action: Tensor) -> Context:
        """What the denoiser knows when the team takes this action, as it is sent, there."""
        return Context(latent.state, torch.cat([latent.action, action[:, None]], dim=1), latent.valid)

    def _sent(self, action: Tensor) -> Tensor:
        return clip_action(action, self.spec)
