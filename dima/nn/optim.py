"""AdamW steps with warm-up, gradient clipping and an EMA of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from dima.config import Config, Count, NonNegative, Positive, Range, Whole, count


@dataclass(frozen=True)
class FitConfig(Config):
    """Optimisation of one part of a world model in an iteration."""

    updates: Whole = 200  # gradient steps per iteration
    batch: Count = 256  # examples per gradient step
    lr: Positive = 1e-4  # learning rate
    weight_decay: NonNegative = 0.0  # of AdamW, on the matrices of layers; not on biases, norms and embeddings
    warmup: Whole = 0  # gradient steps over which the learning rate rises linearly from 0
    max_grad_norm: NonNegative = 0.0  # gradient clipping by norm; 0: none
    ema: Annotated[float, Range(0, 0.999999)] = 0.0  # decay of the weights' EMA, used to predict; 0: none


class Fitter:
    """AdamW with gradient clipping, linear warm-up and an EMA of the weights, for one module.

    With ``ema`` the module holds an EMA of the weights, which generalises better than the last iterate (EDM, Karras et
    al. 2022, appendix F.2); within :meth:`fitting` it holds the last iterate.
    """

    def __init__(self, module: nn.Module, config: FitConfig) -> None:
        self.config, self.parameters = config, list[Tensor](module.parameters())
        self.decayed: list[Tensor] = [
            weight for name, weight in module.named_parameters() if weight.dim() > 1 and "weight" in name.split(".")
        ]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.lr, fused=True)
        self.steps = 0
        self.inactive: list[Tensor] = []  # EMA or last iterate, the one that the module does not hold

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Swap in the last iterate for gradient steps, the EMA afterwards."""
        if self.config.ema and not self.inactive:
            self.inactive = [weight.detach().clone() for weight in self.parameters]
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def step(self, loss: Tensor) -> None:
        """Make one gradient step on a scalar loss."""
        self.apply_gradient(self.gradient(loss))

    def gradient(self, loss: Tensor) -> list[Tensor | None]:
        """Compute the gradient of a scalar loss, in the order of the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return [weight.grad for weight in self.parameters]

    def apply_gradient(self, gradient: Sequence[Tensor | None]) -> None:
        """Make one optimiser step along a gradient, which is clipped in place."""
        self.steps += 1
        self.optimizer.param_groups[0]["lr"] = self.lr
        for weight, grad in zip(self.parameters, gradient, strict=True):
            weight.grad = grad
        if self.config.max_grad_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        if self.config.weight_decay:  # decoupled, as AdamW's (arXiv 1711.05101)
            with torch.no_grad():
                torch._foreach_mul_(self.decayed, 1 - self.lr * self.config.weight_decay)
        self.optimizer.step()
        if self.inactive:
            # a smaller decay at first, so that the EMA forgets the initial weights
            decay = min(self.config.ema, (1 + self.steps) / (10 + self.steps))
            with torch.no_grad():
                torch._foreach_lerp_(self.inactive, self.parameters, 1 - decay)

    @property
    def lr(self) -> float:
        """Learning rate of the last gradient step."""
        warmup = self.config.warmup
        return self.config.lr * min(1.0, self.steps / warmup) if warmup else self.config.lr

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, inactive in zip(self.parameters, self.inactive, strict=False):
            active = weight.clone()
            weight.copy_(inactive)
            inactive.copy_(active)

    def checkpoint(self) -> dict[str, Any]:
        """State for :meth:`restore`, besides the module's own."""
        return {"optimizer": self.optimizer.state_dict(), "steps": self.steps, "other": self.inactive}

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue exactly from a :meth:`checkpoint`."""
        restore_optimizer(self.optimizer, saved["optimizer"])
        self.steps = count(saved["steps"])
        self.optimizer.param_groups[0]["lr"] = self.lr
        weights = self.parameters if saved["other"] else []
        self.inactive = [kept.to(weight, copy=True) for weight, kept in zip(weights, saved["other"], strict=True)]
        if any(kept.shape != weight.shape for kept, weight in zip(self.inactive, weights, strict=True)):
            raise ValueError("the average of the weights is of other networks")


def restore_optimizer(optimizer: torch.optim.Adam, saved: dict[str, Any]) -> None:
    """Continue exactly from an optimiser's ``state_dict``, if it was one of the same parameters.

    Learning rate, weight decay and the like stay the optimiser's own: they are the config's, which may have changed.

    Raises:
        Exception: of any kind, it was not.
    """
    mine = optimizer.state_dict()["param_groups"]
    if [len(group["params"]) for group in saved["param_groups"]] != [len(group["params"]) for group in mine]:
        raise ValueError("an optimiser's state is of other networks")
    saved = {"state": deepcopy(saved["state"]), "param_groups": mine}  # a copy: the optimiser updates what it is given
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, moments in saved["state"].items():
        shape = weights[count(number)].shape
        shapes = {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}
        if {name: values.shape for name, values in moments.items()} != shapes or not moments[
            "step"
        ].is_floating_point():
            raise ValueError("an optimiser's state is of other networks")
    optimizer.load_state_dict(saved)


class Average:
    """Weighted mean of metrics over gradient steps; stays on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0.0

    def add(self, metrics: dict[str, Tensor], weight: float = 1.0) -> None:
        self.sums = {key: self.sums.get(key, 0.0) + weight * value for key, value in metrics.items()}
        self.count += weight

    def values(self) -> dict[str, Tensor]:
        return {key: value / self.count for key, value in self.sums.items()}
