"""Pages of settings: every option of a run, with its values in two presets, as the classes say."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from dima.algorithms import ALGORITHMS, algorithm_summary
from dima.cli.fields import Option, options_of
from dima.config import Config
from dima.envs import TASKS, suite_config
from dima.training.run_config import TrainConfig, build_config
from dima.world_models import WORLD_MODELS

TASK = "mamujoco/halfcheetah-2x3"
PRESETS = ("published", "small")
_FORM = "Each is an option of `dima train`, `--name value`, and a key of `overrides` in Python, nested at the dots."


def pages() -> Iterator[tuple[str, str]]:
    """Name and Markdown of each page."""
    yield "runs", _runs()
    for name in sorted({*ALGORITHMS.library, *WORLD_MODELS.library}):
        yield name, _algorithm(name)


def _runs() -> str:
    about = f"{_FORM} Defaults are those of the classes; presets change them."
    lines = ["# Runs and environments", "", about, "", "## Every run", "", *_table(options_of(TrainConfig))]
    for suite in sorted(TASKS.library):
        config = suite_config(f"{suite}/")()
        lines += ["", f"## Tasks `{suite}/...`", "", *_table(options_of(config, "env."))]
    return "\n".join(lines) + "\n"


def _algorithm(name: str) -> str:
    learners = [build_config(TASK, name, preset).learner for preset in PRESETS]
    lines = [f"# `{name}`", "", algorithm_summary(name), "", f"{_FORM} Values are those for `{TASK}`.", ""]
    rows = sorted(options_of(learners[0], "learner."), key=lambda option: option.group)
    for (group, about), members in groupby(rows, key=lambda option: (option.group, option.about)):
        lines += [
            f"## `{group}`",
            "",
            *([_capital(about) + ".", ""] if about else []),
            *_table(members, learners[1]),
            "",
        ]
    return "\n".join(lines)


def _table(options: Any, other: Config | None = None) -> list[str]:
    """A row for each option; with the values in another preset where there is one."""
    small = {} if other is None else {option.name: option for option in options_of(other, "learner.")}
    heads = ("setting", "default") if other is None else ("setting", *PRESETS)
    lines = ["| " + " | ".join((*heads, "what it is")) + " |", "|---" * (len(heads) + 1) + "|"]
    for option in options:
        values = [option, *([small[option.name]] if small else [])]
        limits = f" ({option.limits})" if option.limits else ""
        cells = [f"`{option.name}`", *map(_value, values), _escaped(_capital(option.help)) + limits]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _value(option: Option) -> str:
    value = option.default
    if value is None or value in ((), ""):
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def _capital(text: str) -> str:
    """With a capital, but where it begins with a value."""
    return text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
