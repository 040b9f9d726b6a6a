"""A trained policy loaded from a run folder: acting in PettingZoo, evaluation, refusal of damage."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import dima
from dima.errors import ConfigError, EnvError, RunFolderError
from dima.training.online import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def walker(tiny) -> Path:
    """The folder of a short run on toy/walk."""
    return train(tiny(algorithm="mappo", steps=50)).folder


@pytest.mark.parametrize(
    ("task", "algorithm", "changes"),
    [
        ("toy/walk", "dima", {}),
        ("toy/switches", "dima", {}),
        ("toy/uneven", "dima", {"env": {"n_agents": 4}}),
        ("toy/linear", "mappo", {}),
        ("toy/switches", "mappo", {}),
        ("toy/uneven", "happo", {"env": {"n_agents": 3}}),
        ("toy/switches", "hasac", {}),
        ("toy/uneven", "hasac", {"env": {"n_agents": 3}}),
        ("mpe/simple_speaker_listener", "mappo", {"evaluation_episodes": 1}),  # discrete, agents of different sizes
    ],
)
@pytest.mark.parametrize("mode", [True, False])
def test_a_loaded_policy_plays_a_pettingzoo_episode(tiny, task: str, algorithm: str, changes: dict, mode: bool) -> None:
    agent = dima.load(train(tiny(task, algorithm, steps=120, **changes)).folder, device="cpu")
    world = agent.env.parallel_env
    observations, infos = world.reset(seed=0)
    steps = 0
    while world.agents:
        actions = agent.act(observations, infos, mode=mode)
        assert set(actions) == set(world.agents)
        for name, action in actions.items():
            assert world.action_space(name).contains(action), (name, action)
            if "action_mask" in (observations[name] if isinstance(observations[name], dict) else ()):
                assert observations[name]["action_mask"][action]
        observations, _, _, _, infos = world.step(actions)
        steps += 1
    assert steps > 0


def test_the_mode_is_deterministic_and_samples_are_not(walker: Path) -> None:
    agent = dima.load(walker)
    observations, _ = agent.env.parallel_env.reset(seed=0)
    modes = [agent.act(observations)["agent_0"] for _ in range(3)]
    draws = [agent.act(observations, mode=False)["agent_0"] for _ in range(3)]
    assert np.array_equal(modes[0], modes[1])
    assert np.array_equal(modes[0], modes[2])
    assert not np.array_equal(draws[0], draws[1])


def test_a_missing_or_wrong_observation_is_named(walker: Path) -> None:
    agent = dima.load(walker)
    observations, _ = agent.env.parallel_env.reset(seed=0)
    with pytest.raises(EnvError, match="agent_1"):
        agent.act({"agent_0": observations["agent_0"]})
    with pytest.raises(EnvError, match="agent_0"):
        agent.act(observations | {"agent_0": np.zeros(7, np.float32)})


def test_evaluation_is_reproducible_and_on_seeds_of_its_own(walker: Path) -> None:
    first, second = dima.evaluate(walker, episodes=4), dima.evaluate(walker, episodes=4)
    assert first == second
    assert len(set(first.returns)) == 4
    assert dima.evaluate(walker, episodes=4, seed=1).returns != first.returns
    assert dima.evaluate(walker, episodes=2).returns == first.returns[:2]
    training = dima.load(walker).evaluate(4, seed=dima.load(walker).config.seed)
    assert not set(training.returns) & set(first.returns)


def test_loading_leaves_the_caller_s_random_state_alone(walker: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    dima.load(walker)
    assert torch.equal(torch.get_rng_state(), before)


def test_acting_needs_no_memory_for_the_replay(tiny) -> None:
    """A policy trained on a large machine acts on a small one."""
    folder = train(tiny(steps=120)).folder
    config = folder / "config.yaml"
    text = config.read_text()
    assert "capacity: 20000" in text
    config.write_text(text.replace("capacity: 20000", "capacity: 2000000000"))
    agent = dima.load(folder)
    assert agent.act(agent.env.parallel_env.reset(seed=0)[0]).keys() == {"agent_0", "agent_1"}


# -- what cannot be loaded --------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_or_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not exist"):
        dima.load(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="not a dima run folder"):
        dima.load(tmp_path)


@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
def test_a_flipped_byte_in_the_weights_is_noticed(walker: Path, place: float) -> None:
    path = walker / "checkpoint" / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"tensors\.safetensors"):
        dima.load(walker)


def test_a_checkpoint_of_other_networks_is_refused(walker: Path) -> None:
    config = walker / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("hidden:\n      - 16", "hidden:\n      - 24"))
    assert config.read_text() != text
    with pytest.raises(RunFolderError, match=r"does not fit its config\.yaml"):
        dima.load(walker)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none_is_one_clear_line(walker: Path) -> None:
    with pytest.raises(ConfigError, match="device = cuda cannot be used"):
        dima.load(walker, device="cuda")


def test_arguments_that_do_not_fit_are_one_clear_line(walker: Path) -> None:
    with pytest.raises(ConfigError, match="device = 'gpu' is not one of auto, cpu, cuda"):
        dima.load(walker, device="gpu")
    with pytest.raises(ConfigError, match="episodes = 0 is out of range: expected at least 1"):
        dima.evaluate(walker, episodes=0)


def test_objects_describe_themselves_in_a_line(tiny, recording) -> None:
    config = tiny(steps=120)
    run = dima.train(config, quiet=True)
    agent = dima.load(run, device="cpu")
    dima.record(recording(steps=60))
    data = dima.Dataset.open(config.folder.parent / "data")
    described = [
        (config, r"<TrainConfig: dima on toy/walk, preset debug, seed 0, 120 steps, .*/run>"),
        (agent, r"<Agent of dima on toy/walk: 120 steps, agents agent_0, agent_1, .*/run>"),
        (agent.world_model, r"<Dima\w+ of 2 agents: [\d,]+ weights in .*denoiser.*>"),
        (agent.experience(), r"<Replay: 120 of \d+ steps in 4 episodes, on cpu>"),
        (agent.evaluate(2), r"<Evaluation: mean -[\d.]+, std [\d.]+ over 2 episodes, lowest .*, highest .*>"),
        (data, r"<Dataset of toy/walk: \d+ episodes, 60 steps, .* held out, .*>"),
        (run, r"<Run of dima on toy/walk: 120 environment steps, team return -[\d.]+, .*/run>"),
    ]
    for value, pattern in described:
        assert re.fullmatch(pattern, repr(value)), value
    assert "over 2 episodes" in agent.evaluate(episodes=2)._repr_html_()
    fitting = dima.fit_config(config.folder.parent / "data", preset="debug")
    assert re.fullmatch(r"<OfflineConfig: dima on toy/walk, .*, \d+ iterations, runs/.*>", repr(fitting))
