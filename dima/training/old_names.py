"""Config fields of earlier versions, so that their run folders can still be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dima.config import shown
from dima.errors import ConfigError

# path of a field in a run folder of an earlier version, and its name since
RENAMED = {
    "rounds": "iterations",
    "evaluate_beside": "evaluate_in_background",
    "learner.round_steps": "iteration_steps",
    "learner.collect_beside": "collect_in_background",
    "learner.world_model.denoiser.agents_at_once": "group_size",
}
# path of a field that no longer exists, and the only value that it may have had for today's code to do the same
RETIRED = {
    "learner.ppo.actor.std_scale": 0.5,
    "learner.ppo.adam_eps": 1e-5,
    "learner.ppo.huber_delta": 10.0,
    "learner.replay.visit_temperature": 20.0,
    "learner.world_model.denoiser.whole_team": 0.0,
    "learner.mode_share": 0.0,
}


def modernise(config: Mapping[str, Any], *, for_comparison: bool = False) -> dict[str, Any]:
    """Rewrite a run's config of an earlier version in today's fields.

    Args:
        config: content of ``config.yaml``; nothing in it is changed.
        for_comparison: keep a retired field whose value differs from today's constant, so that a report can tell such
            a run from others, instead of refusing it.

    Raises:
        ConfigError: a retired field has another value than today's constant, or an old and a new name are both there.
    """
    return _modernise(config, "", for_comparison)


def _modernise(content: Mapping[str, Any], path: str, for_comparison: bool) -> dict[str, Any]:
    modern: dict[str, Any] = {}
    for name, value in content.items():
        where = f"{path}{name}"
        if isinstance(value, Mapping):
            value = _modernise(value, f"{where}.", for_comparison)
        if where in RETIRED:
            if value == RETIRED[where]:
                continue
            if not for_comparison:
                raise ConfigError(f"{where} = {shown(value)} is no longer a field: it is always {RETIRED[where]:g}")
        current = RENAMED.get(where, name)
        if current != name and current in content:
            raise ConfigError(f"{where} is the old name of {current}: give one of them")
        modern[current] = value
    return modern
