"""The speed benchmark: operation counts, sums, switches, output; no clock is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.speed import __main__ as command
from benchmarks.speed.cost import Counter
from benchmarks.speed.counts import counts
from benchmarks.speed.learners import build, plain
from benchmarks.speed.parts import measure
from benchmarks.speed.plain.layers import PlainAttention
from benchmarks.speed.plain.model import PlainFitter
from benchmarks.speed.switches import SWITCHES, switched
from benchmarks.speed.tables import counts_table, parts_table, switches_table, versus_table, whole_table
from benchmarks.speed.timing import Timing, ceiling, peak_memory, ratio
from benchmarks.speed.units import KEEPING, learning_units, steps_of_a_iteration
from benchmarks.speed.versus import versus
from benchmarks.speed.whole import learn, learn_reference, shortened, whole
from dima.nn.attention import Attention
from dima.world_models.dima.action_encoder import ActionEncoder
from dima.world_models.dima.unet import TemporalUNet
from dima.world_models.rollout import imagine

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture
def config(tiny):
    decoder = {"bottleneck": "none", "hidden": [32]}
    return tiny(learner={"world_model": {"decoder": decoder, "decoder_fit": {"updates": 7, "batch": 16}}})


@pytest.fixture
def measured(config) -> dict:
    return measure(config, Timing(CPU, 1, 0.5), top=1e10) | {"reference": None, "share": 0.5}


def test_a_decoder_update_is_counted_as_by_hand(measured) -> None:
    state, hidden, out, batch = 4, 32, 4, 16
    forward = state * hidden + hidden * out
    backward = state * hidden + 2 * hidden * out  # no gradient of the input
    part = measured["parts"]["decoder update"]
    assert part["flops"] == 2 * batch * (forward + backward)
    assert part["ceiling"] == part["flops"] / part["seconds"] / 1e10


def test_an_iteration_is_the_sum_of_its_parts(measured) -> None:
    often = {"decoder update": 7, "denoiser update": 4, "reward update": 4, "imagination": 4, "policy update": 4}
    assert often.items() <= measured["often"].items()  # two imaginations an iteration, half a batch a call
    alone = [name for name in measured["often"] if not name.startswith("sampling")]
    for unit in ("seconds", "flops"):
        parts = [measured["parts"][name][unit] * measured["often"][name] for name in alone]
        assert measured["iteration"]["iteration"][unit] == pytest.approx(sum(parts))
    kept = sum(measured["iteration"][name]["seconds"] for name in KEEPING)
    assert measured["keeping"] == pytest.approx(kept / measured["iteration"]["iteration"]["seconds"])
    assert measured["million"] == pytest.approx(measured["iteration"]["iteration"]["seconds"] * 1e6 / 60 / 3600)
    assert measured["parts"]["checkpoint"]["seconds"] > 0 < measured["parts"]["evaluation"]["seconds"]


def test_the_imagination_is_the_sum_of_its_components(measured) -> None:
    inside = measured["inside"]
    assert sum(cost["flops"] for cost in inside.values()) == measured["parts"]["imagination"]["flops"]
    assert sum(cost["share"] for cost in inside.values()) == pytest.approx(1)
    assert all(inside[name]["flops"] > 0 for name in ("policy", "condition", "network", "decoder", "reward"))
    assert inside["sampler"]["flops"] >= 0 == inside["the rest"]["flops"]
    table = parts_table(measured)
    assert all(name in table for name in [*measured["parts"], *inside, "an iteration"])


def test_an_iteration_collects_whole_episodes_of_every_environment(tiny) -> None:
    config = tiny(envs=4)
    spec = build(config).spec
    assert steps_of_a_iteration(config, spec) == 120  # 60 wanted, an episode has 30 steps
    assert steps_of_a_iteration(config.override({"learner": {"episode_steps": 10}}), spec) == 80


def test_half_a_batch_is_half_the_work(config) -> None:
    counts = []
    for share in (1.0, 0.5):
        units = learning_units(build(config), share)
        with Counter() as count:
            units["imagination"].call()
        counts.append(count.flops * units["imagination"].often)
    assert counts[0] == pytest.approx(counts[1], rel=0.05)  # preparing the weights once a call is not halved


@pytest.mark.parametrize("masked", [False, True])
def test_attention_on_the_cpu_is_counted_forward_and_backward(masked: bool) -> None:
    """2 products of 2 * 5 * 7 * 8 operations a head forward; backward 4, and the weights once more."""
    query = torch.randn(3, 2, 5, 8, requires_grad=True)
    key, value = torch.randn(2, 3, 2, 7, 8, requires_grad=True).unbind(0)
    mask = torch.ones(5, 7, dtype=torch.bool) if masked else None
    product = 3 * 2 * 2 * 5 * 7 * 8
    with Counter() as forward:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    assert forward.flops == 2 * product
    with Counter() as backward:
        out.sum().backward()
    assert backward.flops in (4 * product, 5 * product)


def test_operations_are_counted_without_computing(config) -> None:
    """As many as are counted while computing, in library and reference."""
    found = counts(config, config)
    learner = build(config)
    for side, one in (("dima", learner), ("plain", plain(learner))):
        units = learning_units(one)
        for name, result in found["parts"][side].items():
            with Counter() as count:
                units[name].call()
            policy = 0
            if name == "imagination":
                with Counter() as acting:
                    view = learner.world_model.observe(learner.world_model.start(rows_of(learner)))
                    learner.act(view)
                with Counter() as observing:
                    learner.world_model.observe(learner.world_model.start(rows_of(learner)))
                policy = (acting.flops - observing.flops) * config.learner.horizon
            # the CPU's attention computes its weights again in the backward pass
            assert result["flops"] == pytest.approx(count.flops - policy, rel=2e-3), (side, name)
            assert result["often"] == units[name].often
    assert "an iteration, TFLOP" in counts_table(found)


def rows_of(learner):
    return learner.replay.gather(learner.replay.recent(24), learner.world_model.context - 1, 0)


def test_switches_leave_results_unchanged(config) -> None:
    """Without an optimisation rollouts are the same, and optimisers hold the weights in use."""
    config = config.override({"learner": {"world_model": {"denoiser": {"channels": [64, 32]}}}})

    def rollout(learner):
        torch.manual_seed(4)
        start = learner.replay.gather(learner.replay.recent(8), learner.world_model.context - 1, 0)
        return imagine(learner.world_model, learner.act, start, 4)

    torch.manual_seed(0)
    whole = rollout(build(config))
    for switch in SWITCHES:
        torch.manual_seed(0)
        learner = build(config)
        switch.off(learner)
        without = rollout(learner)
        for name in ("state", "obs", "reward", "continuation", "action"):
            torch.testing.assert_close(getattr(without, name), getattr(whole, name), **CLOSE)
        for part, fitter in learner.fitter.fitters.items():
            weights = {id(weight) for weight in learner.world_model.get_submodule(part).parameters()}
            assert {id(weight) for weight in fitter.parameters} == weights, switch.name


def test_switches_replace_the_optimised_code(config) -> None:
    by_name = {}
    for switch in SWITCHES:
        learner = build(config)
        switch.off(learner)
        by_name[switch.name] = learner
    model = by_name["scaled_dot_product_attention"].world_model
    assert not any(isinstance(module, Attention) for module in model.modules())
    assert any(isinstance(module, PlainAttention) for module in model.denoiser.encoder.modules())
    assert type(by_name["fused U-Net"].world_model.denoiser.net) is TemporalUNet
    assert type(by_name["fused Perceiver"].world_model.denoiser.encoder) is ActionEncoder
    assert not by_name["batched rewards"].world_model.batched_rewards
    learner = by_name["fused optimisers"]
    assert all(isinstance(fitter, PlainFitter) for fitter in learner.fitter.fitters.values())
    assert not learner.ppo.actor_optimizer.defaults["fused"]


def test_ratios_of_switches_and_of_the_reference(config) -> None:
    found = switched(config, Timing(CPU, 2, 0.5))
    assert {name: tuple(parts) for name, parts in found.items()} == {s.name: s.parts for s in SWITCHES}
    for parts in found.values():
        for result in parts.values():
            assert len(result["seconds"]["on"]) == len(result["seconds"]["off"]) == 2
            assert result["ratio"] == ratio(result["seconds"]["off"], result["seconds"]["on"])
    assert all(name in switches_table(found) for name in found)
    against = versus(config, config, Timing(CPU, 1, 0.5, clock="cpu"))
    assert against["iteration"]["plain"] == pytest.approx(
        sum(part["seconds"]["plain"][0] * part["often"]["plain"] for part in against["parts"].values())
    )
    assert "an iteration" in versus_table(against)


def test_another_yardstick_has_its_own_schedule(config) -> None:
    larger = config.override({"preset": "larger", "learner": {"world_model": {"denoiser_fit": {"updates": 40}}}})
    found = versus(config, larger, Timing(CPU, 1, 0.5))
    part = found["parts"]["denoiser update"]
    assert part["often"] == {"dima": 4, "plain": 40}
    assert part["ratio"] == pytest.approx(part["iteration"]["plain"] / part["iteration"]["dima"])
    assert "reference larger" in versus_table(found)


def test_an_iteration_under_several_settings(config) -> None:
    settings = ["threads=1,learner.world_model.denoiser_fit.updates=8"]
    found = whole(config, config, settings, 1, Timing(CPU, 1, 0.5))
    assert list(found) == ["plain", "default", settings[0]]
    for result in found.values():
        assert result["iteration"] == 2 * result["seconds"][0]
        assert result["ratio"] == found["plain"]["seconds"][0] / result["seconds"][0]
    assert all(name in whole_table(found) for name in found)


def test_a_shortened_iteration_is_the_same_share_in_both(config) -> None:
    """As many gradient steps, imagined steps and policy updates in library and reference."""
    short = shortened(config, 0.5)
    sizes = short.learner.world_model
    assert (sizes.decoder_fit.updates, sizes.denoiser_fit.updates) == (4, 2)
    assert (short.learner.imaginations, short.learner.imagination_batch) == (1, 24)
    less = shortened(config, 0.25).learner
    assert (less.imaginations, less.imagination_batch) == (1, 12)
    assert shortened(config.override({"learner": {"imaginations": 0}}), 0.5).learner.imaginations == 0
    learner = build(short)
    twin = plain(learner)
    learn(learner)
    learn_reference(twin)
    for name, fitter in twin.world_model.fitters.items():
        assert fitter.steps == learner.fitter.fitters[name].steps == getattr(sizes, f"{name}_fit").updates
    ours, theirs = (one.ppo.actor_optimizer.state_dict()["state"][0]["step"] for one in (learner, twin))
    assert ours == theirs == short.learner.imaginations * config.learner.ppo.epochs * config.learner.ppo.minibatches


def test_the_reference_shares_no_weights(config) -> None:
    learner = build(config)
    twin = plain(learner)
    before = [weight.clone() for weight in learner.parameters()]
    units = learning_units(twin, 0.5)
    for name in ("decoder update", "denoiser update", "reward update", "imagination", "policy update"):
        units[name].call()
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters(), strict=True))


def test_compared_calls_alternate() -> None:
    said: list[str] = []
    seconds = Timing(CPU, 3).each({"a": lambda: said.append("a"), "b": lambda: said.append("b")})
    assert said == ["a", "b", "b", "a", "a", "b"]
    assert [len(values) for values in seconds.values()] == [3, 3]
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == 2.0


def test_peak_memory_includes_freed_memory() -> None:
    def waste() -> None:
        torch.ones(128 * 2**20)  # 512 MiB, some of which may have been the process's already

    empty, full = peak_memory(lambda: None, CPU), peak_memory(waste, CPU)
    if empty is None or full is None:
        pytest.skip("this system tells no peak")
    assert full - empty > 200 * 2**20


def test_the_ceiling_is_a_rate() -> None:
    assert 1e6 < ceiling(Timing(CPU), torch.float32, size=64, tries=2) < 1e15


def test_the_command_writes_a_file_and_a_table(tmp_path: Path, monkeypatch, capsys) -> None:
    given = ["--tasks", "toy/walk", "--presets", "debug", "--repeats", "1", "--threads", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["benchmarks", *given, "--sections", "parts", "plain", "--give-back"])
    monkeypatch.setattr(command, "ceiling", lambda timing, kind: 1e11)
    assert command.main() == 0
    written = json.loads((tmp_path / "cpu" / "walk-debug-parts-plain.json").read_text())
    assert written["task"] == "toy/walk"
    assert written["ceiling"] == {"float32": 1e11}
    assert written["share"] == 0.1
    assert written["freed_memory_kept"] is False
    assert "switches" not in written
    table = (tmp_path / "cpu" / "walk-debug-parts-plain.md").read_text()
    assert "| imagination |" in table
    assert "times as long" in table
    assert table.strip() in capsys.readouterr().out


def test_reference_numbers_are_in_the_table(measured) -> None:
    known = {"denoiser": 0.4, "reward": 0.2, "imagination": 20.0, "iteration": 200, "seconds": 2000}
    table = parts_table(measured | {"reference": known})
    assert "| 400 |" in table
    assert "| 1e+04 |" in table  # of half a batch
    assert "| reference | | | | | | | 2000 | 200 |" in table


def test_networks_without_a_plain_form_are_measured_alone(monkeypatch, tmp_path, capsys) -> None:
    given = ["--tasks", "toy/walk", "--presets", "small", "--repeats", "1", "--share", "0.01", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["speed", *given, "--sections", "plain"])
    with pytest.raises(SystemExit):
        command.main()
    assert "have no plain form to compare with: choose --sections parts" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["speed", *given, "--device", "cpu"])
    assert command.main() == 0
    (path,) = (tmp_path / "cpu").glob("*.json")
    assert path.name == "walk-small-parts.json"
    assert "an iteration" in capsys.readouterr().out
