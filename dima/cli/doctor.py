"""Check the installation and the machine: versions, extras, device, cores, memory, rendering, films.

Packages are imported in a process of their own, for a broken one may end it; this one needs no PyTorch.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes.util import find_library
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from dima.cli.probe import Probe, probe
from dima.runtime import machine
from dima.runtime.provenance import package_version
from dima.version import __version__

DISTRIBUTION = "dima-marl"
PACKAGES = {  # that the library needs: how each is imported
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "gymnasium": "gymnasium",
    "pettingzoo": "pettingzoo",
    "gymnasium-robotics": "gymnasium_robotics",
    "mujoco": "mujoco",
    "mpe2": "mpe2",
    "tyro": "tyro",
    "safetensors": "safetensors",
    "PyYAML": "yaml",
    "psutil": "psutil",
    "rich": "rich",
    "tensorboard": "tensorboard",
    "matplotlib": "matplotlib",
    "imageio": "imageio",
    "imageio-ffmpeg": "imageio_ffmpeg",
}
_FOR_DEVELOPERS = ("dev", "docs")  # extras
_MUJOCO = ("mujoco", "mujoco-core", "mujoco-studio")  # one package up to version 3, three with a common folder since 4
_MUJOCO_FAULTS = {"4.0.0": "its sparse Cholesky factorisation gives wrong accelerations"}
_MUJOCO_REPAIR = f"pip uninstall --yes {' '.join(_MUJOCO)} && pip install 'mujoco!=4.0.0'"
_OFF_SCREEN = {"EGL": "libegl1", "OSMesa": "libosmesa6"}  # libraries that draw without a screen: Debian's packages
_MEMORY_NEEDED = 4 * 2**30  # enough for the small preset


@dataclass(frozen=True)
class Finding:
    """One line of the report: ``fatal`` breaks the library now, ``risky`` may later, ``absent`` is done without."""

    name: str
    text: str
    fatal: bool = False
    risky: bool = False
    absent: bool = False

    @property
    def status(self) -> str:
        return "BROKEN" if self.fatal else "RISK" if self.risky else "absent" if self.absent else "ok"

    def __str__(self) -> str:
        return f"{self.status:<8}{self.name:<20}{self.text}"

    def to_dict(self) -> dict[str, str]:
        """As plain data for JSON."""
        return {"status": self.status.lower(), "name": self.name, "text": self.text}


def examine() -> list[Finding]:
    """Run all checks."""
    imported = probe([module for name, module in PACKAGES.items() if package_version(name) is not None])
    findings = [
        Finding("dima", __version__),
        Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", _too_old()),
    ]
    findings += [_package(name, imported.faults) for name in PACKAGES]
    findings += [_extra(name, packages) for name, packages in _extras().items()]
    findings += [_device(imported), Finding("cores", str(machine.cores())), _memory(), _disk(), _ffmpeg()]
    with ThreadPoolExecutor() as pool:  # a second each
        findings += pool.map(_renderer, ("CGL", "GLFW") if platform.system() == "Darwin" else (*_OFF_SCREEN, "GLFW"))
    return [*findings, _pictures()]


def _too_old() -> bool:
    return sys.version_info < (3, 10)


def _package(name: str, faults: Mapping[str, str]) -> Finding:
    """A package that the library needs."""
    version = package_version(name)
    if version is None:
        return Finding(name, f"not installed; do: pip install {name}", fatal=True)
    fault = faults.get(PACKAGES[name])
    found = Finding(name, f"{version} cannot be imported: {fault}" if fault else version, fatal=bool(fault))
    return _mujoco(found, version) if name == "mujoco" else found


def _extras() -> dict[str, list[str]]:
    """The packages of each extra, as the installed distribution says; none where it is not installed."""
    try:
        required = distribution(DISTRIBUTION).requires or []
    except PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for line in required:
        extra = re.search(r"extra == .(\w+)", line)
        package = re.match(r"[\w.-]+", line)
        if extra and package and extra[1] not in _FOR_DEVELOPERS:
            found.setdefault(extra[1], []).append(package[0])
    return found


def _extra(name: str, packages: Sequence[str]) -> Finding:
    versions = {package: package_version(package) for package in packages}
    if missing := [package for package, version in versions.items() if version is None]:
        lacking = "" if len(missing) == len(packages) else f" ({', '.join(missing)})"
        text = f"not installed{lacking}; optional: pip install '{DISTRIBUTION}[{name}]'"
        return Finding(f"[{name}]", text, absent=True)
    return Finding(f"[{name}]", ", ".join(f"{package} {version}" for package, version in versions.items()))


def _mujoco(found: Finding, version: str) -> Finding:
    """Check MuJoCo.

    pip silently loses or mixes its files when it replaces version 3 by 4 in place, or 4 by 3.
    """
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


def _device(imported: Probe) -> Finding:
    facts = imported.torch
    if facts is None:
        return Finding("device", "unknown: PyTorch cannot be imported", fatal=True)
    if facts["gpu"]:
        return Finding("device", f"cuda: {facts['gpu']}, {facts['memory'] / 2**30:.0f} GiB, CUDA {facts['cuda']}")
    if not Path("/dev/nvidia0").exists():
        return Finding("device", "cpu (no CUDA GPU)")
    why = f"its CUDA {facts['cuda']} finds no driver that fits" if facts["cuda"] else "it is built without CUDA"
    return Finding("device", f"cpu: there is an NVIDIA GPU, but PyTorch cannot use it: {why}", risky=True)


def _memory() -> Finding:
    free, total = machine.free_memory(), machine.total_memory()
    short = "; the small preset needs 4 GiB" if free < _MEMORY_NEEDED else ""
    return Finding("memory", f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB{short}")


def _disk() -> Finding:
    return Finding("disk", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free in this folder")


def _ffmpeg() -> Finding:
    """What films are written with; it comes with imageio-ffmpeg."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        told = subprocess.run([get_ffmpeg_exe(), "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Finding("ffmpeg", f"cannot be run, so there are no films: {' '.join(str(error).split())}", risky=True)
    version = re.match(r"ffmpeg version (\S+)", told.stdout)
    return Finding("ffmpeg", f"{version[1] if version else 'of unknown version'}: films can be written")


def _renderer(name: str) -> Finding:
    from dima.envs.render.headless import error_of

    library = find_library(name)
    if not library and name in _OFF_SCREEN:
        text = f"not found (optional: pictures); on Debian and Ubuntu: apt install {_OFF_SCREEN[name]}"
        return Finding(name, text, absent=True)
    fault = error_of(name.lower())
    shown = f"{library}: " if name in _OFF_SCREEN else ""
    text = f"{shown}MUJOCO_GL={name.lower()} {f'cannot render: {fault}' if fault else 'can render'}"
    return Finding(name, text, absent=bool(fault))


def _pictures() -> Finding:
    """What pictures are drawn with."""
    from dima.envs.render.headless import NoRenderer, backend

    try:
        return Finding("pictures", f"drawn by {backend()}")
    except NoRenderer as error:
        return Finding("pictures", str(error), risky=True)
