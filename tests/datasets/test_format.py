"""A dataset on disk: round trip, damage, foreign folders, interrupted recordings."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dima.data import EnvSpec, Episode
from dima.datasets.format import EPISODES, MANIFEST, Header
from dima.datasets.reader import Dataset
from dima.datasets.writer import DatasetWriter, split
from dima.envs.toy import ToyConfig
from dima.errors import DatasetError, EnvError, RunFolderError, UserError
from dima.storage.manifest import manifest_text, read_verified

SPEC = EnvSpec(("a", "b"), 3, (2, 1), (1, 2), discrete=False, episode_limit=9)
HEADER = Header("toy/walk", {"n_agents": 2}, SPEC, [{"policy": "random"}], {"steps": 9})


def numbered(number: int, steps: int = 4, terminated: bool = False) -> Episode:
    """An episode whose values say which it is."""
    ends = torch.arange(steps) == steps - 1
    return Episode(
        obs=torch.full((steps + 1, 2, 2), float(number)),
        state=torch.arange(3.0 * (steps + 1)).reshape(-1, 3) + 100 * number,
        action_mask=torch.tensor([[True, False], [True, True]]).expand(steps + 1, 2, 2),
        action=torch.full((steps, 2, 2), number / 100),
        reward=torch.full((steps,), float(number)),
        terminated=ends & terminated,
        truncated=ends & (not terminated),
    )


def same(one: Episode, other: Episode) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


@pytest.fixture
def path(tmp_path):
    """A dataset of 10 episodes of two sources in three chunks."""
    path = tmp_path / "data"
    with DatasetWriter.open(path, HEADER, {"dima": "1"}) as writer:
        writer.add([numbered(n, 3 + n, terminated=n == 1) for n in range(4)], seeds=[10, 11, 12, 13])
        writer.add([numbered(n) for n in (4, 5)])
        writer.add([numbered(n) for n in range(6, 10)], source=1, seeds=[16, 17, 18, 19])
        writer.finish(0.3, seed=1)
    return path


def test_round_trip(path):
    data = Dataset.open(path)
    assert (data.task, data.spec, len(data), data.steps) == ("toy/walk", SPEC, 10, 18 + 24)
    assert data.header == HEADER
    read = list(data.recorded())
    assert [one.number for one in read] == list(range(10))
    assert [one.source for one in read] == [0] * 6 + [1] * 4
    assert [one.seed for one in read] == [10, 11, 12, 13, None, None, 16, 17, 18, 19]
    written = [numbered(n, 3 + n if n < 4 else 4, terminated=n == 1) for n in range(10)]
    assert all(same(one.episode, other) for one, other in zip(read, written, strict=True))


def test_the_split_is_by_episodes_of_each_source(path):
    data = Dataset.open(path)
    assert sum(n < 6 for n in data.held_out) == 2
    assert sum(n >= 6 for n in data.held_out) == 1
    held, train = data.episodes("held-out"), data.episodes("train")
    numbers = [int(episode.reward[0]) for episode in (*held, *train)]
    assert numbers == sorted(data.held_out) + sorted(set(range(10)) - data.held_out)
    assert len(data.episodes()) == 10


def test_the_split_is_a_function_of_its_seed():
    sources = np.repeat([0, 1], [50, 10])
    assert split(sources, 0.2, 3) == split(sources, 0.2, 3) != split(sources, 0.2, 4)
    assert len(split(sources, 0.2, 3)) == 12
    assert split(sources, 0.0, 3) == []
    assert len(split(np.zeros(2), 0.01, 0)) == len(split(np.zeros(2), 0.9, 0)) == 1
    assert split(np.zeros(1), 0.5, 0) == []


def test_the_digest_identifies_a_dataset(path, tmp_path):
    with DatasetWriter.open(tmp_path / "other", HEADER, {"dima": "1"}) as writer:
        writer.add([numbered(1)])
        other = writer.finish(0.0, 0)
    assert Dataset.open(path).digest == Dataset.open(path).digest != other.digest


def test_only_safe_formats(path):
    assert {file.suffix for file in path.rglob("*.*")} == {".json", ".safetensors", ".lock"}


# -- damage -----------------------------------------------------------------------------------------------------------


def read_all(path):
    return list(Dataset.open(path).recorded())


@pytest.mark.parametrize("name", [MANIFEST, f"{EPISODES}/000000.safetensors", f"{EPISODES}/000002.safetensors"])
def test_every_kind_of_damage_is_one_line_that_names_the_file(path, name):
    good = (path / name).read_bytes()
    for place in (0, 9, len(good) // 3, len(good) // 2, len(good) - 2):
        (path / name).write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(RunFolderError, match=rf"{name} is damaged"):
            read_all(path)
    for keep in (0, 10, len(good) - 1):
        (path / name).write_bytes(good[:keep])
        with pytest.raises(RunFolderError, match=rf"{name} is damaged"):
            read_all(path)
    (path / name).unlink()
    with pytest.raises(RunFolderError, match=name.split("/")[-1]):
        read_all(path)


def test_other_folders_are_refused(path, tmp_path):
    with pytest.raises(RunFolderError, match="does not exist"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="is not a dima dataset"):
        Dataset.open(tmp_path)


def test_another_format_names_the_version_that_wrote_it(path, monkeypatch):
    monkeypatch.setattr("dima.datasets.format.FORMAT", 7)
    with pytest.raises(RunFolderError, match=r"has format 1, written by dima .*reads format 7"):
        Dataset.open(path)
    manifest = read_verified(path / MANIFEST) | {"protocol": {"commit": {"id": "b" * 40}}}
    (path / MANIFEST).write_text(manifest_text(manifest))
    with pytest.raises(RunFolderError, match=r"written by dima \S+ \(commit b{12}\); this is"):
        Dataset.open(path)


def test_an_empty_dataset_is_refused(tmp_path):
    with DatasetWriter.open(tmp_path / "d", HEADER, {}) as writer, pytest.raises(DatasetError, match="is empty"):
        writer.finish(0.2, 0)


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a dataset"])
def test_a_dataset_without_an_episode_leaves_nothing_behind(tmp_path, before):
    path = tmp_path / "data"
    if before != "nothing":
        path.mkdir()
    if before == "a dataset":
        with DatasetWriter.open(path, HEADER, {}) as writer:
            writer.add([numbered(0)])
            writer.finish(0, 0)
    with pytest.raises(EnvError), DatasetWriter.open(path, HEADER, {}, overwrite=True):
        raise EnvError("the first episode fails")
    assert path.exists() == (before != "nothing")
    assert not (path.exists() and list(path.iterdir()))
    DatasetWriter.open(path, HEADER, {}).close()


# -- continue and replace ----------------------------------------------------------------------------------------------


def test_an_interrupted_recording_cannot_be_opened_but_continued(tmp_path):
    path = tmp_path / "data"
    with DatasetWriter.open(path, HEADER, {}) as writer:
        writer.add([numbered(0), numbered(1)])
    (path / EPISODES / "000001.safetensors.new").write_bytes(b"half")
    (path / EPISODES / "000001.safetensors").write_bytes(b"written, but not yet counted")
    with pytest.raises(DatasetError, match="is not finished"):
        Dataset.open(path)
    with DatasetWriter.open(path, HEADER, {}) as writer:
        assert (writer.episodes, writer.steps(), writer.steps(1)) == (2, 8, 0)
        assert len(list((path / EPISODES).iterdir())) == 1
        writer.add([numbered(2)], source=1)
        assert (writer.steps(0), writer.steps(1)) == (8, 4)
        writer.finish(0, 0)
    assert [int(episode.reward[0]) for episode in Dataset.open(path).episodes()] == [0, 1, 2]


def test_a_recording_with_another_header_is_not_continued(tmp_path):
    with DatasetWriter.open(tmp_path / "d", HEADER, {}) as writer:
        writer.add([numbered(0)])
    other = Header("toy/walk", {"n_agents": 2}, SPEC, [{"policy": "random"}], {"steps": 10})
    with pytest.raises(DatasetError, match=r"with other settings \(request = {'steps': 9} there, {'steps': 10} here\)"):
        DatasetWriter.open(tmp_path / "d", other, {})
    DatasetWriter.open(tmp_path / "d", HEADER, {}).close()  # the lock was released


def test_a_dataset_is_replaced_only_when_asked(path):
    with pytest.raises(DatasetError, match="already holds a dataset: --overwrite"):
        DatasetWriter.open(path, HEADER, {})
    assert len(read_all(path)) == 10
    with DatasetWriter.open(path, HEADER, {}, overwrite=True) as writer:
        assert writer.episodes == 0
        assert not list((path / EPISODES).iterdir())
        writer.add([numbered(3)])
        writer.finish(0, 0)
    assert len(read_all(path)) == 1


def test_a_damaged_dataset_can_be_replaced(path):
    (path / MANIFEST).write_text("{")
    DatasetWriter.open(path, HEADER, {}, overwrite=True).close()


def test_foreign_folders_are_never_overwritten(tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(RunFolderError, match="never overwritten"):
        DatasetWriter.open(tmp_path, HEADER, {}, overwrite=True)
    with pytest.raises(RunFolderError, match="is a file"):
        DatasetWriter.open(tmp_path / "note", HEADER, {})
    assert (tmp_path / "note").read_text() == "mine"


def test_two_recordings_do_not_share_a_folder(tmp_path):
    with DatasetWriter.open(tmp_path / "d", HEADER, {}), pytest.raises(RunFolderError, match="another process"):
        DatasetWriter.open(tmp_path / "d", HEADER, {})


def test_a_full_disk_keeps_earlier_chunks(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with DatasetWriter.open(tmp_path / "d", HEADER, {}) as writer:
        writer.add([numbered(0)])
        monkeypatch.setattr("dima.storage.chunks.save_tree_file", full)
        with pytest.raises(RunFolderError, match="no space left on device"):
            writer.add([numbered(1)])
        monkeypatch.undo()
        writer.finish(0, 0)
    assert len(read_all(tmp_path / "d")) == 1


# -- task and settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "env", "spec", "said"),
    [
        ("toy/linear", ToyConfig(), SPEC, r"holds episodes of toy/walk, not of toy/linear"),
        ("toy/walk", ToyConfig(3), SPEC, r"recorded with n_agents = 2, but here n_agents = 3: "),
    ],
)
def test_another_task_or_other_settings_are_refused(path, task, env, spec, said):
    with pytest.raises(DatasetError, match=said):
        Dataset.open(path).require(task, env, spec)


def test_a_changed_task_is_refused(tmp_path):
    header = Header("toy/walk", ToyConfig().to_dict(), SPEC, [], {})
    with DatasetWriter.open(tmp_path / "d", header, {}) as writer:
        writer.add([numbered(0)])
        data = writer.finish(0, 0)
    data.require("toy/walk", ToyConfig(), SPEC)
    assert data.env == ToyConfig()
    with pytest.raises(DatasetError, match=r"recorded with state_dim = 3, but toy/walk now has state_dim = 4"):
        data.require("toy/walk", ToyConfig(), replace(SPEC, state_dim=4))


def test_the_manifest_is_readable_json(path):
    content = json.loads((path / MANIFEST).read_text())
    assert content["kind"] == "dima dataset"
    assert content["protocol"] == {"dima": "1"}
    assert content["spec"]["agents"] == ["a", "b"]
    assert all(issubclass(kind, UserError) for kind in (DatasetError, RunFolderError))


def test_episodes_do_not_share_rows(path):
    first, *_ = Dataset.open(path).episodes()
    assert isinstance(first, Episode)
    assert torch.equal(first.state[0], torch.arange(3.0))
