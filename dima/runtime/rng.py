"""PyTorch's random state: save, restore, seed a block, independent streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def rng_state() -> dict[str, Tensor]:
    """PyTorch's random state on the CPU and, if one is in use, the GPU."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Tensor]) -> None:
    """Restore a state of :func:`rng_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def drawn_from(device: torch.device | str, *seeds: int) -> Iterator[None]:
    """Seed PyTorch's generators for the block; the caller's random state comes back afterwards.

    Args:
        device: CPU, or the GPU whose generator is seeded, too.
        seeds: every one of them changes all draws.
    """
    with _restored(device):
        _seed(device, np.random.SeedSequence(seeds))
        yield


class RandomStream:
    """A random stream independent of PyTorch's global one.

    Args:
        device: of the generator.
        seed: None takes one from the operating system.
    """

    def __init__(self, device: torch.device | str, seed: int | None = None) -> None:
        self.device = device
        entropy = np.random.SeedSequence(seed)
        with _restored(device):
            _seed(device, entropy)
            self._state = rng_state()

    @contextmanager
    def draw(self) -> Iterator[None]:
        """Draw PyTorch's random numbers from this stream while the block runs."""
        with _restored(self.device):
            set_rng_state(self._state)
            yield
            self._state = rng_state()


def _seed(device: torch.device | str, entropy: np.random.SeedSequence) -> None:
    """Seed the CPU's generator, and a GPU's if that is the device."""
    seed = int(entropy.generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def _restored(device: torch.device | str) -> Iterator[None]:
    """Restore the caller's random state after the block."""
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
