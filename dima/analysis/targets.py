"""What a world model predicts of a team: the state and the observations, or the observations alone.

Forecasts have no state where a model predicts none, so results hold one of both targets, and everything that is told of
them runs over those that are there.
"""

from __future__ import annotations

STATE, OBSERVATIONS = "state", "observations"  # the first that is there is the main one
SINGULAR = {STATE: "state", OBSERVATIONS: "observation"}  # as in "state error"


def observations_only(left_out: str) -> str:
    """The finding of a model that predicts no state: why ``left_out`` is missing."""
    return (
        f"{STATE.capitalize()}: this world model predicts observations only, and those of this task do not hold the "
        f"state: {left_out} are left out."
    )
