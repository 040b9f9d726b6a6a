"""Convert one agent's observations and actions between its spaces and vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from dima.errors import EnvError

MAX_FEATURES = 4096  # of one agent's observation; larger ones are images, which no model here supports


class ObservationReader:
    """Reads one agent's observation into a vector, checked against its space.

    A Box is flattened, a Discrete observation becomes one-hot. PettingZoo's convention for action masks,
    ``{"observation": ..., "action_mask": ...}``, is supported.

    Args:
        where: name of the agent in messages, such as ``"mytask: agent 'left'"``.
        space: its observation space.

    Raises:
        EnvError: the space is empty, nested, too large or of an unsupported kind.
    """

    def __init__(self, where: str, space: spaces.Space[Any]) -> None:
        self.masked = isinstance(space, spaces.Dict) and set(space.spaces) == {"observation", "action_mask"}
        inner: Any = space["observation"] if isinstance(space, spaces.Dict) and self.masked else space
        self.start: int | None = None  # lowest choice, if Discrete
        if isinstance(inner, spaces.Discrete):
            self.size, self.start = int(inner.n), int(inner.start)
        elif isinstance(inner, spaces.Box):
            self.size = int(np.prod(inner.shape))
            if not (np.issubdtype(inner.dtype, np.number) or inner.dtype == np.bool_):
                raise EnvError(f"{where} observes {_short(inner)}: its dtype must be a number, such as numpy.float32")
        else:
            raise EnvError(
                f"{where} observes {_short(space)}: only Box and Discrete observations are handled, alone or as "
                "{'observation', 'action_mask'}; flatten it in your environment (gymnasium.spaces.flatten helps)"
            )
        if self.size == 0:
            raise EnvError(f"{where} observes {_short(space)}, which is empty: give it at least one feature")
        if self.size > MAX_FEATURES:
            raise EnvError(
                f"{where} observes {_short(space)} of {self.size} features: at most {MAX_FEATURES} are handled "
                "(images are not); encode the observation in your environment"
            )
        self.shape, self.dtype = inner.shape, inner.dtype
        self.converted_from = ""  # a wider dtype that was observed, such as float64 for a space of float32
        self.space = inner
        self.mask_dtype = space["action_mask"].dtype if isinstance(space, spaces.Dict) else None

    def read(self, value: Any, into: np.ndarray) -> str | None:
        """Write ``value`` into ``into`` (size,), or return a description of the error."""
        if self.masked:
            try:
                value = value["observation"]
            except (TypeError, KeyError, IndexError):
                return f"observed {_short(value)}: expected {{'observation': ..., 'action_mask': ...}}"
        if self.start is not None:
            return self._read_choice(value, into)
        if not isinstance(value, np.ndarray):
            return f"observed {_short(value)}: expected a numpy array of shape {self.shape}"
        if value.shape != self.shape:
            return f"observed an array of shape {value.shape}: its space says {self.shape}"
        if value.dtype != self.dtype and not np.can_cast(value.dtype, self.dtype):
            if not np.can_cast(value.dtype, self.dtype, "same_kind"):
                return (
                    f"observed an array of dtype {value.dtype}: its space says {self.dtype}; "
                    "convert the array, or declare that dtype"
                )
            self.converted_from = str(value.dtype)
        into[:] = value if value.ndim == 1 else value.reshape(-1)
        return None

    def batch_size(self, value: Any) -> int | None:
        """Size of the leading axis that ``value`` has beyond the space; None if it has none."""
        if self.masked and isinstance(value, Mapping):
            value = value.get("observation")
        return len(value) if np.ndim(value) == len(self.shape) + 1 else None

    def inverse(self, row: np.ndarray, mask: np.ndarray) -> Any:
        """The observation whose vector is ``row`` (size,), or the nearest one in the space.

        Args:
            row: features, such as a model's prediction.
            mask: (choices,) bool, for spaces with an action mask.
        """
        if self.start is not None:
            value: Any = self.start + row.argmax()
        else:
            low, high = self.space.low.reshape(-1), self.space.high.reshape(-1)
            whole = row if np.issubdtype(self.dtype, np.floating) else np.rint(row)
            value = np.clip(whole, low, high).astype(self.dtype).reshape(self.shape)
        if not self.masked:
            return value
        return {"observation": value, "action_mask": mask.astype(self.mask_dtype)}

    def _read_choice(self, value: Any, into: np.ndarray) -> str | None:
        assert self.start is not None
        try:
            choice = int(value) - self.start
        except (TypeError, ValueError):
            return f"observed {_short(value)}: expected a whole number"
        if not 0 <= choice < self.size:
            return f"observed {value}: expected a choice from {self.start} to {self.start + self.size - 1}"
        into[:] = 0
        into[choice] = 1
        return None


class ActionWriter:
    """Converts one agent's row of a joint action to its action space.

    Args:
        where: name of the agent in messages.
        space: its action space.

    Raises:
        EnvError: the space is empty, unbounded or of an unsupported kind.
    """

    def __init__(self, where: str, space: spaces.Space[Any]) -> None:
        self.where, self.space = where, space
        self.discrete = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Discrete):
            self.size, self.start = int(space.n), int(space.start)
        elif isinstance(space, spaces.Box):
            self.size, self.shape, self.dtype = int(np.prod(space.shape)), space.shape, space.dtype
            if self.size == 0:
                raise EnvError(f"{where} acts in {_short(space)}, which is empty: give it an action or leave it out")
            if not np.issubdtype(space.dtype, np.floating):
                raise EnvError(f"{where} acts in {_short(space)}: a Box of actions must be floating point, or Discrete")
            low, high = (bound.astype(np.float64).reshape(-1) for bound in (space.low, space.high))
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise EnvError(f"{where} acts in {_short(space)}, which is unbounded: give it finite bounds")
            self.low, self.high = low, high
            self.centre, self.half = (high + low) / 2, (high - low) / 2
            self.scaled = not (np.all(low == -1) and np.all(high == 1))
        else:
            raise EnvError(
                f"{where} acts in {_short(space)}: only Box (bounded) and Discrete actions are handled; "
                "flatten it into one of them in your environment"
            )

    def write(self, row: np.ndarray) -> Any:
        """Convert a row to the agent's action.

        Args:
            row: (A,) within [-1, 1] if continuous; entries past ``size`` are padding. The action may share its memory.
        """
        row = row[: self.size]
        if self.discrete:
            return int(row.argmax()) + self.start
        if self.scaled:
            row = np.minimum(np.maximum(self.centre + self.half * row, self.low), self.high)
        return row.astype(self.dtype, copy=False).reshape(self.shape)

    def inverse(self, action: Any) -> np.ndarray:
        """The row (size,) float32 of an action: the inverse of :meth:`write`, clipped to the space if continuous.

        Raises:
            EnvError: the action is of another shape or not one of the choices.
        """
        try:
            if self.discrete:
                return np.eye(self.size, dtype=np.float32)[range(self.size).index(int(action) - self.start)]
            values = np.asarray(action, dtype=np.float64).reshape(self.shape).reshape(-1)
        except (TypeError, ValueError):
            raise EnvError(
                f"{self.where} was given action {_short(action)}: its space is {_short(self.space)}"
            ) from None
        half = np.where(self.half > 0, self.half, 1)
        return np.clip((values - self.centre) / half, -1, 1).astype(np.float32)


def _short(value: Any) -> str:
    """Representation in one line of at most 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
