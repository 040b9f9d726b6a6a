"""``import dima`` is light, and its names are what they promise, whatever was imported before."""

import pytest

import dima


@pytest.mark.parametrize("name", dima.__all__)
def test_every_public_name_is_there(name):
    assert getattr(dima, name) is not None
    assert name in dir(dima)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        dima.trian  # noqa: B018
