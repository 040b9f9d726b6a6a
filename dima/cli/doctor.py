"""What this installation and this machine offer: versions, device, cores, memory, rendering."""

from __future__ import annotations

import io
import platform
import shutil
import sys
import warnings
from contextlib import redirect_stderr
from ctypes.util import find_library
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from dima.runtime import machine
from dima.runtime.provenance import package_version
from dima.version import __version__

_MODULES = {
    "torch": "torch",
    "numpy": "numpy",
    "gymnasium": "gymnasium",
    "pettingzoo": "pettingzoo",
    "gymnasium-robotics": "gymnasium_robotics",
    "mujoco": "mujoco",
    "mpe2": "mpe2",
    "tyro": "tyro",
    "safetensors": "safetensors",
    "PyYAML": "yaml",
    "rich": "rich",
    "tensorboard": "tensorboard",
}
_EXTRAS = {"wandb": "wandb"}
_MEMORY_NEEDED = 4 * 2**30  # what the small preset stays under


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``fatal`` when the library cannot work like this."""

    name: str
    text: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{'BROKEN' if self.fatal else 'ok':<8}{self.name:<20}{self.text}"


def examine() -> list[Finding]:
    """Everything worth knowing before a long run, the most basic first."""
    findings = [
        Finding("dima", __version__),
        Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", _too_old()),
    ]
    findings += [_package(name, module, needed=True) for name, module in _MODULES.items()]
    findings += [_package(name, module, needed=False) for name, module in _EXTRAS.items()]
    findings += [_device(), Finding("cores", str(machine.cores())), _memory(), _disk()]
    return [*findings, *(_renderer(name) for name in ("EGL", "OSMesa"))]


def _too_old() -> bool:
    return sys.version_info < (3, 10)


def _package(name: str, module: str, needed: bool) -> Finding:
    version = package_version(name)
    if version is None:
        optional = "" if needed else f" (optional: pip install 'dima-marl[{name}]')"
        return Finding(name, f"not installed{optional}", needed)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # what packages say while they are imported
            warnings.simplefilter("ignore")
            import_module(module)
    except Exception as error:  # whatever a broken installation raises is what we want to show
        return Finding(name, f"{version} cannot be imported: {' '.join(str(error).split())}", needed)
    return Finding(name, version)


def _device() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("device", "unknown: PyTorch cannot be imported", fatal=True)
    if not torch.cuda.is_available():
        return Finding("device", "cpu (no CUDA GPU)")
    return Finding("device", f"cuda: {torch.cuda.get_device_name()}")


def _memory() -> Finding:
    free, total = machine.free_memory(), machine.total_memory()
    short = "; the small preset wants 4 GiB" if free < _MEMORY_NEEDED else ""
    return Finding("memory", f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB{short}")


def _disk() -> Finding:
    return Finding("disk", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free here")


def _renderer(name: str) -> Finding:
    found = find_library(name)
    return Finding(name, f"{found}: MUJOCO_GL={name.lower()} can render" if found else "not found (optional: pictures)")
