"""Exact rewritings for speed, held to the plain modules by equality tests; chosen when a model is built.

:class:`FusedUNet` takes 0.6 times as long as the plain U-Net for a gradient of the preset ``small`` on a CPU;
:class:`FusedActionEncoder` makes 0.86 times as many operations as the plain Perceiver at its published size
(docs/speed.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dima.world_models.dima.action_encoder import ActionEncoder
from dima.world_models.dima.unet import GROUP, GroupNorm, ResidualBlock, TemporalUNet, TimeConv

Dense = dict[TimeConv, tuple[Tensor, Tensor]]  # (G' T' C', G T C) weight and (G' T' C') bias of each convolution


class FusedActionEncoder(ActionEncoder):
    """:class:`ActionEncoder` with the first feed-forward layer folded into the cross-attention's projection.

    Apart from its division a layer norm is linear. So norm and first layer are applied once to the latents and to the
    columns of the projection, and each row only combines the results by its attention before the projection, which is
    narrow.
    """

    def read_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        read, feed, latents = self.read, self.read_feed, self.latents
        assert read.context_norm is not None
        mixed = read.mix(read.norm(latents), *read.keys_values(read.context_norm(tokens)), mask)  # (B, L, I)
        x = latents + read.out(mixed)
        scale = (_centred(x).square().mean(dim=-1, keepdim=True) + feed.norm.eps).rsqrt()
        folded = torch.cat([_centred(read.out.weight.mT), _centred(latents + read.out.bias)])  # (I + L, D)
        lifted = F.linear(folded, feed.lift.weight * feed.norm.weight)  # (I + L, 2 E)
        which = torch.eye(len(latents), dtype=x.dtype, device=x.device).expand(*x.shape[:-1], -1)
        coordinates = scale * torch.cat([mixed, which], dim=-1)  # (B, L, I + L)
        bias = F.linear(feed.norm.bias, feed.lift.weight, feed.lift.bias)
        value, gate = F.linear(coordinates, lifted.mT, bias).chunk(2, dim=-1)
        reached: Tensor = x + feed.lower(value * F.gelu(gate))
        return reached


class FusedUNet(TemporalUNet):
    """:class:`TemporalUNet` with the same weights, computed by dense products; arguments as there.

    The U-Net sees few time steps, so a convolution is one dense product over all of them. Channels of a group norm lie
    together, (B, G, T, 32), so that nothing is moved between a convolution and the norms around it.
    """

    def __init__(
        self,
        steps: int,
        in_channels: int,
        out_channels: int,
        condition_dim: int,
        channels: tuple[int, ...],
        blocks: int,
    ) -> None:
        super().__init__(steps, in_channels, out_channels, condition_dim, channels, blocks)
        _keep_taps(self.lift, taps(steps))
        for depth in range(len(channels)):
            if isinstance(shrink := self.shrink[depth], TimeConv):
                _keep_taps(shrink, taps(steps, stride=2))
                steps //= 2
                _keep_taps(self.grow[depth], taps(steps, repeat=2))
            last = self.middle if depth == len(channels) - 1 else nn.ModuleList()
            for conv in nn.ModuleList([self.down[depth], last, self.up[depth]]).modules():
                if isinstance(conv, TimeConv):
                    _keep_taps(conv, taps(steps))
        _keep_taps(self.out, taps(steps * 2 ** (len(channels) - 1))[-1:])  # of the newest step only

    def prepare(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The network for calls between which the weights stay what they are."""
        dense = {conv: self._dense(conv) for conv in self.modules() if isinstance(conv, TimeConv)}
        return partial(self._forward, dense)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.prepare()(x, condition)

    def _forward(self, dense: Dense, x: Tensor, condition: Tensor) -> Tensor:
        modulation = iter(self.modulation(F.silu(condition)).split(self.widths, dim=-1))
        x = _convolve(self.lift, dense, x[:, None])
        skips = []
        for shrink, blocks in zip(self.shrink, self._blocks(self.down), strict=True):
            if isinstance(shrink, TimeConv):
                x = _convolve(shrink, dense, x)
            skips.append(x)
            for block in blocks:
                x = _residual(block, dense, x, modulation)
                skips.append(x)
        for block in self.middle:
            x = _residual(block, dense, x, modulation)
        for grow, blocks in zip(reversed(self.grow), reversed(self._blocks(self.up)), strict=True):
            for block in blocks:
                x = _residual(block, dense, torch.cat([x, skips.pop()], dim=1), modulation)
            if isinstance(grow, TimeConv):
                x = _convolve(grow, dense, x)
        weight, bias = dense[self.out]
        return F.linear(F.silu(_normalize(self.out_norm, x)).flatten(1), weight, bias)

    def _dense(self, conv: TimeConv) -> tuple[Tensor, Tensor]:
        """A convolution's weight from every input step to every output step, and its bias."""
        source = (1, conv.in_features // 3) if conv is self.lift else (conv.in_features // 3 // GROUP, GROUP)
        target = (1, conv.out_features) if conv is self.out else (conv.out_features // GROUP, GROUP)
        weight = conv.weight.view(*target, 3, *source)
        dense = torch.einsum("otk,ghkij->gohitj", conv.taps, weight).flatten(3).flatten(0, 2)
        return dense, conv.bias.view(target[0], 1, -1).expand(-1, len(conv.taps), -1).flatten()


def taps(steps: int, stride: int = 1, repeat: int = 1) -> Tensor:
    """(T', T, 3): how often each weight of a zero-padded width-3 convolution joins an input step to an output step.

    Args:
        steps: T.
        stride: distance between output steps.
        repeat: how often every input step is repeated before the convolution.
    """
    wide = F.pad(torch.eye(repeat * steps), (0, 0, 1, 1))
    joined = torch.stack([wide[k : k + repeat * steps : stride] for k in range(3)], dim=-1)
    return joined.unflatten(1, (steps, repeat)).sum(2)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=-1, keepdim=True)


def _keep_taps(conv: nn.Module, joined: Tensor) -> None:
    conv.register_buffer("taps", joined, persistent=False)


def _convolve(conv: TimeConv, dense: Dense, x: Tensor) -> Tensor:
    """(B, G, T, C) -> (B, G', T', 32)."""
    return F.linear(x.flatten(1), *dense[conv]).view(len(x), -1, len(conv.taps), GROUP)


def _residual(block: nn.Module, dense: Dense, x: Tensor, modulation: Iterator[Tensor]) -> Tensor:
    assert isinstance(block, ResidualBlock)
    hidden = x
    for conv in (block.conv1, block.conv2):
        scale, shift = (next(modulation).unflatten(-1, (-1, 1, GROUP)) for _ in range(2))
        hidden = _convolve(conv, dense, F.silu(torch.addcmul(shift, _group_norm(hidden), 1 + scale)))
    if isinstance(block.skip, nn.Linear):  # it mixes the channels of each step
        x = block.skip(x.transpose(1, 2).flatten(2)).unflatten(2, (-1, GROUP)).transpose(1, 2)
    return hidden + x


def _group_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[2:])


def _normalize(norm: GroupNorm, x: Tensor) -> Tensor:
    weight, bias = (p.view(-1, 1, GROUP) for p in (norm.weight, norm.bias))
    return torch.addcmul(bias, _group_norm(x), weight)
