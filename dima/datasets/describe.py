"""Facts of a dataset; every byte is checked on the way."""

from __future__ import annotations

from typing import Any

import numpy as np

from dima.datasets.reader import Dataset


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
