"""Memory limits for models built from an untrusted config."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from dima.errors import ConfigError

_SIZED = (
    "empty",
    "zeros",
    "ones",
    "full",
    "rand",
    "randn",
    "empty_strided",
)  # size is the first argument
_SIZED_LIKE = ("new_empty", "new_zeros", "new_ones", "new_full")  # likewise, after self
INIT_FACTOR = 4  # bytes to initialise networks, in multiples of their checkpoint
_MIN_BYTES = 1 << 16  # counted for each tensor, with the module around it
_SLACK = 1 << 27  # bytes allowed in addition to any limit


@contextmanager
def memory_limit(limit: int, what: str) -> Iterator[None]:
    """Refuse to allocate new tensors of more than about ``limit`` bytes in total.

    Args:
        limit: bytes.
        what: start of the message: which config asks for more than what.

    Raises:
        ConfigError: the limit is exceeded, or the machine is out of memory.
    """
    try:
        with _Budget(limit + _SLACK, what):
            yield
    except MemoryError as error:
        raise ConfigError(f"{what}: out of memory") from error
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise ConfigError(f"{what}: out of memory") from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is an out-of-memory error, on the CPU or a GPU."""
    lacking = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, lacking) or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


class _Budget(TorchFunctionMode):
    """Counts the bytes of new tensors before they are allocated."""

    def __init__(self, limit: int, what: str) -> None:
        super().__init__()
        self.left, self.what = limit, what

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if (count := _entries(getattr(func, "__name__", ""), args, kwargs)) is not None:
            kind = kwargs.get("dtype") or torch.get_default_dtype()
            self.left -= max(_MIN_BYTES, count * kind.itemsize)
            if self.left < 0:
                raise ConfigError(f"{self.what}: its sizes are too large")
        return func(*args, **kwargs)


def _entries(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """Number of elements of the tensor that a call creates; None for other functions."""
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
