"""Import packages in a process of their own: a broken one may raise anything, or end it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MARK = "\x01"  # begins our lines, among what packages print
_PROGRAM = f"""
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
def tell(*facts): print("{_MARK}" + json.dumps(facts), flush=True)
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        tell(name, " ".join(str(error).split()) or type(error).__name__)
    else:
        tell(name, "")
torch = sys.modules.get("torch")
if torch is not None:
    gpu = torch.cuda.is_available()
    facts = {{"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name() if gpu else None}}
    tell("", facts | {{"memory": torch.cuda.get_device_properties(0).total_memory if gpu else 0}})
"""


@dataclass(frozen=True)
class Probe:
    """What importing showed.

    Attributes:
        faults: why a module cannot be imported; empty if it can.
        torch: PyTorch's ``cuda`` version, ``gpu`` name and its ``memory`` in bytes; None if it was not imported.
    """

    faults: Mapping[str, str]
    torch: Mapping[str, Any] | None = None


def probe(modules: Sequence[str]) -> Probe:
    """Import modules one after another; after one that ends the process, go on behind it in another."""
    faults: dict[str, str] = {}
    while left := [name for name in modules if name not in faults]:
        done = subprocess.run([sys.executable, "-c", _PROGRAM, *left], capture_output=True, text=True, errors="replace")
        lines = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
        found = dict(map(json.loads, lines))
        torch = found.pop("", None)
        faults |= found
        if torch is not None or not (dead := [name for name in left if name not in found]):
            return Probe(faults, torch)
        faults[dead[0]] = f"it ends Python{_signal(done.returncode)}"
    return Probe(faults)


def _signal(status: int) -> str:
    return f" by {signal.Signals(-status).name}" if status < 0 else f" with status {status}"
