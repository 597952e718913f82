"""Groups of units are compared with intervals that hold the truth as often as they say."""

import numpy as np

from tidemill.features.estimates.group_means import gain_over, group_mean


def drawn(
    random: np.random.Generator, units: int, mean: float
) -> tuple["np.ndarray", "np.ndarray"]:
    """Return the rewards of units that each make some decisions, and whose each is."""
    unit = np.repeat(np.arange(units), random.integers(1, 20, units)).astype(float)
    own = random.normal(0.0, 1.0, units)[unit.astype(int)]
    return mean + own + random.normal(0.0, 0.5, unit.size), unit


def share_held(*, by_unit: bool) -> float:
    """Return how many of 400 intervals of 90 % hold the true gain."""
    held = 0
    for seed in range(400):
        random = np.random.default_rng(seed)
        means = []
        for units, mean in ((60, 0.3), (200, 0.1)):
            values, unit = drawn(random, units, mean)
            means.append(group_mean(values, unit if by_unit else np.arange(float(unit.size))))
        found = gain_over(means[0], means[1], 0.9)
        held += found.low <= 0.2 <= found.high
    return held / 400


def test_an_interval_holds_the_gain_as_often_as_it_says() -> None:
    """Visitors with many decisions are like themselves."""
    assert 0.86 <= share_held(by_unit=True) <= 0.94


def test_counting_decisions_instead_of_units_is_too_sure() -> None:
    """The negative control: such an interval stops good candidates."""
    assert share_held(by_unit=False) < 0.7


def test_few_units_say_nothing() -> None:
    """Twenty visitors do not show how visitors differ."""
    few = group_mean(np.array([1.0, 0.0]), np.array([1.0, 2.0]))
    none = group_mean(np.array([]), np.array([]))
    assert np.isinf(gain_over(few, few, 0.95).high)
    assert np.isinf(gain_over(few, none, 0.95).high) or np.isnan(gain_over(few, none, 0.95).mean)
    assert (none.rows, none.units) == (0, 0)
