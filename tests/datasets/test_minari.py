"""Export to and import from Minari: lossless for agents, Gymnasium's actuator order, clear errors."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from dima.cli import main
from dima.datasets.reader import Dataset
from dima.datasets.writer import DatasetWriter
from dima.envs import make_env
from dima.errors import ConfigError, DatasetError, RunFolderError
from dima.recording.record import record

pytest.importorskip("h5py")
minari = pytest.importorskip("minari")

from dima.datasets.minari import ImportConfig, export_minari, import_config, import_minari  # noqa: E402


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch) -> Path:
    """Minari's own root."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.fixture
def recorded(recording):
    """Records a small dataset of a task."""

    def make(task: str, **overrides) -> Dataset:
        config = recording(task, **overrides)
        record(config)
        return Dataset.open(config.folder)

    return make


def import_of(tmp_path: Path, task: str, name: str, **overrides) -> ImportConfig:
    return import_config(task).override({"minari": name, "out": str(tmp_path / "imported"), **overrides})


@pytest.mark.parametrize(
    "task",
    ["toy/walk", "toy/switches", "toy/uneven", "mpe/simple_speaker_listener", "toy/crossfire", "toy/cliff"],
)
def test_agents_form_loses_nothing(recorded, tmp_path, task):
    data = recorded(task, steps=60)
    where = export_minari(data, "mine/team-v0")
    assert (where / "data" / "metadata.json").is_file()
    back = import_minari(import_of(tmp_path, task, "mine/team-v0"))
    assert back.spec == data.spec
    for one, other in zip(data.recorded(), back.recorded(), strict=True):
        for name in vars(one.episode):
            ours, theirs = getattr(one.episode, name), getattr(other.episode, name)
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=name)


def test_minari_sees_every_agent_in_its_own_space(recorded):
    data = recorded("toy/switches")
    export_minari(data, "mine/switches-v0")
    episode = minari.load_dataset("mine/switches-v0")[0]
    assert set(episode.observations) == {"agent_0", "agent_1"}
    assert episode.observations["agent_0"]["action_mask"].dtype == np.int8
    first = data.episodes()[0]
    assert episode.actions["agent_1"].tolist() == first.action[:, 1].argmax(-1).tolist()
    np.testing.assert_allclose(episode.rewards.sum(), first.team_return, rtol=1e-6)
    assert episode.terminations.tolist() == first.terminated.tolist()


def single_agent(name: str, env: str = "HalfCheetah-v5", steps: int = 5, **overrides) -> tuple[np.ndarray, np.ndarray]:
    """Play Gymnasium's own task with random actions and hand it to Minari: its observations and actions."""
    world = gymnasium.make(env, max_episode_steps=steps)
    world.action_space.seed(0)
    seen, done = [world.reset(seed=0)[0]], []
    rewards = []
    for _ in range(steps):
        done.append(world.action_space.sample())
        observed, reward, *_ = world.step(done[-1])
        seen.append(observed)
        rewards.append(reward)
    columns = {
        "observations": np.stack(seen),
        "actions": np.stack(done),
        "rewards": np.array(rewards),
        "terminations": np.zeros(steps, dtype=bool),
        "truncations": np.arange(steps) == steps - 1,
        "infos": {},
    } | overrides
    minari.create_dataset_from_buffers(
        name,
        [minari.data_collector.EpisodeBuffer(**columns)] * 2,
        env=world.spec,
        observation_space=world.observation_space,
        action_space=world.action_space,
        data_format="hdf5",
    )
    return columns["observations"], columns["actions"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["mamujoco/halfcheetah-2x3", "mamujoco/halfcheetah-6x1"])
def test_single_agent_data_is_split_over_agents(tmp_path, task):
    observations, actions = single_agent("gym/cheetah-v0")
    back = import_minari(import_of(tmp_path, task, "gym/cheetah-v0"))
    episode = back.episodes()[0]
    assert torch.equal(episode.state, torch.from_numpy(observations).float())
    env = make_env(task)
    env.reset(seed=0)
    for t, action in enumerate(episode.action.numpy()):  # the team of the real task, playing them again
        joint, reward, *_ = env.step(action)
        np.testing.assert_allclose(joint["state"], episode.state[t + 1], atol=1e-5)
        np.testing.assert_allclose(joint["obs"], episode.obs[t + 1], atol=1e-5)
        assert reward == pytest.approx(float(episode.reward[t]), abs=1e-4)
    assert episode.truncated.tolist() == [False] * 4 + [True]
    assert np.abs(actions).max() <= 1


@pytest.mark.filterwarnings("ignore")
def test_the_joint_form_is_that_of_gymnasium(recorded, tmp_path):
    data = recorded("mamujoco/ant-4x2", steps=30, env={"episode_limit": 10})
    export_minari(data, "mine/ant-v0", "joint")
    exported = minari.load_dataset("mine/ant-v0")
    world = exported.recover_environment().unwrapped
    assert exported.env_spec.id == "Ant-v5"
    assert (world.observation_space, world.action_space) == (exported.observation_space, exported.action_space)
    world.reset(seed=0)
    episode, start = exported[0], data.episodes()[0].state[0].numpy()
    world.set_state(np.concatenate([[0, 0], start[:13]]), start[13:])
    observed, *_ = world.step(episode.actions[0])
    np.testing.assert_allclose(observed, episode.observations[1], atol=0.05)  # hips and ankles moved as they did
    settings = {"env": {"episode_limit": 10}}
    back = import_minari(import_of(tmp_path, "mamujoco/ant-4x2", "mine/ant-v0", **settings))
    for one, other in zip(data.episodes(), back.episodes(), strict=True):
        torch.testing.assert_close(one.action, other.action, rtol=0, atol=1e-6)
        torch.testing.assert_close(one.obs, other.obs, rtol=0, atol=1e-6)


def test_the_joint_form_of_other_tasks_concatenates_the_agents(recorded):
    data = recorded("toy/uneven")
    export_minari(data, "mine/uneven-v0", "joint")
    exported = minari.load_dataset("mine/uneven-v0")
    assert exported.env_spec is None
    first = data.episodes()[0]
    np.testing.assert_allclose(exported[0].observations, first.state)
    np.testing.assert_allclose(exported[0].actions[:, 1:], first.action[:, 1], atol=1e-6)


def test_an_import_from_a_folder_is_resumed(recorded, tmp_path, monkeypatch):
    export_minari(recorded("toy/walk", steps=120), "mine/walk-v0")
    config = import_of(tmp_path, "toy/walk", str(tmp_path / "minari" / "mine" / "walk-v0"))
    monkeypatch.setattr("dima.datasets.minari.CHUNK_STEPS", 30)
    whole = import_minari(config.override({"out": str(tmp_path / "whole")}))

    class Cut(Exception): ...

    add, calls = DatasetWriter.add, []

    def cut(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise Cut
        add(self, *args, **kwargs)

    monkeypatch.setattr(DatasetWriter, "add", cut)
    with pytest.raises(Cut):
        import_minari(config)
    again = import_minari(config)
    assert len(calls) == 5
    for one, other in zip(whole.recorded(), again.recorded(), strict=True):
        assert one.held_out == other.held_out
        assert torch.equal(one.episode.state, other.episode.state)


# -- errors ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("task", "env", "said"),
    [
        (
            "mamujoco/walker2d-2x3",
            {},
            "was recorded in HalfCheetah-v5, not in Walker2d-v5 as mamujoco/walker2d-2x3",
        ),
        ("mamujoco/ant-4x2", {}, r"neither the state of mamujoco/ant-4x2 \(27 features\)"),
        ("mamujoco/halfcheetah-2x3", {"observation": "local-1"}, "use observation = full"),
        ("toy/switches", {}, "nor its agents' spaces"),
    ],
)
def test_single_agent_data_that_does_not_fit_is_refused(tmp_path, task, env, said):
    single_agent("gym/cheetah-v0")
    with pytest.raises(DatasetError, match=said) as error:
        import_minari(import_of(tmp_path, task, "gym/cheetah-v0", env=env))
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_values_that_are_not_finite_are_refused(tmp_path):
    single_agent("gym/cheetah-v0", rewards=np.array([0, 1, np.nan, 1, 1]))
    with pytest.raises(DatasetError, match="episode 0 has values that are not finite"):
        import_minari(import_of(tmp_path, "mamujoco/halfcheetah-2x3", "gym/cheetah-v0"))


@pytest.mark.filterwarnings("ignore")
def test_columns_of_one_value_a_step(tmp_path):
    """Rewards and ends (T, 1) are flattened."""
    column = {name: np.zeros((5, 1), bool) for name in ("terminations", "truncations")}
    single_agent("gym/cheetah-v0", rewards=np.arange(5.0)[:, None], **column)
    episode = import_minari(import_of(tmp_path, "mamujoco/halfcheetah-2x3", "gym/cheetah-v0")).episodes()[0]
    assert episode.reward.tolist() == [0, 1, 2, 3, 4]
    assert episode.truncated.tolist() == [False] * 4 + [True]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"rewards": np.zeros((5, 2))}, r"its rewards have shape \(5, 2\): expected one for each step"),
        ({"terminations": np.zeros((5, 6), bool)}, r"its terminations have shape \(5, 6\)"),
        ({"terminations": np.arange(5) == 1}, "it ends at step 2 of 5: each episode must end with its last step"),
        ({"truncations": np.arange(5) == 3}, "it ends at step 4 of 5"),
    ],
)
def test_episodes_of_odd_shape_are_named(tmp_path, column, said):
    single_agent("gym/cheetah-v0", **column)
    with pytest.raises(DatasetError, match=f"episode 0: {said}.*; mend it, or leave it out with MinariDataset.filter"):
        import_minari(import_of(tmp_path, "mamujoco/halfcheetah-2x3", "gym/cheetah-v0"))


@pytest.mark.filterwarnings("ignore")
def test_another_number_of_actuators_is_refused(tmp_path, recorded):
    data = recorded("toy/walk")  # four features, two actuators
    space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    state = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    zeros = {"rewards": np.zeros(1), "terminations": np.zeros(1, bool), "truncations": np.ones(1, bool)}
    buffer = minari.data_collector.EpisodeBuffer(
        observations=np.zeros((2, 4), np.float32), actions=np.zeros((1, 3), np.float32), infos={}, **zeros
    )
    minari.create_dataset_from_buffers(
        "mine/odd-v0", [buffer], observation_space=state, action_space=space, data_format="hdf5"
    )
    with pytest.raises(DatasetError, match=r"has actions in .*, toy/walk in"):
        import_minari(import_of(tmp_path, "toy/walk", "mine/odd-v0"))
    export_minari(data, "mine/walk-v0", "joint")
    with pytest.raises(DatasetError, match="cannot be computed from the state alone"):
        import_minari(import_of(tmp_path, "toy/walk", "mine/walk-v0"))


def test_missing_datasets_are_named(tmp_path, recorded):
    with pytest.raises(DatasetError, match=r"has no dataset 'mine/none-v0' on this machine: `minari list local`"):
        import_minari(import_of(tmp_path, "toy/walk", "mine/none-v0"))
    (tmp_path / "metadata.json").write_text("{")
    with pytest.raises(DatasetError, match="Minari cannot open"):
        import_minari(import_of(tmp_path, "toy/walk", str(tmp_path)))
    with pytest.raises(ConfigError, match="--minari names one"):
        import_minari(import_of(tmp_path, "toy/walk", ""))


def test_a_damaged_file_of_minari_is_one_line(tmp_path, recorded, root):
    export_minari(recorded("toy/walk"), "mine/walk-v0")
    (root / "mine" / "walk-v0" / "data" / "main_data.hdf5").write_bytes(b"nonsense")
    with pytest.raises(DatasetError, match="damaged or has another form: its episode 0 cannot be read") as error:
        import_minari(import_of(tmp_path, "toy/walk", "mine/walk-v0"))
    assert "\n" not in str(error.value)


def test_refused_names_and_failures_leave_nothing_behind(recorded, root, monkeypatch):
    def full(*args):
        raise OSError("no space left")

    data = recorded("toy/walk")
    export_minari(data, "mine/walk-v0")
    before = sorted(root.rglob("*"))
    for name in ("mine/walk-v0", "no version", "new/no version", "../walk-v0", ""):
        with pytest.raises(ConfigError, match=f"Minari cannot store '{name}'"):
            export_minari(data, name)
    with monkeypatch.context() as patch:
        patch.setattr("minari.utils.MinariDataset", full)
        with pytest.raises(ConfigError, match="no space left"):
            export_minari(data, "new/walk-v0")
    assert sorted(root.rglob("*")) == before
    assert list(minari.list_local_datasets()) == ["mine/walk-v0"]


def test_discrete_actions_have_no_joint_form(recorded):
    with pytest.raises(DatasetError, match="has discrete actions"):
        export_minari(recorded("toy/switches"), "mine/x-v0", "joint")


def test_a_folder_in_use_is_refused(recorded, tmp_path):
    export_minari(recorded("toy/walk"), "mine/walk-v0")
    config = import_of(tmp_path, "toy/walk", "mine/walk-v0")
    import_minari(config)
    with pytest.raises(DatasetError, match="already holds a dataset"):
        import_minari(config)
    assert len(import_minari(config, overwrite=True)) == 2
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "note").touch()
    with pytest.raises(RunFolderError, match="never overwritten"):
        import_minari(config.override({"out": str(tmp_path / "strange")}), overwrite=True)


def test_a_missing_package_is_named(recorded, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for call in (
        lambda: export_minari(recorded("toy/walk"), "mine/walk-v0"),
        lambda: import_minari(import_of(tmp_path, "toy/walk", "mine/walk-v0")),
    ):
        with pytest.raises(ConfigError, match=r"pip install 'dima-marl\[minari\]'"):
            call()


def test_export_and_import_on_the_command_line(recorded, tmp_path, capsys):
    path = recorded("toy/walk").path
    assert main(["dataset", "export", str(path), "mine/walk-v0"]) == 0
    assert "open it with minari.load_dataset('mine/walk-v0')" in capsys.readouterr().out
    fixed = ["--minari", "mine/walk-v0", "--out", str(tmp_path / "imported"), "--held-out", "0.5"]
    assert main(["dataset", "import", "toy/walk", *fixed]) == 0
    assert "held-out  1 episodes" in capsys.readouterr().out
    assert main(["dataset", "export", str(path), "mine/walk-v0"]) == 2
    assert "Minari cannot store 'mine/walk-v0'" in capsys.readouterr().err


def test_missing_infos_are_named(recorded, tmp_path, root):
    export_minari(recorded("toy/walk"), "mine/walk-v0")
    import h5py

    with h5py.File(root / "mine" / "walk-v0" / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0"]["infos"]
    with pytest.raises(DatasetError, match="episode 0: its infos hold no state and action masks"):
        import_minari(import_of(tmp_path, "toy/walk", "mine/walk-v0"))


def test_default_folders(tmp_path):
    assert import_config("toy/walk").override({"minari": "mine/walk-v0"}).folder == Path("datasets/mine/walk-v0")
