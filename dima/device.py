"""Where tensors live: chosen once, from the config."""

from __future__ import annotations

import torch

from dima.errors import ConfigError


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
