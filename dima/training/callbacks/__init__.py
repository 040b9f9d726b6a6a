"""Callbacks: code of the user's own that sees a run's iterations and evaluations, and may stop it.

    class Printer(dima.Callback):
        def on_evaluation(self, status):
            print(status.steps, status.score)
            if status.score > 200:
                status.stop("good enough")

    dima.train("toy/walk", callbacks=[Printer()])

A callback has ``on_iteration``, ``on_evaluation`` or both. Where both are due, evaluation comes first. What it draws
from PyTorch's random numbers does not change the run. It is called before its iteration is saved: after a crash, an
iteration that is repeated is reported again.

What a callback must remember for an exact resume it tells by ``state_dict`` and takes by ``load_state_dict``, as in
PyTorch. ``dima resume`` is given the same callbacks again, which are told apart by the names of their classes.

Read ``base`` (what a callback is and sees), ``stock`` (those that come along), ``calls`` (how a run calls them).
"""

from dima.training.callbacks.base import Callback as Callback
from dima.training.callbacks.base import Status as Status
from dima.training.callbacks.calls import Calls as Calls
from dima.training.callbacks.calls import load_callbacks as load_callbacks
from dima.training.callbacks.stock import KeepBest as KeepBest
from dima.training.callbacks.stock import StopAtReturn as StopAtReturn
from dima.training.callbacks.stock import StopOnPlateau as StopOnPlateau
