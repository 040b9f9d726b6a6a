"""Exceptions on their way out of another process: type, message, notes and causes outlive the journey."""

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
    """An exception in a form that can always be sent."""

    words: bytes  # pickled: the exception or, where it does not survive that, what to rebuild it from
    message: str
    trace: str  # its traceback with causes and notes

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The first form that comes back as it was: itself, rebuilt, of a class that it derives from."""
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        message = _message(error)
        for form in (error, *_forms(error, message)):
            try:
                failure = cls(pickle.dumps(form), message, trace)
                back = _from_words(failure.words)
            except Exception:  # whatever its class does when it is pickled or built
                continue
            if isinstance(error, type(back)) and _message(back) == message:
                return failure
        return cls(pickle.dumps(RuntimeError(message)), message, trace)

    def error(self) -> BaseException:
        """The exception, of its own class or of the nearest one above it that is known here."""
        try:
            return _from_words(self.words)
        except Exception:  # its class came into being over there
            return RuntimeError(self.message)


def _forms(error: BaseException, message: str) -> Iterator[Form]:
    attributes = {name: value for name, value in vars(error).items() if _survives(value)}
    for kind in type(error).__mro__:
        if issubclass(kind, Exception):
            yield kind, error.args, attributes
            yield kind, (message,), attributes


def _from_words(words: bytes) -> BaseException:
    form = pickle.loads(words)
    if isinstance(form, BaseException):
        return form
    kind, args, attributes = form
    error: BaseException = kind.__new__(kind, *args)  # what its __init__ would want is not known
    error.__dict__.update(attributes)
    return error


def _survives(value: Any) -> bool:
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
