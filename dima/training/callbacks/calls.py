"""How a run calls its callbacks, keeps their state and repeats a call that failed."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from dima.config import shown
from dima.errors import CallbackError, nearest, one_line
from dima.registry import load_name
from dima.storage.serialization import encode
from dima.training.callbacks.base import Callback, Status

HOOKS = ("on_evaluation", "on_iteration")  # in the order in which they are called


class Calls:
    """The callbacks of a run.

    Args:
        callbacks: with one of ``HOOKS`` each; None: not given, which a run that had some may not be resumed with.

    Attributes:
        stopped: why a callback stopped the run; empty while it goes on.
        failed: what was reported when a callback raised, to be reported again; None if all is well.

    Raises:
        CallbackError: one of them is no callback.
    """

    def __init__(self, callbacks: Sequence[Any] | None = None) -> None:
        if callbacks is not None and not isinstance(callbacks, Sequence):
            raise CallbackError(f"callbacks is of type {type(callbacks).__name__}: expected a list, callbacks=[...]")
        self.given = callbacks is not None
        self.all: list[Any] = [_checked(f"callbacks[{n}]", one) for n, one in enumerate(callbacks or ())]
        self.stopped = ""
        self.failed: dict[str, Any] | None = None
        self._kept = self._states()  # after the last report that succeeded

    def __bool__(self) -> bool:
        return bool(self.all)

    @property
    def see_evaluations(self) -> bool:
        """Whether one of them has ``on_evaluation``."""
        return any(_hook(callback, "on_evaluation") for callback in self.all)

    def report(self, facts: dict[str, Any], make_status: Callable[..., Status]) -> None:
        """Call every hook that is due.

        Args:
            facts: of the iteration, plain data: ``metrics``, ``returns``, ``evaluated``.
            make_status: makes what a callback sees, given how to stop.

        Raises:
            CallbackError: one raised; the checkpoint holds the states before this report, and the report.
        """
        self.failed = facts
        for hook in HOOKS:
            if hook == "on_iteration" or facts["evaluated"]:
                for callback in self.all:
                    if call := _hook(callback, hook):
                        status = make_status(stop=self._stopper(callback))
                        answer = _guarded(callback, hook, call, status)
                        if answer is not None:
                            raise CallbackError(
                                f"callback {_name(callback)}.{hook} returned {shown(answer)}: return nothing, and call "
                                "status.stop(reason) to stop"
                            )
        self._kept, self.failed = self._states(), None

    def checkpoint(self) -> dict[str, Any]:
        """States for :meth:`restore`; nothing for a run without callbacks."""
        if not self.all and not self.stopped:
            return {}
        stopped = "" if self.failed is not None else self.stopped  # said again when it is reported again
        return {"callbacks": {"states": self._kept, "stopped": stopped, "failed": self.failed}}

    def restore(self, saved: dict[str, Any], goes_on: Callable[[], bool], where: Path) -> None:
        """Restore a :meth:`checkpoint`.

        Args:
            saved: may be empty.
            goes_on: whether the run does, once ``stopped`` is restored; one that is over needs no callbacks.
            where: the run folder, for messages.

        Raises:
            CallbackError: a callback is missing, or cannot take its state.
        """
        self.stopped, self.failed = _line(saved.get("stopped", "")), _facts(saved.get("failed"))
        states = [(str(name), state) for name, state in saved.get("states", [])]
        if not goes_on() and self.failed is None:
            return
        if self.given and not self.all:
            self.failed = None
            return
        waiting = list(self.all)
        for name, state in states:
            found = next((callback for callback in waiting if _name(callback) == name), None)
            if found is None:
                raise CallbackError(
                    f"{where} was trained with the callback {name}: repeat it, --callbacks package.module:{name} (in "
                    f"Python callbacks=[{name}(...)]), or continue without any, --callbacks none (callbacks=[])"
                )
            waiting.remove(found)
            if state and (load := getattr(found, "load_state_dict", None)):
                _guarded(found, "load_state_dict", load, deepcopy(state))
        self._kept = self._states()

    def _states(self) -> list[list[Any]]:
        """Name and state of each callback, as plain data of its own."""
        states = []
        for callback in self.all:
            tell = getattr(callback, "state_dict", None)
            state = {} if tell is None else _guarded(callback, "state_dict", tell)
            try:
                if not isinstance(state, dict):
                    raise TypeError(f"it is a {type(state).__name__}")
                encode(state)
            except TypeError as error:
                raise CallbackError(
                    f"callback {_name(callback)}.state_dict() cannot be saved, {error}: return a dictionary of "
                    "numbers, text, lists, dictionaries and tensors"
                ) from error
            states.append([_name(callback), deepcopy(state)])
        return states

    def _stopper(self, callback: Any) -> Callable[[str], None]:
        def stop(reason: str = "") -> None:
            self.stopped = self.stopped or _line(": ".join(filter(None, (_name(callback), str(reason)))))

        return stop


def _facts(saved: Any) -> dict[str, Any] | None:
    """What was reported when a callback raised, of the form that :meth:`Calls.report` takes."""
    if saved is None:
        return None
    metrics = {str(name): float(value) for name, value in saved["metrics"].items()}
    returns = [float(value) for value in saved["returns"]]
    return {"metrics": metrics, "returns": returns, "evaluated": bool(saved["evaluated"])}


def load_callbacks(names: Sequence[str]) -> list[Any]:
    """Callbacks by the names that the user typed, ``package.module:Name`` of a class, or of a function that makes one.

    Raises:
        ConfigError: one does not exist.
        CallbackError: it raises, or makes no callback.
    """
    callbacks = []
    for name in names:
        if ":" not in name:
            raise CallbackError(f"callbacks: {shown(name)} is not of the form package.module:Name")
        make = load_name(name)
        try:
            callbacks.append(make())
        except Exception as error:
            raise CallbackError(
                f"callbacks: {name}() raised {one_line(error)}: it is called without arguments"
            ) from error
        _checked(name, callbacks[-1])
    return callbacks


def _checked(where: str, callback: Any) -> Any:
    """A callback; a class is called without arguments."""
    if isinstance(callback, type):
        try:
            callback = callback()
        except Exception as error:
            raise CallbackError(f"{where}: {callback.__name__}() raised {one_line(error)}: give an instance") from error
    hooks = [name for name in dir(callback) if name.startswith("on_") and callable(getattr(callback, name, None))]
    if unknown := [name for name in hooks if name not in HOOKS]:
        raise CallbackError(f"{where}: {_name(callback)}.{unknown[0]} is never called: {nearest(unknown[0], HOOKS)}")
    if not any(_hook(callback, name) for name in hooks):
        raise CallbackError(
            f"{where} is of type {type(callback).__name__}: expected an object with on_iteration or on_evaluation"
        )
    return callback


def _hook(callback: Any, name: str) -> Callable[[Status], Any] | None:
    """A method that a callback has of its own, not from the base."""
    method = getattr(callback, name, None)
    return None if method is None or getattr(method, "__func__", None) is getattr(Callback, name) else method


def _name(callback: Any) -> str:
    return type(callback).__qualname__.rpartition(".")[2]


def _line(text: Any) -> str:
    """One short line of printable characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))[:200]


def _guarded(callback: Any, method: str, call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except Exception as error:
        raise CallbackError(f"callback {_name(callback)}.{method} raised {one_line(error)}{_place(error)}") from error


def _place(error: Exception) -> str:
    """File and line of the callback in which an exception was raised."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without the call itself
    if not frames:
        return ""
    frame = [frame for frame in frames if frame.filename == frames[0].filename][-1]
    return f" ({Path(frame.filename).name}, line {frame.lineno})"
