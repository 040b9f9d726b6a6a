"""Weights and means of the Transformer's losses over windows that may hold several episodes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dima.experience.replay import Rows


def token_weight(episode: Tensor, tokens: int, agents: int, segment_mean: bool) -> Tensor:
    """Weight (B, N * (L K - 1)) of each token but the first, in all 1; zero for the first of an episode.

    Args:
        episode: (B, L) of each row of a window.
        tokens: K.
        agents: N.
        segment_mean: every part of a window weighs the same, and so does every window; else every token.
    """
    segment = F.pad((episode[:, 1:] != episode[:, :-1]).long().cumsum(1), (1, 0))  # (B, L) number of the episode
    known = torch.ones(*episode.shape, tokens, device=episode.device)
    known[:, 1:, 0] = (segment[:, 1:] == segment[:, :-1]).float()
    known[:, 0, 0] = 0
    if segment_mean:
        member = F.one_hot(segment, episode.shape[1]).float()  # (B, L, segments)
        size = (member * known.sum(-1, keepdim=True)).sum(1)  # (B, segments)
        share = (size > 0) / size.clamp(min=1) / (size > 0).sum(1, keepdim=True).clamp(min=1)
        known = known * (member @ share[..., None]) / len(episode)
    else:
        known = known / known.sum()
    known = (known / agents)[:, None].expand(-1, agents, -1, -1)
    return torch.cat([known[:, :, 0, 1:].flatten(1), known[:, :, 1:].flatten(1)], dim=1)


def mask_loss(logits: Tensor, rows: Rows, valid: Tensor) -> Tensor:
    """Cross entropy of the masks after each step, averaged over real choices.

    Args:
        logits: (B, L, N, A).
        rows: (B, L) of the window.
        valid: (N, A) bool, real choices.
    """
    following = rows.action_mask[:, 1:].to(logits.dtype)
    wrong = F.binary_cross_entropy_with_logits(logits[:, :-1], following, reduction="none")
    return mean_where((wrong * valid).sum(-1) / valid.sum(-1), rows.acted[:, :-1])


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean of ``values`` (B, L, N) over agents and the steps ``where`` (B, L) is True."""
    return (values.mean(-1) * where).sum() / where.sum().clamp(min=1)
