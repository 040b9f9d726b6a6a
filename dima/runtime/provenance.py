"""Provenance of a run: versions, commit, class of machine; no names of people or hosts."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

from dima.runtime import machine
from dima.version import __version__

PACKAGES = (
    "torch",
    "numpy",
    "gymnasium",
    "pettingzoo",
    "gymnasium-robotics",
    "mujoco",
    "mpe2",
    "jaxmarl",
    "jax",
    "jaxlib",
)


def package_version(name: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def protocol(device: str) -> dict[str, Any]:
    """Versions, commit and machine: everything outside the config that a result depends on."""
    import torch  # the versions alone, as in `dima doctor`, do without

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


def protocol_history(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Protocols of a run in order: its start's, then those of resumes under other versions or machines."""
    resumed = facts.get("resumed")
    return [facts, *(one for one in (resumed if isinstance(resumed, list) else ()) if isinstance(one, dict))]


def commit_id(facts: object) -> str:
    """The commit in an untrusted protocol, abbreviated; empty where unknown."""
    made = facts.get("commit") if isinstance(facts, Mapping) else None
    found = re.fullmatch(r"([0-9a-f]{12})[0-9a-f]*", str(made.get("id"))) if isinstance(made, Mapping) else None
    return found[1] if found else ""


def resumed(facts: Mapping[str, Any], step: int, now: Mapping[str, Any]) -> dict[str, Any]:
    """Add the protocol ``now`` of a resume at ``step`` to a run's record, if it differs from the last one."""
    start = {name: value for name, value in facts.items() if name != "resumed"}
    if step == 0:
        return {**start, **now}
    kept = [one for one in protocol_history(facts)[1:] if one.get("step", 0) < step]  # later resumes saved nothing
    last = [facts, *kept][-1]
    if any(last.get(name) != value for name, value in now.items()):
        kept.append({"step": step, **now})
    return start | ({"resumed": kept} if kept else {})


def uses_mujoco(task: str) -> bool:
    """Whether a task of the library runs on MuJoCo; unknown, and False, for a user's own."""
    return task.startswith(("mamujoco/", "dexhands/"))


def mujoco_versions(task: str, facts: Mapping[str, Any]) -> list[str]:
    """MuJoCo versions that simulated a run, in order, repeats merged; none for tasks of other simulators."""
    if not uses_mujoco(task):
        return []
    packages = (one.get("packages") for one in protocol_history(facts))
    found = (some.get("mujoco") for some in packages if isinstance(some, dict))
    return [version for version, _ in groupby(str(version) for version in found if version is not None)]


def simulator_line(task: str, facts: Mapping[str, Any], *, here: bool = False) -> str:
    """The simulator and its versions in words, such as ``MuJoCo 3.17.0``; empty for tasks of other simulators.

    Args:
        task: its name.
        facts: the run's protocol.
        here: whether episodes are played now, by the installed version.
    """
    versions = mujoco_versions(task, facts)
    installed = package_version("mujoco") if here and uses_mujoco(task) else None
    if installed is None:
        return f"MuJoCo {', then '.join(versions)}" if versions else ""
    learnt = f", trained under {', then '.join(versions)}" if versions != [installed] else ""
    return f"MuJoCo {installed}{learnt if versions else ''}"


def check_protocol(facts: Mapping[str, Any]) -> None:
    """Require the form of :func:`protocol`; records of earlier versions lack some fields.

    Raises:
        ValueError: a field has another type.
    """
    packages, made, where = facts.get("packages", {}), facts.get("commit"), facts.get("machine")
    texts = [facts.get("dima", ""), facts.get("python", "")]
    fine = isinstance(packages, dict) and (made is None or isinstance(made, dict)) and isinstance(where or {}, dict)
    if fine:
        texts += [text for text in packages.values() if text is not None]
        texts += [] if made is None else [made.get("id")]
        texts += [where.get(name) for name in ("system", "device")] if where else []
        fine = not where or all(isinstance(where.get(name), int | float) for name in ("cores", "memory_gib"))
        fine &= made is None or isinstance(made.get("dirty"), bool)
    if not fine or not all(isinstance(text, str) for text in texts):
        raise ValueError("its versions, commit or machine are not of the form that dima writes")


def commit() -> dict[str, Any] | None:
    """Commit id, and whether there are uncommitted changes; None outside the library's git checkout."""
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head = _git("rev-parse", "HEAD")
    return None if head is None else {"id": head.strip(), "dirty": bool(_git("status", "--porcelain"))}


def uncommitted_diff() -> str:
    """Changes since the commit as a patch; empty without changes or without a checkout."""
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
