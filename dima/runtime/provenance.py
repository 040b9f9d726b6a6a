"""Where a run comes from: versions, commit, class of machine. No names of people or hosts."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dima.runtime import machine
from dima.version import __version__

PACKAGES = ("torch", "numpy", "gymnasium", "pettingzoo", "gymnasium-robotics", "mujoco", "mpe2")


def package_version(name: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def protocol(device: str) -> dict[str, Any]:
    """Everything outside the config that a result depends on."""
    return {
        "dima": __version__,
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "commit": commit(),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": machine.cores(),
            "memory_gib": round(machine.total_memory() / 2**30, 1),
            "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        },
    }


def commit() -> dict[str, Any] | None:
    """Commit and uncommitted changes, when the library runs from its own git checkout; else None."""
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head = _git("rev-parse", "HEAD")
    return None if head is None else {"id": head.strip(), "dirty": bool(_git("status", "--porcelain"))}


def uncommitted_diff() -> str:
    """What differs from the commit, as a patch; empty when nothing does or there is no checkout."""
    return _git("diff", "HEAD") or ""


def _git(*command: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *command],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
