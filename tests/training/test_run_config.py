"""The config of a run: defaults, preset, overrides; every error names the right word."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dima.algorithms import algorithm_names
from dima.config import read_yaml, write_yaml
from dima.envs import all_tasks
from dima.errors import ConfigError
from dima.presets import GPU_SIZED, preset_changes, preset_names, read_preset, smaller_preset
from dima.training.run_config import RunConfig, build_config, default_config

EVERY_PRESET = [(algorithm, preset) for algorithm in algorithm_names() for preset in preset_names(algorithm)]
TASKS = {info.name.split("/")[0]: info.name for info in all_tasks()}


@pytest.mark.parametrize(("algorithm", "preset"), EVERY_PRESET)
def test_every_preset_loads_on_every_suite_and_survives_yaml(algorithm, preset, tmp_path):
    contents = read_preset(algorithm, preset)
    named = [task for content in contents for task in content.get("tasks") or {}]
    assert {suite for content in contents for suite in content.get("suites") or {}} <= {*TASKS, "pettingzoo"}
    for task in [*TASKS.values(), "my.package:make", *named]:
        config = build_config(task, algorithm, preset)
        write_yaml(tmp_path / "config.yaml", config.to_dict())
        assert RunConfig.from_dict(read_yaml(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize("algorithm", ["dima", "ensemble"])
def test_published_is_the_python_defaults_of_world_models(algorithm):
    assert build_config("toy/walk", algorithm, "published") == default_config("toy/walk", algorithm)


@pytest.mark.parametrize("algorithm", algorithm_names())
def test_small_is_the_default(algorithm):
    config = build_config("toy/walk", algorithm)
    assert config == build_config("toy/walk", algorithm, "small")
    assert config.preset == "small"


@pytest.mark.parametrize("algorithm", algorithm_names())
@pytest.mark.parametrize("task", TASKS.values())
def test_quick_is_small_with_less_to_do(algorithm, task):
    quick, small = build_config(task, algorithm, "quick"), build_config(task, algorithm, "small")
    assert quick.steps < small.steps
    assert quick.evaluate_every < quick.steps
    assert quick.learner.first_steps < quick.steps / 2
    same = ["ppo"] if hasattr(quick.learner, "ppo") else ["hidden", "normalize_obs", "normalize_reward"]
    assert all(getattr(quick.learner, name) == getattr(small.learner, name) for name in same)


@pytest.mark.parametrize("algorithm", algorithm_names())
def test_smaller_presets_are_smaller_and_exist(algorithm):
    assert smaller_preset(algorithm, "published") == "small"
    assert smaller_preset(algorithm, "small") == "quick"
    assert smaller_preset(algorithm, "quick") is smaller_preset(algorithm, "debug") is None


def test_presets_sized_for_a_gpu_exist():
    assert set(GPU_SIZED) < set(preset_names("dima"))


@pytest.mark.parametrize("algorithm", algorithm_names())
def test_published_comes_first(algorithm):
    assert preset_names(algorithm)[0] == "published"


def test_run_folders_with_retired_fields_load():
    config = build_config("toy/walk", "mappo")
    old = config.to_dict()
    old["learner"]["ppo"] |= {"adam_eps": 1e-5, "huber_delta": 10.0}
    old["learner"]["ppo"]["actor"]["std_scale"] = 0.5
    del old["learner"]["ppo"]["critic"]["input_norm"]
    loaded = RunConfig.from_dict(old)
    assert loaded == config.override({"learner": {"ppo": {"critic": {"input_norm": False}}}})
    old["learner"]["ppo"]["huber_delta"] = 1.0
    with pytest.raises(ConfigError, match=r"learner\.ppo\.huber_delta = 1\.0 is no longer a field: it is always 10"):
        RunConfig.from_dict(old)


@settings(max_examples=25, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "steps": st.integers(1, 10**9),
            "seed": st.integers(0, 2**32),
            "device": st.sampled_from(["auto", "cpu", "cuda"]),
            "run": st.none() | st.text(),
            "tensorboard": st.booleans(),
            "learner": st.fixed_dictionaries({}, optional={"horizon": st.integers(1, 99)}),
        },
    )
)
def test_overrides_win_and_survive_a_dict(overrides):
    config = build_config("mpe/simple_spread", "dima", "small", overrides)
    assert RunConfig.from_dict(config.to_dict()) == config
    for name, value in overrides.items():
        if name != "learner":
            assert getattr(config, name) == value


def test_sections_of_a_preset_are_for_suites_and_tasks(monkeypatch):
    content = {
        "steps": 1,
        "seed": 1,
        "envs": 1,
        "suites": {"toy": {"seed": 2, "envs": 2}, "mpe": {"seed": 9}},
        "tasks": {"toy/walk": {"envs": 3}},
    }
    monkeypatch.setattr("dima.presets.read_preset", lambda algorithm, preset: [content])
    monkeypatch.setattr("dima.presets.preset_names", lambda algorithm: ["published", "mine"])
    config = build_config("toy/walk", "dima", "mine")
    assert (config.steps, config.seed, config.envs, config.preset) == (1, 2, 3, "mine")
    other = build_config(next(name for name in TASKS.values() if name.startswith("mamujoco")), "dima", "mine")
    assert (other.seed, other.envs) == (1, 1)
    assert len(preset_changes("dima", "mine", "toy/other")) == 2


def test_a_preset_extends_another(monkeypatch):
    def own(**presets):
        monkeypatch.setattr("dima.presets._own", lambda algorithm: presets)

    wide = {"steps": 7, "envs": 2, "suites": {"toy": {"envs": 3, "seed": 4}}}
    own(wide=wide, narrow={"extends": "wide", "envs": 5})
    config = build_config("toy/walk", "mappo", "narrow")
    assert (config.steps, config.envs, config.seed, config.preset) == (7, 5, 4, "narrow")
    own(wide={"extends": "narrow"}, narrow={"extends": "wide"})
    with pytest.raises(ConfigError, match="the preset 'wide' of 'mappo' extends 'narrow', which extends it"):
        build_config("toy/walk", "mappo", "narrow")
    own(narrow={"extends": "wdie"})
    with pytest.raises(ConfigError, match="the preset 'narrow' of 'mappo' extends 'wdie', which does not exist"):
        build_config("toy/walk", "mappo", "narrow")


def test_the_folder_follows_from_the_names():
    config = build_config("toy/walk", "dima", "small", {"seed": 4})
    assert str(config.folder) == "runs/toy/walk/dima-small-seed4"
    assert str(config.override({"run": "elsewhere"}).folder) == "elsewhere"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mamujco/halfcheetah-2x3",), "no suite 'mamujco': did you mean 'mamujoco'?"),
        (("halfcheetah-2x3",), "did you mean 'mamujoco/halfcheetah-2x3'?"),
        (("toy/walk", "dimma"), "there is no algorithm 'dimma': did you mean 'dima'?"),
        (("toy/walk", "dima", "smal"), "the algorithm 'dima' has no preset 'smal': did you mean 'small'?"),
        (("toy/walk", "dima", "small", {"stpes": 1}), "stpes is not a field of TrainConfig: did you mean 'steps'?"),
        (("toy/walk", "dima", "small", {"learner": {"horizn": 1}}), "learner.horizn is not a field of "),
        (("toy/walk", "dima", "small", {"learner": {"ppo": {"clip": "a"}}}), "learner.ppo.clip = 'a' does not fit"),
        (("toy/walk", "dima", "small", {"env": {"nope": 1}}), "env.nope is not a field of ToyConfig"),
        (("toy/walk", "dima", "small", {"envs": 0}), "envs = 0 is out of range: expected at least 1"),
    ],
)
def test_every_misspelling_is_named(arguments, message):
    with pytest.raises(ConfigError) as caught:
        build_config(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_without_a_task_is_refused():
    with pytest.raises(ConfigError, match="names no task"):
        RunConfig.from_dict({"steps": 3})
