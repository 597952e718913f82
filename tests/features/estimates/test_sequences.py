"""Looks again and again: what is excluded once must not be excluded by chance."""

import math

import numpy as np
import pytest

from tidemill.features.estimates.intervals import Floats, interval
from tidemill.features.estimates.sequences import START, confidence_sequence, spent_confidence

WORLDS = 300
VALUES = 400


def excluded_once(values: Floats, *, is_sequence: bool) -> bool:
    """Return whether any of the intervals of growing samples excludes the true mean, 0."""
    for count in range(START, values.size + 1):
        one = values[:count]
        found = confidence_sequence(one, 0.95) if is_sequence else interval(one, 0.95)
        if not found.low <= 0.0 <= found.high:
            return True
    return False


def skewed_means(random: np.random.Generator) -> Floats:
    """Return means of runs of 20 skewed values, whose mean is 0."""
    return np.asarray(random.exponential(1.0, (VALUES, 20)).mean(axis=1) - 1.0)


@pytest.mark.slow
def test_a_sequence_may_be_looked_at_after_each_value() -> None:
    """Skewed values in runs, 371 looks each: at most 5 % of worlds are ever excluded."""
    random = np.random.default_rng(2)
    wrong = sum(excluded_once(skewed_means(random), is_sequence=True) for _ in range(WORLDS))
    assert wrong <= 0.05 * WORLDS


@pytest.mark.slow
def test_an_interval_may_be_looked_at_once() -> None:
    """Negative control: without the sequence a good policy is taken back in most worlds."""
    random = np.random.default_rng(2)
    wrong = sum(excluded_once(skewed_means(random), is_sequence=False) for _ in range(50))
    assert wrong > 15


def test_a_sequence_is_the_formula_of_its_source() -> None:
    """A number computed by hand: 100 values of -1 and 1, of which it is tightest."""
    values = np.tile([-1.0, 1.0], 50)
    chance = -2 * math.log(0.05)
    rate = (chance + math.log(chance + 1)) / 100
    half = math.sqrt(100 / 99) * math.sqrt(
        2 * (100 * rate + 1) / (100**2 * rate) * math.log(math.sqrt(100 * rate + 1) / 0.05)
    )
    found = confidence_sequence(values, 0.95)
    assert [found.low, found.high] == pytest.approx([-half, half])
    assert 0.28 < half < 0.33


def test_few_values_say_nothing() -> None:
    """A policy must not be taken back for its first bad hour."""
    few = confidence_sequence(np.full(START - 1, -5.0), 0.95)
    assert (few.low, few.high) == (-math.inf, math.inf)
    assert confidence_sequence(np.full(START, -5.0), 0.95).high < 0.0
    assert math.isnan(confidence_sequence(np.empty(0), 0.95).mean)


def test_all_looks_together_spend_what_one_may_err() -> None:
    """A thousand candidates err no more often than one judged alone."""
    spent = sum(1.0 - spent_confidence(look, 0.95) for look in range(1, 1_001))
    assert 0.0499 < spent < 0.05
    assert spent_confidence(1, 0.95) == pytest.approx(0.975)
    with pytest.raises(ValueError, match="from 1"):
        spent_confidence(0, 0.95)
