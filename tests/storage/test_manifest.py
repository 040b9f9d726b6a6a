"""Manifests: every change is detected, the order of keys does not matter."""

import json

import pytest

from dima.errors import RunFolderError
from dima.storage.manifest import check_format, digest, manifest_text, read_verified

BODY = {"format": 1, "name": "café", "numbers": [1, 2.5, None]}


def test_round_trip(tmp_path):
    (tmp_path / "a.json").write_text(manifest_text(BODY))
    assert read_verified(tmp_path / "a.json") == BODY
    assert digest(BODY) == digest(dict(reversed(BODY.items()))) != digest(BODY | {"format": 2})


@pytest.mark.parametrize("changed", [BODY | {"format": 2}, {**BODY, "more": 1}, {"format": 1}, [], None, 3])
def test_a_change_is_detected(tmp_path, changed):
    content = json.loads(manifest_text(BODY))
    if isinstance(changed, dict):
        changed = changed | {"sha256": content["sha256"]}
    (tmp_path / "a.json").write_text(json.dumps(changed))
    with pytest.raises(RunFolderError, match=r"a\.json is damaged"):
        read_verified(tmp_path / "a.json")


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(RunFolderError, match=r"a\.json is missing"):
        read_verified(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    with pytest.raises(RunFolderError, match=r"b\.json is damaged"):
        read_verified(tmp_path / "b.json")


def test_another_format(tmp_path):
    check_format(tmp_path, {"format": 1}, 1)
    with pytest.raises(RunFolderError, match=r"has format 2, written by dima unknown; .* which reads format 1"):
        check_format(tmp_path, {"format": 2}, 1)
