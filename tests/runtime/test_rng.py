"""Random state: save, restore, seed a block, independent streams."""

from __future__ import annotations

import torch

from dima.runtime.rng import RandomStream, drawn_from, rng_state, set_rng_state


def draw(stream: RandomStream) -> float:
    with stream.draw():
        return float(torch.rand(()))


def test_the_state_is_restored():
    state = rng_state()
    first = torch.rand(3)
    set_rng_state(state)
    assert torch.equal(torch.rand(3), first)


def test_draws_depend_on_all_seeds_and_leave_the_global_state_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    drawn = []
    for seeds in ((1, 2), (1, 2), (1, 3), (2, 2), (1,)):
        with drawn_from("cpu", *seeds):
            drawn.append(float(torch.rand(())))
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn[0] == drawn[1] and len(set(drawn)) == 4


def test_a_stream_is_independent_of_other_draws():
    one, other = RandomStream("cpu", 5), RandomStream("cpu", 5)
    alone = [draw(one) for _ in range(3)]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    mixed = []
    for _ in range(3):
        mixed.append(draw(other))
        draw(RandomStream("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert alone == mixed and len(set(alone)) == 3
    assert draw(RandomStream("cpu", 6)) != alone[0]
    assert draw(RandomStream("cpu")) != draw(RandomStream("cpu"))
