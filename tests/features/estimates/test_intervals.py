"""Intervals that allow for chance, and for rows that are not independent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidemill.features.estimates.intervals import difference, interval


def test_means_of_other_rows_are_refused() -> None:
    """Two policies compared on different rows are not compared."""
    with pytest.raises(ValueError, match="same rows"):
        difference(np.zeros(2), np.zeros(3), 0.95)
    with pytest.raises(ValueError, match="no rows"):
        interval(np.empty(0), 0.95)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    """400 experiments: a 90 % interval misses the truth in about one of ten."""
    random = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        found = interval(random.exponential(2.0, 600), 0.9)
        held += found.low <= 2.0 <= found.high
    assert 0.85 < held / 400 < 0.95


def test_rows_that_share_their_hour_do_not_count_as_independent() -> None:
    """A storm hits a hundred flights at once: an interval by rows would miss most of the time."""
    random = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        found = interval(np.repeat(random.normal(0.0, 1.0, 120), 100), 0.95)
        held += found.low <= 0.0 <= found.high
    assert held / 300 > 0.88


@given(hnp.arrays(np.float64, st.integers(1, 200), elements=st.floats(-1e6, 1e6)))
def test_the_mean_is_inside_its_interval(values: np.ndarray) -> None:
    """Whatever the rows, the bounds are around the mean and the mean is the mean."""
    found = interval(values, 0.95)
    assert found.mean == pytest.approx(float(np.mean(values)))
    assert found.low <= found.mean <= found.high
