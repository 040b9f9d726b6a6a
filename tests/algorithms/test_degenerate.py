"""Settings at the edge of what is allowed work in every algorithm, or are refused in one line."""

from __future__ import annotations

from typing import Any, get_origin

import pytest
import torch

from dima.algorithms import algorithm_config
from dima.cli.options import flags
from dima.errors import ConfigError
from dima.runtime.progress import Progress
from dima.training.guards import require_finite, to_numbers
from dima.training.online import Trainer
from dima.training.run_config import build_config
from tests.conftest import ON_ANY_TASK

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT: dict[str, dict[str, Any]] = {
    **{name: {"learn_after": 30, "iteration_steps": 30, "policy_after": 0, "imaginations": 1} for name in ON_ANY_TASK},
    **{name: {"rollout": 30} for name in ("happo", "mappo")},
    "hasac": {"warmup": 30},
}
LISTS = [
    (algorithm, name.replace("-", "_"))
    for algorithm in ON_ANY_TASK
    for name, kind in flags(algorithm_config(algorithm))
    if get_origin(kind) is tuple
]
REFUSED = {
    "world_model.denoiser.channels",
    "world_model.decoder.fsq_levels",
    "world_model.tokenizer.fsq_levels",
    "world_model.reward.hidden",
}  # nothing is left without them


def nested(path: str, value: Any) -> Any:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def play(task: str, algorithm: str, learner: dict[str, Any]) -> None:
    """Two iterations, in the second of which every algorithm learns, and an evaluation."""
    config = build_config(task, algorithm, "debug", {"evaluation_episodes": 1, "learner": SHORT[algorithm]})
    config = config.override({"learner": learner})
    torch.manual_seed(0)
    with Trainer(config, torch.device("cpu"), Progress()) as run:
        for _ in range(2):
            numbers = to_numbers(run.learn())
            require_finite(numbers, run.algorithm, run.step)
        assert any(name.startswith("policy/") for name in numbers)
        assert len(run._play(run.algorithm.policy).returns) == 1


def test_every_list_setting_is_tried() -> None:
    assert {name for algorithm, name in LISTS if algorithm == "dima"} == REFUSED - {
        "world_model.tokenizer.fsq_levels"
    } | {
        "world_model.decoder.hidden",
        "ppo.actor.hidden",
        "ppo.critic.hidden",
    }
    assert ("hasac", "hidden") in LISTS
    assert ("ensemble", "world_model.hidden") in LISTS
    assert {algorithm for algorithm, _ in LISTS} == set(ON_ANY_TASK)


@pytest.mark.parametrize("task", ["toy/uneven", "toy/switches"])
@pytest.mark.parametrize(("algorithm", "name"), LISTS)
def test_an_empty_list_works_or_is_refused_in_a_line(algorithm: str, name: str, task: str) -> None:
    if name in REFUSED:
        with pytest.raises(ConfigError, match=rf"^{name} = \[\] is empty: name at least one value$"):
            algorithm_config(algorithm).override(nested(name, []))
    else:
        play(task, algorithm, nested(name, []))


@pytest.mark.parametrize("bottleneck", ["vq", "fsq", "none"])
def test_a_decoder_without_hidden_layers_decodes_through_every_bottleneck(bottleneck: str) -> None:
    decoder = {"bottleneck": bottleneck, "hidden": [], "fsq_levels": [2]}
    play("toy/uneven", "dima", {"world_model": {"decoder": decoder}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denoiser": {"condition_dim": 3}}, "condition_dim = 3 must be even"),
        ({"decoder": {"fsq_levels": [8, 1]}}, r"fsq_levels\[1\] = 1 is out of range: expected at least 2"),
        ({"sampler": {"rho": 0.5}}, r"rho = 0\.5 is out of range: expected at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_a_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithm_config("dima").override({"world_model": changes})


@pytest.mark.parametrize(
    "world_model",
    [
        {"denoiser": {"condition_dim": 2, "channels": [32], "context": 1, "rollout": 1, "blocks": 1}},
        {
            "denoiser": {
                "encoder": dict.fromkeys(("token_dim", "latents", "latent_dim", "depth", "heads", "head_dim"), 1)
            }
        },
        {"decoder": {"tokens": 1, "token_dim": 1, "codebook": 1}},
        {"reward": {"dim": 2, "heads": 1, "action_heads": 1, "layers": 1, "action_layers": 0}},
        {f"{part}_fit": {"updates": 0} for part in ("denoiser", "decoder", "reward")},
        {"sampler": {"rho": 1}},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_the_smallest_sizes_work(world_model: dict[str, Any]) -> None:
    play("toy/switches", "dima", {"world_model": world_model})
