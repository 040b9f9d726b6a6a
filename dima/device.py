"""Where tensors live: chosen once, from the config; and whether they fit there."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dima.errors import ConfigError
from dima.machine import free_memory


def pick_device(name: str) -> torch.device:
    """``auto`` takes a CUDA GPU if there is one.

    Raises:
        ConfigError: ``cuda`` was asked for and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda is not None
        why = "no CUDA GPU was found" if built else "this PyTorch was built without CUDA"
        raise ConfigError(f"device = cuda cannot be used: {why}; use --device cpu or auto")
    return torch.device(name)


def require_memory(
    field: str,
    capacity: int,
    rows: int,
    layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    device: torch.device,
) -> None:
    """Make sure that a store fits.

    Args:
        field: the setting that decides its size, and
        capacity: what it is set to.
        rows: how many are to be kept.
        layout: what a row is made of.
        device: where.

    Raises:
        ConfigError: it does not fit; a capacity that would is named.
    """
    need = rows * sum(torch.Size(shape).numel() * kind.itemsize for shape, kind in layout.values())
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    if need > free:
        raise ConfigError(
            f"{field} = {capacity} needs {need / 2**30:.1f} GiB on {device}, which has {free / 2**30:.1f} GiB free: "
            f"lower it to {int(capacity * 0.8 * free / need)} or less"
        )
