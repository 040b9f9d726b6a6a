"""Cores and memory available to this process."""

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
    """Memory of the machine or its container, in bytes."""
    total: int = psutil.virtual_memory().total
    return min(total, _container("memory.max") or _container("memory.limit_in_bytes") or total)


def free_memory() -> int:
    """Memory this process can still allocate without swapping or being killed, in bytes."""
    used = _container("memory.current") or _container("memory.usage_in_bytes") or 0
    return max(0, min(psutil.virtual_memory().available, total_memory() - used))


def keep_freed_memory() -> bool:
    """Let the allocator reuse freed memory instead of returning it to the kernel; returns whether that worked.

    By default every large tensor gets fresh pages, which the kernel must clear: a sixth of the time of a
    published-size update. The setting cannot be undone, and only glibc has it.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    trim_threshold, mmap_max = -1, -4
    return bool(libc.mallopt(trim_threshold, -1) and libc.mallopt(mmap_max, 0))


def _container(file: str) -> int | None:
    """A number from the control group's memory files (version 2, then 1), or None."""
    for folder in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory"):
        try:
            return int(Path(folder, file).read_text())
        except (OSError, ValueError):
            continue
    return None
