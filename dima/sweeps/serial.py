"""A sweep without Ray: one run after another."""

from __future__ import annotations

from dima.sweeps.agenda import Agenda
from dima.sweeps.unit import UnitWork

_POLL_SECONDS = 0.2  # between two checks whether a stop was requested


def carry_out_serially(agenda: Agenda, retries: int) -> None:
    """Carry out what is on the agenda, one unit after another.

    Args:
        agenda: of the sweep.
        retries: of a run whose process dies.
    """
    while (unit := agenda.next()) is not None:
        work = UnitWork(unit.jobs, retries)
        try:
            while not work.done:
                if agenda.stopping:
                    work.stop()
                for event in work.poll(_POLL_SECONDS):
                    if agenda.take(unit.key, event):
                        work.stop()
        finally:
            work.close()
