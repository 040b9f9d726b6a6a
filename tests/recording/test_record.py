"""Recording: mixtures of policies, exact shares, the same dataset after interruptions."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

import dima
from dima.data import EnvSpec, View
from dima.datasets.format import Source
from dima.datasets.reader import Dataset, describe, description_text
from dima.envs.toy import ToyConfig
from dima.envs.vector import VectorEnv
from dima.errors import ConfigError, DatasetError, EnvError
from dima.experience.episodes import random_policy
from dima.recording.config import RecordConfig
from dima.recording.policies import NoisyPolicy, load_source, parse_source
from dima.recording.record import record
from dima.runtime.progress import Progress
from dima.training.online import train

pytestmark = pytest.mark.usefixtures("one_thread")
SPEC = EnvSpec(("a", "b"), 1, (1, 1), (2, 1), discrete=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """The folder of a short run on toy/walk."""
    folder = tmp_path_factory.mktemp("runs") / "walk"
    fixed = {"run": str(folder), "device": "cpu", "threads": 1, "tensorboard": False, "steps": 40}
    return str(train(dima.build_config("toy/walk", "mappo", "debug", fixed)).folder)


def view(batch: int = 3) -> View:
    mask = torch.from_numpy(SPEC.action_valid).expand(batch, 2, 2)
    return View(torch.zeros(batch, 2, 1), torch.zeros(batch, 1), mask, torch.zeros(batch, 2, 2))


def still(view: View) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(view.action_mask.shape), torch.zeros(view.action_mask.shape[:-1])


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.rglob("*.safetensors")}


# -- sources ----------------------------------------------------------------------------------------------------------


def test_a_source_is_parsed():
    assert parse_source("random") == Source()
    assert parse_source("runs/a,share=0.5,mode,noise=0.2,correlation=0.9") == Source("runs/a", 0.5, True, 0.2, 0.9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("random,shar=2", "unknown option 'shar': did you mean 'share'?"),
        ("random,share", r"write the option 'share' as in `random,share=0\.5`"),
        ("runs/a,mode=1", "write the option 'mode' as in `runs/a,mode`"),
        ("runs/a,noise=much", "noise = 'much' is not a number"),
        ("runs/a,share=0", r"source 'runs/a,share=0': share = 0\.0 is out of range: expected above 0"),
        ("runs/a,correlation=1", "correlation"),
    ],
)
def test_a_wrong_source_is_an_error(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_source(text)


def test_noise_has_the_requested_standard_deviation_and_autocorrelation():
    torch.manual_seed(0)
    noisy = NoisyPolicy(still, std=0.5, correlation=0.8)
    noise = torch.stack([noisy(view(500))[0] for _ in range(40)])  # (T, B, N, A)
    assert noise.std(dim=(1, 2, 3)).sub(0.5).abs().max() < 0.05  # from the first step on
    for lag, expected in ((1, 0.8), (3, 0.512)):
        measured = (noise[lag:] * noise[:-lag]).mean() / noise.square().mean()
        assert abs(float(measured) - expected) < 0.03
    assert (noise[:, 0, 0, 0] != noise[:, 1, 0, 0]).all()


def test_recorded_actions_are_clipped_and_zero_on_padding():
    source = load_source(Source(noise=3.0), "toy/x", ToyConfig(), SPEC, "cpu")
    action, _ = source.act()(view(50))
    assert action.abs().max() == 1
    assert not action[:, 1, 1].any()  # padding


def test_each_chunk_starts_a_new_noise_process():
    source = load_source(Source(noise=1.0, correlation=0.9), "toy/x", ToyConfig(), SPEC, "cpu")
    act = source.act()
    act(view(3))
    source.act()(view(5))  # another number of environments


# -- recording --------------------------------------------------------------------------------------------------------


def test_a_mixture_is_recorded_by_shares(recording, run):
    config = recording(steps=300, sources=["random,share=0.5", f"{run},mode", f"{run},noise=0.1,share=0.5"], envs=2)
    done = record(config)
    assert done.finished
    data = Dataset.open(config.folder)
    assert (done.episodes, done.steps) == (len(data), data.steps)
    recorded = list(data.recorded())
    steps = [sum(len(one.episode) for one in recorded if one.source == n) for n in range(3)]
    assert steps == [90, 150, 90]  # whole episodes of 30
    assert len({one.seed for one in recorded}) == len(recorded)
    assert len({float(one.episode.state[0, 0]) for one in recorded}) == len(recorded)
    assert [source["policy"] for source in data.header.sources] == ["random", run, run]
    assert data.header.sources[1]["algorithm"] == "mappo"
    assert len(data.header.sources[1]["checkpoint"]) == 64
    assert len(data.held_out) == 3
    text = description_text(describe(data))
    assert f"{run} (share = 0.5, noise = 0.1, algorithm = mappo, preset = debug" in text


def test_the_seed_decides_everything(recording):
    configs = [recording(out=out, seed=seed) for out, seed in (("a", 1), ("b", 1), ("c", 2))]
    for config in configs:
        torch.manual_seed(int(config.folder.name, 16))  # the caller's random state has no part in it
        record(config)
    one, same, other = (content(config.folder) for config in configs)
    assert one == same
    assert one.keys() == other.keys() and one != other


def test_recording_leaves_the_caller_s_random_state_alone(recording):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    record(recording())
    assert torch.equal(torch.get_rng_state(), before)


class Impatient(Progress):
    """Asks to stop after every chunk."""

    def iteration(self, done: int, total: int, **numbers: float) -> None:
        assert done <= total
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupted_recording_continues_to_the_same_dataset(recording, run, monkeypatch, capfd):
    monkeypatch.setattr("dima.recording.record.CHUNK_STEPS", 60)
    sources = ["random", f"{run},noise=0.2,correlation=0.5"]
    whole, broken = (
        recording(out="whole", sources=sources, steps=240),
        recording(out="broken", sources=sources, steps=240),
    )
    assert record(whole).finished
    iterations = 0
    while not record(broken, progress=Impatient()).finished:
        iterations += 1
        with pytest.raises(DatasetError, match="is not finished"):
            Dataset.open(broken.folder)
    assert iterations == 3
    assert content(whole.folder) == content(broken.folder)
    assert Dataset.open(whole.folder).held_out == Dataset.open(broken.folder).held_out


def test_a_signal_is_heard_between_steps(recording, monkeypatch, capfd):
    config, step, made = recording(steps=240, episode_steps=7), VectorEnv.step, []

    def interrupted(self, action, active):
        made.append(1)
        if len(made) == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, action, active)

    with monkeypatch.context() as patch:
        patch.setattr(VectorEnv, "step", interrupted)
        assert not record(config).finished
    assert len(made) == 10
    assert record(config).finished


def test_episodes_are_cut_where_asked(recording):
    record(config := recording(episode_steps=7))
    assert {len(episode) for episode in Dataset.open(config.folder).episodes()} == {7}
    assert all(episode.truncated[-1] for episode in Dataset.open(config.folder).episodes())


def test_a_task_without_a_known_limit_is_recorded_too(recording, monkeypatch):
    monkeypatch.setattr("dima.envs.base._episode_limit", lambda env, name: None)
    record(config := recording(steps=70))
    assert Dataset.open(config.folder).spec.episode_limit is None
    assert Dataset.open(config.folder).steps == 90


# -- what goes wrong --------------------------------------------------------------------------------------------------


def refused(config: RecordConfig, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as error:
        record(config)
    assert "\n" not in str(error.value)
    assert not config.folder.exists()


def test_a_run_of_another_task_or_other_settings_is_refused(recording, run):
    refused(
        recording("toy/linear", sources=[run]),
        ConfigError,
        "task = 'toy/linear' does not fit: .* is of 'toy/walk'",
    )
    refused(recording(sources=[run], env={"episode_limit": 20}), DatasetError, "was trained with episode_limit = 30")


def test_noise_on_choices_is_refused(recording):
    refused(
        recording("toy/switches", sources=["random,noise=0.1"]),
        ConfigError,
        r"noise = 0\.1 is for continuous actions",
    )


def test_an_error_of_the_environment_keeps_recorded_chunks(recording, tmp_path, monkeypatch):
    (tmp_path / "breaking.py").write_text(
        "import numpy as np\nfrom dima.envs.toy import ToyConfig, Walk\n"
        "class Breaking(Walk):\n    n = 0\n    def _start(self):\n        super()._start()\n        self.n += 1\n"
        "    def _move(self, actions):\n        rewards, over = super()._move(actions)\n"
        "        return rewards * (np.nan if self.n > 3 else 1), over\n"
        "def make():\n    return Breaking(ToyConfig())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("dima.recording.record.CHUNK_STEPS", 30)
    config = recording("breaking:make", steps=300)
    with pytest.raises(EnvError, match="rewards must be finite"):
        record(config)
    assert len(content(config.folder)) == 2


def test_an_empty_list_of_sources_is_refused(recording):
    with pytest.raises(ConfigError, match=r"sources = .* is empty: name at least one"):
        recording(sources=[])


def test_a_random_policy_is_the_library_s():
    torch.manual_seed(3)
    one = random_policy(SPEC)(view())[0]
    torch.manual_seed(3)
    assert torch.equal(load_source(Source(), "t", ToyConfig(), SPEC, "cpu").act()(view())[0], one)
