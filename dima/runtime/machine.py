"""What this machine offers: cores and memory, as far as this process may use them; and how freed memory is reused."""

from __future__ import annotations

import ctypes
import os
import sys
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


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory instead of handing it back and asking for it anew; whether that worked.

    The C library gives every large tensor pages of its own, which the kernel must clear: a sixth of the time of a
    published-size update. There is no way back. Only glibc is known to do it.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    trim_threshold, mmap_max = -1, -4
    return bool(libc.mallopt(trim_threshold, -1) and libc.mallopt(mmap_max, 0))


def _container(file: str) -> int | None:
    """A number from the control group's memory files (version 2, then 1), where there is one."""
    for folder in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory"):
        try:
            return int(Path(folder, file).read_text())
        except (OSError, ValueError):
            continue
    return None
