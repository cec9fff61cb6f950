# SPDX-License-Identifier: Apache-2.0
"""Two parts of one training: how long each is, and what the learning rate does in them."""

import pytest

from scripts.engines import Phases
from scripts.errors import DataError


@pytest.mark.parametrize(("warm_up", "epochs"), [(0, 0), (0.4, 4), (0.37, 4), (200, 4), (210, 4)])
def test_a_fraction_or_a_number_of_steps_becomes_whole_epochs(warm_up, epochs):
    phases = Phases(warm_up, max_epochs=10, epoch_length=50)
    assert phases.warm_up_epochs == epochs and phases.fraction == epochs / 10


@pytest.mark.parametrize("warm_up", [-0.1, 1.0, 500, 5000])
def test_a_part_without_an_epoch_is_refused(warm_up):
    with pytest.raises(DataError, match="Give 0, a fraction of the training"):
        Phases(warm_up, max_epochs=10, epoch_length=50)


def test_the_learning_rate_falls_to_zero_in_each_part():
    phases = Phases(0.4, max_epochs=10, epoch_length=5)
    factors = [phases.learning_rate_factor(epoch) for epoch in range(11)]
    assert factors[:4] == pytest.approx([(1 - e / 4) ** 0.9 for e in range(4)])
    assert factors[4:] == pytest.approx([(1 - e / 6) ** 0.9 for e in range(7)])


def test_without_a_supervised_part_it_is_one_polynomial():
    phases = Phases(0, max_epochs=10, epoch_length=5)
    assert [phases.learning_rate_factor(e) for e in (0, 5, 10)] == pytest.approx([1, 0.5**0.9, 0])


@pytest.mark.parametrize(("max_epochs", "epochs"), [(1, 0), (2, 1), (3, 1)])
def test_a_fraction_gives_each_part_of_a_short_training_an_epoch(max_epochs, epochs):
    assert Phases(0.1, max_epochs, epoch_length=5).warm_up_epochs == epochs
    assert Phases(0.4, max_epochs, epoch_length=5).warm_up_epochs == epochs
