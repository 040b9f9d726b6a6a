"""Gradient steps and the EMA of the weights."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from dima.nn.optim import FitConfig, Fitter


def train(module: nn.Module, fitter: Fitter, steps: int) -> list[torch.Tensor]:
    """Make gradient steps on a noisy quadratic; the weights after each."""
    weights = []
    with fitter.fitting():
        for _ in range(steps):
            fitter.step((module(torch.randn(8, 3)) - 1).square().mean())
            weights.append(module.weight.detach().clone())
    return weights


def test_ema_equals_the_hand_computed_average() -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    average = module.weight.detach().clone()
    weights = train(module, Fitter(module, FitConfig(lr=0.1, ema=0.6)), 8)
    for step, weight in enumerate(weights, start=1):
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(module.weight.detach(), average)
    assert not torch.equal(module.weight, weights[-1])


def test_ema_does_not_change_the_gradient_steps() -> None:
    runs = []
    for ema in (0.0, 0.9):
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        fitter = Fitter(module, FitConfig(lr=0.1, ema=ema))
        runs.append(train(module, fitter, 3) + train(module, fitter, 3))
    assert all(torch.equal(plain, averaged) for plain, averaged in zip(*runs, strict=True))


def test_without_ema_the_module_holds_the_last_weights() -> None:
    module = nn.Linear(3, 2)
    fitter = Fitter(module, FitConfig(lr=0.1))
    assert torch.equal(module.weight, train(module, fitter, 4)[-1])
    assert fitter.checkpoint()["other"] == []


def test_an_exception_leaves_the_ema_in_place() -> None:
    module = nn.Linear(3, 2)
    fitter = Fitter(module, FitConfig(lr=0.1, ema=0.9))
    train(module, fitter, 3)
    before = module.weight.detach().clone()
    with pytest.raises(KeyError), fitter.fitting():
        raise KeyError
    assert torch.equal(module.weight, before)


def test_a_restored_optimiser_obeys_its_own_config() -> None:
    module = nn.Linear(3, 2)
    fitter = Fitter(module, FitConfig(lr=0.1, weight_decay=0.5))
    train(module, fitter, 3)
    other = Fitter(nn.Linear(3, 2), FitConfig(lr=0.01, weight_decay=0.2))
    other.restore(fitter.checkpoint())
    (group,) = other.optimizer.param_groups
    assert (group["lr"], other.lr, other.config.weight_decay) == (0.01, 0.01, 0.2)
    (of_the_first,) = {int(moments["step"]) for moments in other.optimizer.state.values()}
    assert of_the_first == 3
    with pytest.raises(ValueError, match="of other networks"):
        Fitter(nn.Linear(3, 2, bias=False), FitConfig()).restore(fitter.checkpoint())


def test_a_restored_fitter_continues_exactly() -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    fitter = Fitter(module, FitConfig(lr=0.1, warmup=6, max_grad_norm=0.5, ema=0.9))
    train(module, fitter, 3)
    saved = deepcopy({"model": module.state_dict(), "fitter": fitter.checkpoint()})
    random = torch.get_rng_state()
    train(module, fitter, 4)

    again = nn.Linear(3, 2)
    other = Fitter(again, fitter.config)
    again.load_state_dict(saved["model"])
    other.restore(saved["fitter"])
    torch.set_rng_state(random)
    train(again, other, 4)
    assert torch.equal(module.weight, again.weight)


def test_weight_decay_acts_on_matrices_alone() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(3, 2), nn.LayerNorm(2)
            self.embedding = nn.Parameter(torch.ones(4, 2))

    net = Net()
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    fitter = Fitter(net, FitConfig(lr=0.1, weight_decay=0.5))
    fitter.step(sum(value.sum() for value in net.parameters()) * 0.0)  # without a gradient only decay moves weights
    for name, value in net.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5 if name == "layer.weight" else 1)
        torch.testing.assert_close(value.detach(), expected)
