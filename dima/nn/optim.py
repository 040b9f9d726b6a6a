"""One optimiser step, the same for every network: clip, warm up, step, average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from dima.config import Config, Count, NonNegative, Positive, Range, Whole


@dataclass(frozen=True)
class FitConfig(Config):
    """How one part of a world model is fitted in an iteration."""

    updates: Whole = 200  # gradient steps per iteration
    batch: Count = 256  # examples per step
    lr: Positive = 1e-4  # learning rate
    weight_decay: NonNegative = 0.0  # AdamW's
    warmup: Whole = 0  # steps over which the learning rate rises from 0
    max_grad_norm: NonNegative = 0.0  # gradients are scaled down to this norm; 0 leaves them
    ema: Annotated[float, Range(0, 0.999999)] = 0.0  # predict with averaged weights, this share of which a step keeps


class Fitter:
    """AdamW with gradient clipping, linear warm-up and averaged weights for one module.

    With ``ema`` the module holds the average of the weights along the way, which errs less than the last ones do (EDM,
    Karras et al. 2022, appendix F.2), and the last ones only within :meth:`fitting`.
    """

    def __init__(self, module: nn.Module, config: FitConfig) -> None:
        self.config, self.parameters = config, list[Tensor](module.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.steps = 0
        self.other: list[Tensor] = []  # whichever weights the module does not hold; none before the first fit

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Gradient steps belong in here: the module holds the weights that they change."""
        if self.config.ema and not self.other:
            self.other = [weight.detach().clone() for weight in self.parameters]
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def step(self, loss: Tensor) -> None:
        """Follow the gradient of a scalar loss once."""
        self.apply_gradient(self.gradient(loss))

    def gradient(self, loss: Tensor) -> list[Tensor | None]:
        """Of a scalar loss, in the order of the weights."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return [weight.grad for weight in self.parameters]

    def apply_gradient(self, gradient: Sequence[Tensor | None]) -> None:
        """Go along a gradient once; it is clipped in place."""
        self.steps += 1
        if self.config.warmup:
            self.optimizer.param_groups[0]["lr"] = self.config.lr * min(1.0, self.steps / self.config.warmup)
        for weight, slope in zip(self.parameters, gradient, strict=True):
            weight.grad = slope
        if self.config.max_grad_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        if self.other:
            kept = min(self.config.ema, (1 + self.steps) / (10 + self.steps))  # an early average would be of the start
            with torch.no_grad():
                torch._foreach_lerp_(self.other, self.parameters, 1 - kept)

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, other in zip(self.parameters, self.other, strict=False):
            held = weight.clone()
            weight.copy_(other)
            other.copy_(held)

    def checkpoint(self) -> dict[str, Any]:
        """Everything :meth:`restore` needs besides the module's own state."""
        return {"optimizer": self.optimizer.state_dict(), "steps": self.steps, "other": self.other}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on exactly where :meth:`checkpoint` was taken."""
        # a copy: the optimiser would go on working in the tensors it is given
        self.optimizer.load_state_dict(deepcopy(saved["optimizer"]))
        self.steps = saved["steps"]
        weights = self.parameters if saved["other"] else []
        self.other = [was.to(weight, copy=True) for weight, was in zip(weights, saved["other"], strict=True)]


class Average:
    """Metrics of gradient steps, to be averaged; they stay on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0.0

    def add(self, metrics: dict[str, Tensor], weight: float = 1.0) -> None:
        self.sums = {key: self.sums.get(key, 0.0) + weight * value for key, value in metrics.items()}
        self.count += weight

    def values(self) -> dict[str, Tensor]:
        return {key: value / self.count for key, value in self.sums.items()}
