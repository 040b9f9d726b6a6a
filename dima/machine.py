"""What this machine offers: cores, memory, devices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from dima.errors import ConfigError

if TYPE_CHECKING:
    import torch


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory() -> int:
    """Bytes of memory this process may use at most: the machine's, or its container's."""
    total: int = psutil.virtual_memory().total
    return min(total, _container("memory.max") or _container("memory.limit_in_bytes") or total)


def free_memory() -> int:
    """Bytes of memory this process could still take without swapping or being killed."""
    used = _container("memory.current") or _container("memory.usage_in_bytes") or 0
    return max(0, min(psutil.virtual_memory().available, total_memory() - used))


def choose_device(name: str) -> torch.device:
    """The device a run computes on; ``auto`` takes a CUDA GPU where there is one.

    Raises:
        ConfigError: CUDA is asked for and this machine or this PyTorch has none.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        why = "this PyTorch is built without CUDA" if torch.version.cuda is None else "no usable CUDA GPU was found"
        raise ConfigError(f"device = 'cuda' cannot be used: {why}; choose 'cpu' or 'auto'")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")


def _container(file: str) -> int | None:
    """A number from the control group's memory files (version 2, then 1), where there is one."""
    for folder in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory"):
        try:
            return int(Path(folder, file).read_text())
        except (OSError, ValueError):
            continue
    return None
