"""A visitor stays in one group; groups of different purposes have nothing to do with each other."""

from collections import Counter

import pytest

from tidemill.schemas.assignment import Assignment, stage_of

UNITS = [f"user-{number}" for number in range(20_000)]


def numbers(purpose: str = "stage", loop: str = "home-page", salt: str = "") -> list[float]:
    """Return the number of each unit."""
    assignment = Assignment(loop, purpose, salt)
    return [assignment.number(unit) for unit in UNITS]


def test_numbers_are_the_same_in_every_release() -> None:
    """Two workers must agree, and so must an analysis years later."""
    assert Assignment("home-page", "stage").number("user-17") == 0.35628010144140687
    assert Assignment("home-page", "stage", "s").number("ü") == 0.274598660571001


def test_numbers_are_spread_evenly() -> None:
    """A share of a tenth is a tenth of the visitors: chi-square over ten tenths."""
    counts = Counter(int(10 * number) for number in numbers())
    expected = len(UNITS) / 10
    assert sum((counts[tenth] - expected) ** 2 / expected for tenth in range(10)) < 33.7  # 1e-4


@pytest.mark.parametrize("other", [{"purpose": "arm"}, {"loop": "mail"}, {"salt": "2026"}])
def test_groups_of_other_purposes_loops_and_salts_are_independent(other: dict[str, str]) -> None:
    """Else the canary would be the same visitors each time, and the arm of each experiment."""
    one, two = numbers(), numbers(**other)
    both = sum(a < 0.5 and b < 0.5 for a, b in zip(one, two, strict=True))
    assert abs(both / len(UNITS) - 0.25) < 0.0125  # four deviations


def test_a_share_that_grows_keeps_those_it_had_and_never_touches_the_control() -> None:
    """A visitor does not go back and forth between two models."""
    found = numbers()
    small = [stage_of(number, control=0.1, canary=0.05) for number in found]
    large = [stage_of(number, control=0.1, canary=0.3) for number in found]
    none = [stage_of(number, control=0.1, canary=0.0) for number in found]
    for before, after, without in zip(small, large, none, strict=True):
        assert (before == "control") == (after == "control") == (without == "control")
        assert before != "canary" or after == "canary"
        assert without != "canary"
    shares = {stage: count / len(UNITS) for stage, count in Counter(large).items()}
    assert shares == pytest.approx({"control": 0.1, "canary": 0.3, "live": 0.6}, abs=0.014)
