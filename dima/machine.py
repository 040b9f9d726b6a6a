"""What this machine offers: cores and memory, as far as this process may use them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


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


def _container(file: str) -> int | None:
    """A number from the control group's memory files (version 2, then 1), where there is one."""
    for folder in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory"):
        try:
            return int(Path(folder, file).read_text())
        except (OSError, ValueError):
            continue
    return None
