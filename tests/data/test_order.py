"""The shuffled order: every example once an epoch, the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from janus_edge.data.errors import DataError
from janus_edge.data.order import Order


@pytest.mark.parametrize("count", [*range(1, 40), 63, 64, 65, 255, 256, 257, 1000, 4097, 70_001])
def test_every_example_comes_once_an_epoch(count: int) -> None:
    order = Order(count, seed=3)
    for epoch in (0, 1, 5):
        found = order.indices(epoch * count, (epoch + 1) * count)
        assert (np.sort(found) == np.arange(count)).all()


def test_one_position_at_a_time_and_far_out() -> None:
    order = Order(1000, seed=1)
    assert [order.index(n) for n in range(990, 1010)] == list(order.indices(990, 1010))
    assert 0 <= order.index(2**60) < 1000
    huge = Order(2**62, seed=1).indices(0, 100)
    assert len(set(huge.tolist())) == 100 and huge.min() >= 0


def test_epochs_and_seeds_differ() -> None:
    order = Order(500, seed=1)
    assert (order.indices(0, 500) != order.indices(500, 1000)).any()
    assert (order.indices(0, 500) != Order(500, seed=2).indices(0, 500)).any()


def test_the_order_does_not_change_with_time() -> None:
    """A run that is resumed with another version must find the same examples."""
    assert Order(10, seed=0).indices(0, 10).tolist() == [8, 0, 4, 7, 5, 2, 1, 6, 9, 3]
    assert Order(10**6, seed=-1).indices(10**6, 10**6 + 4).tolist() == [
        161281,
        735750,
        377662,
        118689,
    ]


def test_it_is_shuffled() -> None:
    """Positions and examples are uncorrelated, and every pair of count 3 has its share."""
    for count in (50, 5000):
        for seed in range(5):
            found = Order(count, seed).indices(0, count)
            far = np.corrcoef(np.arange(count), found)[0, 1]
            assert abs(far) < 5 / np.sqrt(count)
            assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 5 / np.sqrt(count)
    orders = [tuple(Order(3, seed).indices(0, 3).tolist()) for seed in range(1200)]
    shares = np.array([orders.count(each) for each in set(orders)])
    assert len(shares) == 6 and shares.min() > 140


@pytest.mark.parametrize("count", [0, -1, 2**62 + 1])
def test_what_is_refused(count: int) -> None:
    with pytest.raises(DataError):
        Order(count, 0)
