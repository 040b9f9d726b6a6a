"""Headless rendering for MuJoCo: EGL, else OSMesa, or the backend in ``MUJOCO_GL``.

MuJoCo itself reads ``MUJOCO_GL`` on import, before it is known whether anything will be drawn. Contexts are therefore
opened here by name. A backend is first tried in a subprocess: one that fails to load prevents others from loading, and
a broken driver may crash.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import import_module
from textwrap import shorten
from typing import Any

from dima.errors import EnvError

VARIABLE = "MUJOCO_GL"
_KNOWN = ("egl", "osmesa", "glfw", "cgl")  # modules of the package mujoco with a GLContext
_AUTOMATIC = ("", "1", "on", "true", "enable", "enabled")  # MuJoCo's values for automatic choice
_TRY = """
import mujoco
from mujoco.{name} import GLContext
context = GLContext(8, 8)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100.value)
os._exit(0)
"""
_INSTALL = "install libegl1 or libosmesa6 (on Debian and Ubuntu: apt install libegl1)"


class NoRenderer(EnvError):
    """This machine has nothing to draw with."""


def open_context(width: int, height: int) -> Any:
    """An OpenGL context of the first backend that works, with ``make_current`` and ``free``.

    Raises:
        NoRenderer: none works; the message says what to install.
    """
    return import_module(f"mujoco.{backend()}").GLContext(width, height)


def backend() -> str:
    """The backend to draw with.

    Raises:
        NoRenderer: none works, or not the one that ``MUJOCO_GL`` names.
    """
    asked = os.environ.get(VARIABLE, "").strip().lower()
    if asked not in _AUTOMATIC:
        if asked not in _KNOWN:
            raise NoRenderer(f"{VARIABLE} = {asked!r} draws no pictures: unset it, or give one of {', '.join(_KNOWN)}")
        if why := error_of(asked):
            raise NoRenderer(f"{VARIABLE} = {asked!r} cannot draw here ({why}): unset it, or {_INSTALL}")
        return asked
    faults = {}
    for name in _candidates():
        faults[name] = error_of(name)
        if not faults[name]:
            return name
    reasons = "; ".join(f"{name}: {why}" for name, why in faults.items())
    raise NoRenderer(f"MuJoCo cannot draw pictures here ({reasons}): {_INSTALL}")


def _candidates() -> tuple[str, ...]:
    return {"Linux": ("egl", "osmesa"), "Darwin": ("cgl", "glfw")}.get(platform.system(), ("glfw",))


@cache
def error_of(name: str) -> str:
    """Error of a backend, or "" if it works; takes a second, cached."""
    program = "import os\n" + _TRY.format(name=name)
    try:
        tried = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "it did not answer within a minute"
    if tried.returncode == 0:
        return ""
    lines = [line.strip() for line in tried.stderr.splitlines() if line.strip()]
    return shorten(lines[-1], 160, placeholder=" …") if lines else f"it crashed with status {tried.returncode}"
