"""Termination as thresholds on single features of the reached state.

Robots fall when a height or an angle leaves its range. A neural additive model (arXiv 2004.13912) finds such thresholds
from some tens of examples, where a network over all features at once averages them away (docs/world-models.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.data import EnvSpec
from dima.nn.mlp import mlp

HINGES = 32  # hidden units of each feature's own network
REACH = 6.0  # standard deviations around a feature's mean over which its hinges begin
GAIN = 30.0  # of the hinges' sum, so that a threshold gets sharp at a learning rate that suits other networks
FEATURES = 27  # of an ant; with more of them the gain is less, or every gradient step would move the sum by more
REST_WIDTH, REST_GAIN = 32, 0.1  # of the network over all features, for what is no sum over single ones
PRIOR = 6.0  # log-odds against termination before anything is learnt


class AdditiveTermination(nn.Module):
    """Reached states, normalised -> log-odds of termination, ``(..., S) -> (...)``."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        features = spec.state_dim
        self.gain = GAIN * min(1.0, FEATURES / features)
        side = torch.tensor([1.0, -1.0]).repeat(HINGES // 2)  # open to the right, to the left, ...
        begin = torch.linspace(-REACH, REACH, HINGES // 2).repeat_interleave(2)
        self.slope = nn.Parameter(side.repeat(features, 1))  # (S, H)
        self.offset = nn.Parameter((-side * begin).repeat(features, 1))
        self.weight = nn.Parameter(torch.zeros(features, HINGES))
        self.bias = nn.Parameter(torch.tensor(-PRIOR))
        self.rest = mlp((features, REST_WIDTH, 1), nn.SiLU, head_gain=0.0)

    def forward(self, state: Tensor) -> Tensor:
        hinges = F.relu(torch.addcmul(self.offset, state[..., None], self.slope))  # (..., S, H)
        additive, rest = (hinges * self.weight).sum((-1, -2)), self.rest(state)[..., 0]
        return (self.gain * additive + REST_GAIN * rest + self.bias).float()
