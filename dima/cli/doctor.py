"""Check the installation and the machine: versions, device, cores, memory, rendering."""

from __future__ import annotations

import io
import os
import platform
import shutil
import sys
import warnings
from contextlib import redirect_stderr
from ctypes.util import find_library
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import distribution
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
_EXTRAS = {"ray": "ray", "wandb": "wandb"}
_MUJOCO = ("mujoco", "mujoco-core", "mujoco-studio")  # one package up to version 3, three with a common folder since 4
_MUJOCO_FAULTS = {"4.0.0": "its sparse Cholesky factorisation gives wrong accelerations"}
_MUJOCO_REPAIR = f"pip uninstall --yes {' '.join(_MUJOCO)} && pip install 'mujoco!=4.0.0'"
_MEMORY_NEEDED = 4 * 2**30  # enough for the small preset


@dataclass(frozen=True)
class Finding:
    """One line of the report: ``fatal`` breaks the library now, ``risky`` may later."""

    name: str
    text: str
    fatal: bool = False
    risky: bool = False

    def __str__(self) -> str:
        return f"{'BROKEN' if self.fatal else 'RISK' if self.risky else 'ok':<8}{self.name:<20}{self.text}"


def examine() -> list[Finding]:
    """Run all checks."""
    findings = [
        Finding("dima", __version__),
        Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", _too_old()),
    ]
    findings += [
        _mujoco() if name == "mujoco" else _package(name, module, needed=True) for name, module in _MODULES.items()
    ]
    findings += [_package(name, module, needed=False) for name, module in _EXTRAS.items()]
    findings += [_device(), Finding("cores", str(machine.cores())), _memory(), _disk()]
    return [*findings, *(_renderer(name) for name in ("EGL", "OSMesa")), *_asked_renderer()]


def _too_old() -> bool:
    return sys.version_info < (3, 10)


def _package(name: str, module: str, needed: bool) -> Finding:
    version = package_version(name)
    if version is None:
        optional = "" if needed else f" (optional: pip install 'dima-marl[{name}]')"
        return Finding(name, f"not installed{optional}", needed)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # warnings at import
            warnings.simplefilter("ignore")
            import_module(module)
    except Exception as error:  # a broken installation can raise anything
        return Finding(name, f"{version} cannot be imported: {' '.join(str(error).split())}", needed)
    return Finding(name, version)


def _mujoco() -> Finding:
    """Check MuJoCo.

    pip silently loses or mixes its files when it replaces version 3 by 4 in place, or 4 by 3.
    """
    found, version = _package("mujoco", "mujoco", needed=True), package_version("mujoco")
    if version is None:
        return found
    others = {name: other for name in _MUJOCO[1:] if (other := package_version(name)) is not None}
    foreign = [f"{name} {other}" for name, other in others.items() if other != version]
    risky = False
    if missing := sum(map(_missing_files, ("mujoco", *others))):
        fault = f"is half upgraded: {missing} of its files are missing, because pip replaced version 3 by 4 or 4 by 3"
    elif foreign:
        fault = f"is half upgraded: it shares its files with {' and '.join(foreign)}, of another version"
        risky = not found.fatal  # works until pip changes one of them
    elif version in _MUJOCO_FAULTS:
        fault = f"is faulty: {_MUJOCO_FAULTS[version]}"
    else:
        return found
    return replace(found, text=f"{version} {fault}; do: {_MUJOCO_REPAIR}", fatal=not risky, risky=risky)


def _missing_files(package: str) -> int:
    """Number of missing files of an installed package."""
    files = distribution(package).files or ()
    return sum(file.suffix != ".pyc" and not Path(str(file.locate())).exists() for file in files)


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
    short = "; the small preset needs 4 GiB" if free < _MEMORY_NEEDED else ""
    return Finding("memory", f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB{short}")


def _disk() -> Finding:
    return Finding("disk", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free in this folder")


def _renderer(name: str) -> Finding:
    found = find_library(name)
    if not found:
        return Finding(name, "not found (optional: pictures)")
    from dima.envs.render.headless import error_of

    fault = error_of(name.lower())
    return Finding(name, f"{found}: MUJOCO_GL={name.lower()} {f'cannot render: {fault}' if fault else 'can render'}")


def _asked_renderer() -> list[Finding]:
    """The backend that ``MUJOCO_GL`` asks for, if it cannot draw."""
    from dima.envs.render.headless import VARIABLE, NoRenderer, backend

    if not os.environ.get(VARIABLE):
        return []
    try:
        backend()
    except NoRenderer as error:
        return [Finding("pictures", str(error), risky=True)]
    return []
