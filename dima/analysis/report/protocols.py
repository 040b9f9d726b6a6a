"""Protocol of the compared runs in words, and warnings where it differs between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from dima.analysis.report.compare import Comparison, differing_settings
from dima.analysis.report.runs import Run
from dima.runtime.provenance import mujoco_versions, protocol_history, uses_mujoco
from dima.runtime.summary import settings_line

_SHORT_COMMIT = 7


def counted(n: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def protocol_line(comparison: Comparison, tasks: Sequence[str]) -> str:
    """Everything the numbers of these tasks depend on, for a table's or plot's small print."""
    groups = {(task, name): runs for task in tasks for name, runs in comparison.groups[task].items()}
    runs = [run for group in groups.values() for run in group]
    if not runs:
        return ""
    parts = [_settings(runs), _seeds(groups)]
    parts.append(f"evaluated on {_alternatives(str(run.evaluation_episodes) for run in runs)} episodes")
    parts.append(", ".join(f"{name} {_alternatives(found)}" for name, found in versions(runs).items()))
    parts.append(f"commit {_alternatives(map(commit, runs))}")
    return "Protocol: " + "; ".join(part for part in parts if part) + "."


def versions(runs: Iterable[Run]) -> dict[str, list[str]]:
    """Versions of dima and its packages among the runs."""
    found: dict[str, dict[str, None]] = {}
    for facts in (facts for run in runs for facts in protocol_history(run.protocol)):
        base = {"dima": facts.get("dima"), "python": facts.get("python")}
        for name, version in (base | facts.get("packages", {})).items():
            if version is not None:
                found.setdefault(name, {})[version] = None
    return {name: sorted(some) for name, some in found.items()}


def mujoco(runs: Iterable[Run]) -> str:
    """The MuJoCo versions that simulated runs; empty where it simulates none of their tasks."""
    return " and ".join(dict.fromkeys(v for run in runs for v in mujoco_versions(run.task, run.protocol)))


def heading(comparison: Comparison, task: str) -> str:
    """What a task's scores are: the task, the steps they are compared at, and the MuJoCo versions behind them."""
    version = mujoco(run for runs in comparison.groups[task].values() for run in runs)
    return f"{task} after {comparison.compared_at[task]:,.0f} environment steps" + (
        f", MuJoCo {version}" if version else ""
    )


def commit(run: Run) -> str:
    """Short commit of a run, with a plus for uncommitted changes."""
    found = run.protocol.get("commit")
    return "unknown" if found is None else found["id"][:_SHORT_COMMIT] + ("+" if found["dirty"] else "")


def machine(runs: Iterable[Run]) -> str:
    """Machines that the runs were made on."""
    machines = (run.protocol.get("machine") for run in runs)
    return _alternatives(
        f"{one['system']}, {one['cores']} cores, {one['memory_gib']} GiB, {one['device']}" for one in machines if one
    )


def notices(comparison: Comparison) -> list[str]:
    """Warnings about the comparison, one or two sentences each."""
    found = []
    for name, tasks in groupby(comparison.tasks, key=lambda task: _first(comparison, task).task):
        shown = list(tasks)
        if len(shown) > 1:
            found.append(
                f"{name} has {len(shown)} settings of its environment, whose returns are not comparable. They are "
                f"separate tasks here: {' and '.join(shown)}."
            )
    for task, named in comparison.groups.items():
        runs = [run for group in named.values() for run in group]
        found += [f"{task}: {difference}." for difference in _task_differences(runs)]
        for algorithm, group in named.items():
            found += [f"{algorithm} on {task}: {difference}." for difference in _algorithm_differences(group)]
    return found + _missing_runs(comparison)


def _task_differences(runs: Sequence[Run]) -> list[str]:
    """Differences in what all runs of a task should share."""
    simulated = uses_mujoco(runs[0].task)
    differences = [
        f"its runs used different versions of {name} ({', '.join(found)}), and returns may depend on it"
        for name, found in versions(runs).items()
        if len(found) > 1 and name not in ("python", *(["mujoco"] if simulated else []))
    ]
    by_version: dict[str, dict[str, None]] = {}
    for run in runs if simulated else ():
        by_version.setdefault(mujoco([run]) or "unknown", {})[f"{run.algorithm}-{run.preset}"] = None
    if len(by_version) > 1 or any(len(mujoco_versions(run.task, run.protocol)) > 1 for run in runs):
        which = "; ".join(f"{version}: {', '.join(some)}" for version, some in by_version.items())
        differences.insert(0, f"its returns mix versions of MuJoCo and are not strictly comparable ({which})")
    episodes = sorted({run.evaluation_episodes for run in runs})
    if len(episodes) > 1:
        differences.append(
            f"an evaluation is the mean of {_alternatives(map(str, episodes))} episodes, depending on the run"
        )
    return differences


def _algorithm_differences(runs: Sequence[Run]) -> list[str]:
    """Differences in what all seeds of an algorithm should share."""
    differences = []
    commits = dict.fromkeys(map(commit, runs))
    if len(commits) > 1:
        differences.append(f"its seeds were run at different commits ({', '.join(commits)})")
    if any(one.endswith("+") for one in commits):
        differences.append("uncommitted changes were present, so the commit does not identify the code")
    targets = sorted({run.target for run in runs})
    if len(targets) > 1:
        differences.append(
            f"its seeds were started for different numbers of steps ({', '.join(f'{n:,}' for n in targets)})"
        )
    lacking = _partly_known([run.settings for run in runs])
    if lacking:
        differences.append(
            f"some of its configs lack {', '.join(lacking)}, which this version does not know; "
            "the seeds are assumed to agree in it"
        )
    return differences


def _partly_known(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for some in settings for name in some)
    return [
        name
        for name in names
        if not all(name in some for some in settings) and name not in differing_settings(settings)
    ]


def _missing_runs(comparison: Comparison) -> list[str]:
    """Tasks that an algorithm was not run on, and unequal numbers of seeds."""
    lacking = {
        algorithm: [task for task in comparison.tasks if not comparison.group(task, algorithm)]
        for algorithm in comparison.algorithms
    }
    missing = [f"{algorithm} has no run on {', '.join(tasks)}" for algorithm, tasks in lacking.items() if tasks]
    found = ["; ".join(missing) + "."] if missing else []
    counts = {len(group) for named in comparison.groups.values() for group in named.values()}
    if len(counts) > 1 and len(comparison.tasks) > 1:
        found.append(
            "Numbers of seeds differ between tasks or algorithms; in aggregates, a task with more seeds weighs more."
        )
    return found


def _settings(runs: Sequence[Run]) -> str:
    tasks: dict[str, dict[str, None]] = {}
    for run in runs:
        tasks.setdefault(settings_line(run.env), {})[run.task] = None
    if len(tasks) == 1:
        return next(iter(tasks))
    return "; ".join(f"{line or 'no settings'} ({', '.join(where)})" for line, where in tasks.items())


def _seeds(groups: Mapping[tuple[str, str], Sequence[Run]]) -> str:
    seeds: dict[str, dict[str, None]] = {}
    for (_, algorithm), runs in groups.items():
        seeds.setdefault(algorithm, {})[_ranges([run.seed for run in runs])] = None
    if len({ranges for some in seeds.values() for ranges in some}) == 1:
        return f"seeds {next(iter(next(iter(seeds.values()))))}"
    return "seeds " + ", ".join(f"{' or '.join(ranges)} of {name}" for name, ranges in seeds.items())


def _ranges(seeds: Sequence[int]) -> str:
    """``0–2, 7`` for 0, 1, 2 and 7."""
    runs = [[n for _, n in some] for _, some in groupby(enumerate(seeds), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(str(some[0]) if len(some) == 1 else f"{some[0]}–{some[-1]}" for some in runs)


def _alternatives(values: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(values))


def _first(comparison: Comparison, task: str) -> Run:
    return next(iter(comparison.groups[task].values()))[0]
