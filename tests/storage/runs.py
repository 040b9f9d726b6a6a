"""Small run folders for tests of storage."""

from __future__ import annotations

import torch

from dima.storage.run_folder import RunFolder

CONFIG = {"task": "toy/walk", "seed": 3}


def chunk(value):
    return {"obs": torch.full((4, 2), float(value)), "length": value}


def state(value):
    return {"weights": torch.full((3,), float(value)), "iteration": value}


def contents(path):
    """The iteration and the chunks that a folder would be resumed with."""
    with RunFolder.open(path, write=True) as folder:
        if not folder.has_checkpoint:
            return None, [], []
        saved = folder.load()
        assert torch.equal(saved.tree["weights"], state(saved.tree["iteration"])["weights"])
        chunks = [(number, int(tree["obs"][0, 0])) for number, tree in saved.chunks]
        return saved.tree["iteration"], chunks, [record["iteration"] for record in folder.records()]
