"""Device, precision of matrix products, and memory of a run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from dima.config import shown
from dima.errors import ConfigError
from dima.runtime.machine import free_memory


def pick_device(name: str) -> torch.device:
    """Resolve a device name; ``auto`` is a CUDA GPU if there is one.

    Raises:
        ConfigError: there is no such device, or ``cuda`` was asked for and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda is not None
        why = "no CUDA GPU was found" if built else "this PyTorch was built without CUDA"
        raise ConfigError(f"device = cuda cannot be used: {why}; use --device cpu or auto")
    try:
        return torch.device(name)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device = {shown(name)} is not one of auto, cpu, cuda") from None


Precision = Literal["float32", "bf16"]


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[object]:
    """Compute the block's matrix products in a precision; weights stay float32."""
    kind = torch.device(device).type
    if not torch.amp.is_autocast_available(kind):  # on "meta", where nothing is computed
        return nullcontext()
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")


def require_precision(device: torch.device | str, precision: Precision) -> None:
    """Require hardware support: emulated bf16 is many times slower than float32.

    Raises:
        ConfigError: the device has no bf16 units.
    """
    if precision == "float32":
        return
    on_gpu = torch.device(device).type == "cuda"
    if not (torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_has_bf16()):
        raise ConfigError(f"precision = bf16 cannot be used: {device} has no bf16 units; use float32")


def _cpu_has_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def require_memory(
    field: str,
    capacity: int,
    rows: int,
    layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    device: torch.device,
    held: int = 0,
) -> None:
    """Require that a store fits into memory.

    Args:
        field: the setting that decides its size.
        capacity: value of that setting.
        rows: number of rows to keep.
        layout: shape and type of each column of a row.
        device: of the store.
        held: rows that are allocated already.

    Raises:
        ConfigError: it does not fit; the message names a capacity that would.
    """
    row = sum(torch.Size(shape).numel() * kind.itemsize for shape, kind in layout.values())
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    need, free = rows * row, free + held * row
    if need > free:
        raise ConfigError(
            f"{field} = {capacity} needs {need / 2**30:.1f} GiB on {device}, which has {free / 2**30:.1f} GiB free: "
            f"lower it to {int(capacity * 0.8 * free / need)} or less"
        )
