"""Exceptions sent between processes with type, message, notes and causes."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Form = tuple[type[BaseException], tuple[Any, ...], dict[str, Any]]  # class, args, attributes


class JobError(Exception):
    """The cause of an exception from another process: its traceback there, with its own causes, as text."""

    def __str__(self) -> str:
        return f"in another process:\n{self.args[0]}"


@dataclass(frozen=True)
class Failure:
    """An exception in a form that can always be pickled."""

    pickled: bytes  # the exception or, where that cannot be unpickled, the form to rebuild it from
    message: str
    trace: str  # its traceback with causes and notes

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The first form that unpickles to the same message: itself, rebuilt, or of one of its base classes."""
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        message = _message(error)
        for form in (error, *_forms(error, message)):
            try:
                failure = cls(pickle.dumps(form), message, trace)
                back = _unpickled(failure.pickled)
            except Exception:  # of any kind, from the class's own pickling or __new__
                continue
            if isinstance(error, type(back)) and _message(back) == message:
                return failure
        return cls(pickle.dumps(RuntimeError(message)), message, trace)

    def error(self) -> BaseException:
        """The exception, of its own class or of its nearest base class that exists in this process."""
        try:
            return _unpickled(self.pickled)
        except Exception:  # its class was defined in the other process
            return RuntimeError(self.message)


def _forms(error: BaseException, message: str) -> Iterator[Form]:
    attributes = {name: value for name, value in vars(error).items() if _can_be_pickled(value)}
    for kind in type(error).__mro__:
        if issubclass(kind, Exception):
            yield kind, error.args, attributes
            yield kind, (message,), attributes


def _unpickled(pickled: bytes) -> BaseException:
    form = pickle.loads(pickled)
    if isinstance(form, BaseException):
        return form
    kind, args, attributes = form
    error: BaseException = kind.__new__(kind, *args)  # the arguments of its __init__ are not known
    error.__dict__.update(attributes)
    return error


def _can_be_pickled(value: Any) -> bool:
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:
        return False
    return True


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return f"{type(error).__name__}, whose message cannot be made"
