"""MLPs, orthogonal initialisation, layer norm over padded features."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RELU_GAIN = 2**0.5  # preserves the scale of features through Linear -> ReLU


def relu() -> nn.Module:
    """An in-place ReLU: the layers before it do not need their output for the backward pass."""
    return nn.ReLU(inplace=True)


class Tanh(nn.Module):
    """Tanh as a scaled sigmoid: a few times faster on a CPU, equal up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x).sigmoid().mul(2).sub(1)


class ToFloat32(nn.Module):
    """Cast to float32, whatever precision the layers before compute in."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def orthogonal_(linear: nn.Linear, gain: float = RELU_GAIN) -> nn.Linear:
    """Initialise orthogonal weights times ``gain`` and zero biases, in place."""
    nn.init.orthogonal_(linear.weight, gain)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


class RowwiseSequential(nn.Sequential):
    """Layers applied to flattened rows, ``(..., I) -> (..., O)``.

    In-place layers would otherwise modify views of a linear layer's output, which the backward pass copies twice.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = super().forward(x.reshape(-1, x.shape[-1]))  # type: ignore[no-untyped-call]
        return rows.view(*x.shape[:-1], rows.shape[-1])


def mlp(
    sizes: Sequence[int],
    activation: Callable[[], nn.Module] = nn.ReLU,
    norm: bool = False,
    gain: float | None = None,
    head_gain: float | None = None,
) -> RowwiseSequential:
    """Multi-layer perceptron ``(..., sizes[0]) -> (..., sizes[-1])``; the last layer is linear.

    Args:
        sizes: widths from input to output.
        activation: builds the activation after each hidden layer.
        norm: add a layer norm after each activation.
        gain: of the orthogonal initialisation of hidden layers; None keeps PyTorch's initialisation.
        head_gain: the same for the last layer.
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes[:-1]):
        linear = nn.Linear(before, after)
        layers += [linear if gain is None else orthogonal_(linear, gain), activation()]
        if norm:
            layers.append(nn.LayerNorm(after))
    head = nn.Linear(sizes[-2], sizes[-1])
    return RowwiseSequential(*layers, head if head_gain is None else orthogonal_(head, head_gain))


class MaskedLayerNorm(nn.Module):
    """Layer norm over the real features of each agent, ``(..., N, O) -> (..., N, O)``.

    Padding is excluded from mean and variance and comes out as zero, so each agent is normalised as if it were alone.
    Without padding this is ``nn.LayerNorm(O)``.

    Args:
        valid: (N, O) bool, which features are real.
    """

    valid: Tensor
    count: Tensor

    def __init__(self, valid: Tensor, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.padded = eps, not bool(valid.all())
        self.weight = nn.Parameter(torch.ones(valid.shape[-1]))
        self.bias = nn.Parameter(torch.zeros(valid.shape[-1]))
        self.register_buffer("valid", valid.float(), persistent=False)
        self.register_buffer("count", valid.sum(-1, keepdim=True).clamp(min=1).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.padded:
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        mean = (x * self.valid).sum(-1, keepdim=True) / self.count
        centred = (x - mean) * self.valid
        variance = centred.square().sum(-1, keepdim=True) / self.count
        return (centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias) * self.valid
