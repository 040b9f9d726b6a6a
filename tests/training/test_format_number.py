"""The number of the checkpoint's format moves with every change of what is saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from dima.storage.checkpoint import FORMAT
from dima.storage.run_folder import RunFolder
from dima.training.online import train

LISTS = Path(__file__).parent / "data"  # what the checkpoints of this format hold


def leaves(value: Any, name: str = "") -> Iterator[str]:
    """Every value of a tree by its place and kind; numbers in places stand for any number."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            if key == "param_groups":  # PyTorch's own, and not read
                continue
            yield from leaves(inner, f"{name}/{'*' if isinstance(key, int) else key}")
    else:
        yield f"{name}: {value.dtype if isinstance(value, Tensor) else type(value).__name__}"


@pytest.mark.parametrize("algorithm", ["dima", "hasac", "mappo"])
def test_a_changed_checkpoint_has_a_new_format(tiny, algorithm: str, one_thread) -> None:
    """If this fails: raise FORMAT, and put the new list in place of the old one, as the failure says."""
    folder = train(tiny("toy/switches", algorithm, steps=90)).folder
    with RunFolder.open(folder) as run:
        saved = run.load()
        found = sorted({*leaves(saved.tree), *leaves([chunk for _, chunk in saved.chunks], "replay")})
    text = "\n".join([f"format {FORMAT}", *found]) + "\n"
    kept = LISTS / f"checkpoint-{algorithm}.txt"
    (folder / kept.name).write_text(text)
    assert kept.read_text() == text, f"raise FORMAT, then: cp {folder / kept.name} {kept}"
