"""Chance is a hash of what it is for: alike for a retry, and even over all decisions."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chisquare

from tidemill.serving.policies.chance import Chance

DRAWS = 100_000
LIKELY = 1e-4
"""A result less likely than this is a mistake; ids are fixed, so no test fails by chance."""


def test_a_retry_of_the_same_id_takes_the_same_chances() -> None:
    """A service whose call timed out asks again; its user must not see another page."""
    first, again = Chance("home", 3, "salt"), Chance("home", 3, "salt")
    assert first.numbers(b"d-1", 20) == again.numbers(b"d-1", 20)
    assert first.numbers(b"d-1", 2) == list(first.pair(b"d-1")) == first.numbers(b"d-1", 20)[:2]


@pytest.mark.parametrize("other", [("away", 3, "salt"), ("home", 4, "salt"), ("home", 3, "pepper")])
def test_another_loop_version_or_salt_takes_other_chances(other: tuple[str, int, str]) -> None:
    """Two experiments on the same ids would otherwise explore the same users."""
    here, there = Chance("home", 3, "salt"), Chance(*other)
    keys = [f"d-{number}".encode() for number in range(1_000)]
    pairs = [(here.pair(key)[0], there.pair(key)[0]) for key in keys]
    assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.1


def test_no_two_numbers_of_a_decision_are_one() -> None:
    """A long ranking needs more numbers than one digest holds."""
    numbers = Chance("home", 1).numbers(b"d-1", 200)
    assert len(set(numbers)) == 200
    assert all(0.0 < number < 1.0 for number in numbers)


def test_the_name_of_a_loop_and_a_salt_do_not_run_into_each_other() -> None:
    """Joined as plain text, ("a", 11) and ("a1", 1) would be one."""
    assert Chance("a", 1, "1").pair(b"d") != Chance("a", 11, "").pair(b"d")


@pytest.mark.slow
def test_numbers_are_even_and_independent() -> None:
    """Propensities are computed as if they were; every estimate rests on it."""
    chance = Chance("home-page", 1)
    found = np.array([chance.numbers(f"d-{n}".encode(), 10) for n in range(DRAWS // 10)])
    cells = np.bincount((found.ravel() * 100).astype(int), minlength=100)
    assert chisquare(cells).pvalue > LIKELY
    places = (found * 10).astype(int)
    for left, right in pairwise(places.T):
        together = np.bincount(left * 10 + right, minlength=100)
        assert chisquare(together).pvalue > LIKELY
    one = Counter(int(chance.pair(f"{n:032x}".encode())[0] * 16) for n in range(DRAWS))
    assert chisquare([one[cell] for cell in range(16)]).pvalue > LIKELY
