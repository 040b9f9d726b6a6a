"""PyTorch's random state: kept and put back, drawn from seeds, or a stream of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def rng_state() -> dict[str, Tensor]:
    """PyTorch's random state on the CPU and, where there is one, the GPU."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Tensor]) -> None:
    """Go on drawing where :func:`rng_state` was taken."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def drawn_from(device: torch.device | str, *seeds: int) -> Iterator[None]:
    """Draw PyTorch's random numbers from ``seeds``, any of which makes them others; the caller's are left alone."""
    with _own(device):
        _begin(device, np.random.SeedSequence(seeds))
        yield


class RandomStream:
    """Random numbers that depend on a seed and on what was drawn from the stream before, on nothing else.

    Args:
        device: where numbers are drawn.
        seed: None takes one from the operating system.
    """

    def __init__(self, device: torch.device | str, seed: int | None = None) -> None:
        self.device = device
        entropy = np.random.SeedSequence(seed)
        with _own(device):
            _begin(device, entropy)
            self._state = rng_state()

    @contextmanager
    def draw(self) -> Iterator[None]:
        """Whatever PyTorch draws inside comes from this stream."""
        with _own(self.device):
            set_rng_state(self._state)
            yield
            self._state = rng_state()


def _begin(device: torch.device | str, entropy: np.random.SeedSequence) -> None:
    """Seed the CPU's generator, and a GPU's if that is the device: others belong to somebody else."""
    seed = int(entropy.generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def _own(device: torch.device | str) -> Iterator[None]:
    """Put the caller's random state back afterwards."""
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
