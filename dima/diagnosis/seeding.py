"""Random numbers from a seed of their own, the caller's left alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(device: torch.device | str, *seeds: int) -> Iterator[None]:
    """Draw PyTorch's random numbers from ``seeds``, any of which makes them others."""
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
        yield
