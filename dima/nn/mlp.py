"""Building blocks of networks: MLPs, orthogonal starts, layer norm that ignores padding, running normalisation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RELU_GAIN = 2**0.5  # keeps the scale of features through Linear -> ReLU


def relu() -> nn.Module:
    """Overwrites its input, which the layers before it do not need to go backward."""
    return nn.ReLU(inplace=True)


class Tanh(nn.Module):
    """Through the logistic function: a few times faster on a CPU, and equal to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x).sigmoid().mul(2).sub(1)


class Float(nn.Module):
    """Whatever precision the layers before multiply in, what follows is float32."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def orthogonal_(linear: nn.Linear, gain: float = RELU_GAIN) -> nn.Linear:
    """Start a layer with orthogonal weights times ``gain`` and zero biases, in place."""
    nn.init.orthogonal_(linear.weight, gain)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


class Rows(nn.Sequential):
    """Layers that see everything as rows, (..., I) -> (..., O).

    In-place layers would otherwise work on views of what a linear layer made, which the way back copies twice.
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
) -> Rows:
    """``(..., sizes[0]) -> (..., sizes[-1])``; the last layer is linear.

    Args:
        sizes: widths from input to output.
        activation: builds what follows each hidden layer.
        norm: put a layer norm after each activation.
        gain: start hidden layers orthogonally with this gain; ``None`` keeps PyTorch's start.
        head_gain: the same for the last layer.
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes[:-1]):
        linear = nn.Linear(before, after)
        layers += [linear if gain is None else orthogonal_(linear, gain), activation()]
        if norm:
            layers.append(nn.LayerNorm(after))
    head = nn.Linear(sizes[-2], sizes[-1])
    return Rows(*layers, head if head_gain is None else orthogonal_(head, head_gain))


class MaskedLayerNorm(nn.Module):
    """Layer norm over the real features of each agent, ``(..., N, O) -> (..., N, O)``.

    Padding takes no part in mean and variance and comes out as zero, so every agent is normalised as it would be
    alone. Without padding this is ``nn.LayerNorm(O)``.

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


class Normalizer(nn.Module):
    """Running mean and variance of each feature over everything seen; ``forward`` normalises, float32 out.

    A feature that (nearly) never varied passes through unchanged, so constant ids and padding survive. Before the
    first update everything does.

    Args:
        shape: of one sample, ``(S,)``, ``(N, O)`` or ``()``; samples come as ``(..., *shape)``.
    """

    count: Tensor  # () float64, samples seen
    mean: Tensor  # shape, float64
    var: Tensor  # shape, float64, population variance
    shift: Tensor  # shape, float32, what normalising subtracts
    scale: Tensor  # shape, float32, what normalising divides by

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("var", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(self.shape))
        self.register_buffer("scale", torch.ones(self.shape))

    @torch.no_grad()
    def update(self, x: Tensor, valid: Tensor | None = None) -> None:
        """Count samples in, by Chan's exact merge of two sets of moments.

        Args:
            x: (..., *shape).
            valid: (...) bool, False where a sample is to be ignored.
        """
        x = x.reshape(-1, *self.shape).double()
        if valid is None:
            weight = x.new_ones(len(x), *(1 for _ in self.shape))
        else:
            weight = valid.reshape(-1, *(1 for _ in self.shape)).double()
            x = torch.where(weight > 0, x, 0.0)
        fresh = weight.sum()
        mean = (x * weight).sum(0) / fresh.clamp(min=1)
        square = ((x - mean).square() * weight).sum(0)
        total = (self.count + fresh).clamp(min=1)
        delta = mean - self.mean
        square = self.var * self.count + square + delta.square() * (self.count * fresh / total)
        self.mean.add_(delta * (fresh / total))
        self.var.copy_(square / total)
        self.count.add_(fresh)
        # a standard deviation below 1e-4, or lost in float32 beside the mean, is no variation
        varies = self.var > 1e-8 + 1e-10 * self.mean.square()
        self.shift.copy_(torch.where(varies, self.mean, 0.0))
        self.scale.copy_(torch.where(varies, self.var.sqrt(), 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize(x)

    def normalize(self, x: Tensor) -> Tensor:
        """(..., *shape) in the data's units -> the same in standard deviations from the mean."""
        return ((x - self.shift) / self.scale).float()

    def denormalize(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`normalize`."""
        return (x * self.scale + self.shift).float()
