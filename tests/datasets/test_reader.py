"""The description of a dataset: verified, counted, printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dima.datasets.reader import Dataset, describe, description_text
from dima.recording.config import RecordConfig
from dima.recording.record import record

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_description_verifies_and_counts(recording: Callable[..., RecordConfig]) -> None:
    config = recording(sources=["random", "random,share=0.001,noise=0.5"], steps=90)
    record(config)
    facts = describe(Dataset.open(config.folder))
    returns = [episode.team_return for episode in Dataset.open(config.folder).episodes()][:3]
    first = facts["sources"][0]["recorded"]
    assert (first["episodes"], first["steps"], first["terminated"]) == (3, 90, 0.0)
    assert first["return"]["mean"] == pytest.approx(sum(returns) / 3)
    assert facts["parts"]["train"]["steps"] + facts["parts"]["held-out"]["steps"] == 120
    old = Dataset.open(config.folder)
    old.header = replace(old.header, env={"n_agents": 2})  # of a version without the other setting
    old.require("toy/walk", config.env, old.spec)
    text = description_text(facts)
    assert "toy/walk (n_agents = 2, episode_limit = 30)" in text
    assert text.splitlines()[len(facts["verdicts"]) + 3].endswith("  random")
    assert text.splitlines()[len(facts["verdicts"]) - 1] == "✓ all files verified"
    assert "random (share = 0.001, noise = 0.5)" in text
    assert facts["digest"] in text


def test_a_dataset_that_nothing_can_be_validated_on_is_warned_of(recording: Callable[..., RecordConfig]) -> None:
    config = recording(steps=60, held_out=0.0)
    record(config)
    text = description_text(describe(Dataset.open(config.folder)))
    assert text.startswith(
        "⚠ no episode is held out: a world model fitted to it cannot be validated\n✓ all files verified\n"
    )
