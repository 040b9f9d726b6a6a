"""Checkpoints: round trip, damage is detected and names the file."""

import json

import pytest
import torch

import dima.storage.checkpoint as module
from dima.errors import RunFolderError
from dima.storage.checkpoint import MANIFEST, TENSORS, TREE, load_tree, read_manifest, save_tree


@pytest.fixture
def folder(tmp_path):
    save_tree(tmp_path / "checkpoint", {"weights": torch.arange(100.0), "step": 7, 3: [1.5, None]})
    return tmp_path / "checkpoint"


def test_round_trip(folder):
    tree = load_tree(folder)
    assert torch.equal(tree["weights"], torch.arange(100.0))
    assert tree["step"] == 7
    assert tree[3] == [1.5, None]


def test_only_safe_formats(folder):
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, TENSORS, TREE]


@pytest.mark.parametrize("name", [TENSORS, TREE, MANIFEST])
def test_every_flipped_byte_is_detected(folder, name):
    path = folder / name
    good = path.read_bytes()
    for position in range(0, len(good), max(1, len(good) // 40)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x04]) + good[position + 1 :])
        with pytest.raises(RunFolderError, match=f"{name} is (damaged|missing)"):
            load_tree(folder)
    path.write_bytes(good)
    assert load_tree(folder)["step"] == 7


@pytest.mark.parametrize("name", [TENSORS, TREE, MANIFEST])
@pytest.mark.parametrize("keep", [0, 10, -1])
def test_truncated(folder, name, keep):
    path = folder / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunFolderError, match=f"{name} is damaged"):
        load_tree(folder)


@pytest.mark.parametrize("name", [TENSORS, TREE, MANIFEST])
def test_missing(folder, name):
    (folder / name).unlink()
    with pytest.raises(RunFolderError, match=f"{name} .*the folder is damaged"):
        load_tree(folder)


def test_another_format_names_the_version_that_wrote_it(folder, monkeypatch):
    monkeypatch.setattr(module, "FORMAT", 7)
    monkeypatch.setattr("dima.storage.manifest.__version__", "9.9")
    said = r"has format \d+, written by dima \d.*this is dima 9\.9, which reads format 7: use that version, or train"
    with pytest.raises(RunFolderError, match=said):
        load_tree(folder)
    with pytest.raises(RunFolderError, match=r"written by dima \S+ \(commit 0123456789ab\); this is"):
        load_tree(folder, "0123456789ab")


@pytest.mark.parametrize("content", ["[]", "{}", "null", "{", '{"sha256": 3}', '"text"'])
def test_a_strange_manifest_is_damaged(folder, content):
    (folder / MANIFEST).write_text(content)
    with pytest.raises(RunFolderError, match="is damaged"):
        read_manifest(folder)


def test_a_tree_without_its_tensors_is_damaged(folder, monkeypatch):
    (folder / TREE).write_text(json.dumps({"a": {"!": "tensor", "name": "nowhere"}}))
    monkeypatch.setattr(module, "verify", lambda path, expected: None)
    with pytest.raises(RunFolderError, match="is damaged"):
        load_tree(folder)


def test_the_manifest_is_flushed_last(tmp_path, monkeypatch):
    synced = []
    real = module.sync
    monkeypatch.setattr(module, "sync", lambda path: (synced.append(path), real(path)))
    save_tree(tmp_path / "c", {"a": 1})
    assert synced == [
        tmp_path / "c" / TENSORS,
        tmp_path / "c" / TREE,
        tmp_path / "c" / MANIFEST,
        tmp_path / "c",
        tmp_path,
    ]


def test_unreadable(folder):
    (folder / TENSORS).unlink()
    (folder / TENSORS).mkdir()
    with pytest.raises(RunFolderError, match=r"cannot be read \(it is not a regular file\)"):
        load_tree(folder)
