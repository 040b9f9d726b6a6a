"""What a dataset holds, in numbers and in words; every byte is checked on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dima.datasets.reader import Dataset
from dima.recording.policies import Source
from dima.runtime.summary import settings_line

_ELSEWHERE = ("policy", "recorded", "checkpoint")  # of a source, told apart from its settings or not worth a glance


def describe(dataset: Dataset) -> dict[str, Any]:
    """Facts of a dataset, plain data: its task, its sources with their returns, its split, and the versions.

    Raises:
        RunFolderError: a file is missing, truncated or changed.
    """
    rows = [
        (one.source, one.held_out, len(one.episode), one.episode.team_return, bool(one.episode.terminated.any()))
        for one in dataset.recorded()
    ]
    source, held_out, steps, returns, terminated = map(np.array, zip(*rows, strict=True))
    sources = []
    for number, facts in enumerate(dataset.header.sources):
        of = source == number
        told: dict[str, Any] = {"episodes": int(of.sum()), "steps": int(steps[of].sum())}
        if of.any():
            told |= {
                "return": {"mean": float(returns[of].mean()), "std": float(returns[of].std())},
                "terminated": float(terminated[of].mean()),
            }
        sources.append({**facts, "recorded": told})
    parts = {
        name: {"episodes": int(of.sum()), "steps": int(steps[of].sum())}
        for name, of in (("train", ~held_out), ("held-out", held_out))
    }
    return {
        "dataset": str(dataset.path),
        "seal": dataset.seal,
        "task": dataset.task,
        "env": dataset.header.env,
        "request": dataset.header.request,
        "sources": sources,
        "parts": parts,
        "protocol": dataset.protocol,
    }


def table(facts: Mapping[str, Any]) -> str:
    """The facts as a few lines for a person."""
    usual = Source().to_dict()
    lines = [f"{facts['task']} ({settings_line(facts['env'])})" if facts["env"] else facts["task"], ""]
    lines.append(f"{'episodes':>10}  {'steps':>10}  {'team return':>20}  {'terminated':>10}  source")
    for source in facts["sources"]:
        told = source["recorded"]
        spread = f"{told['return']['mean']:,.1f} ± {told['return']['std']:,.1f}" if "return" in told else "-"
        ended = f"{told['terminated']:.0%}" if "terminated" in told else "-"
        rest = {name: value for name, value in source.items() if name not in _ELSEWHERE and usual.get(name) != value}
        name = f"{source['policy']} ({settings_line(rest)})" if rest else source["policy"]
        lines.append(f"{told['episodes']:>10,}  {told['steps']:>10,}  {spread:>20}  {ended:>10}  {name}")
    lines.append("")
    for part, told in facts["parts"].items():
        lines.append(f"{part:<8}  {told['episodes']:,} episodes, {told['steps']:,} steps")
    lines += ["", f"every byte is as it was written; SHA-256 {facts['seal']}", f"dataset: {facts['dataset']}"]
    return "\n".join(lines)
