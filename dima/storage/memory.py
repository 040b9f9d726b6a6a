"""Memory in proportion: what a config of a stranger asks for is compared with what there is before it is taken."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from dima.errors import ConfigError

_SIZED = ("empty", "zeros", "ones", "full", "rand", "randn", "empty_strided")  # make tensors of the size given first
_SIZED_LIKE = ("new_empty", "new_zeros", "new_ones", "new_full")  # likewise, after the tensor they are methods of
INIT_FACTOR = 4  # times the bytes of a checkpoint: its networks, and what they are initialised with
_PIECE = 1 << 16  # bytes counted at least for a tensor and the module around it
_SLACK = 1 << 27  # bytes that nothing needs to account for


@contextmanager
def memory_limit(limit: int, what: str) -> Iterator[None]:
    """Refuse tensors that would take more than ``limit`` bytes (and a little) together, before they are made.

    Args:
        limit: bytes.
        what: what asks for more, and than what it is more, for the message.

    Raises:
        ConfigError: they would, or the machine refused them.
    """
    try:
        with _Budget(limit + _SLACK, what):
            yield
    except MemoryError as error:
        raise ConfigError(f"{what}: no memory is left") from error
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise ConfigError(f"{what}: no memory is left") from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, here or on a GPU."""
    lacking = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, lacking) or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


class _Budget(TorchFunctionMode):
    """Counts the tensors that are made anew."""

    def __init__(self, limit: int, what: str) -> None:
        super().__init__()
        self.left, self.what = limit, what

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if (count := _entries(getattr(func, "__name__", ""), args, kwargs)) is not None:
            kind = kwargs.get("dtype") or torch.get_default_dtype()
            self.left -= max(_PIECE, count * kind.itemsize)
            if self.left < 0:
                raise ConfigError(f"{self.what}: its sizes are too large")
        return func(*args, **kwargs)


def _entries(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """How many entries a new tensor will have; None where a function makes none of a size of its own."""
    if name in _SIZED or name in _SIZED_LIKE:
        given = args[name in _SIZED_LIKE :]
        size = kwargs["size"] if not given else given[0] if isinstance(given[0], Sequence) else given
        return math.prod(size)
    if name == "eye":
        return math.prod((*args, *args)[:2])
    if name == "linspace":
        return int(args[2] if len(args) > 2 else kwargs["steps"])
    if name == "arange":
        start, end, step = (0, args[0], 1) if len(args) == 1 else (*args, 1)[:3]
        return max(0, math.ceil((end - start) / step))
    return None
