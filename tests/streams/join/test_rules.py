"""The rules of a join as values, and how far back a restart has to read."""

from datetime import timedelta

import pytest
from tests.streams.join_logs import LOOP, RULES, SECOND, START, rules

from tidemill.streams.join.rules import default_bucket, read_back
from tidemill.streams.units import micros, moment


def test_the_rules_of_a_loop_are_what_it_declares() -> None:
    """One definition has many uses."""
    assert (RULES.wait, RULES.ahead, RULES.grace) == (8 * SECOND, 2 * SECOND, LOOP.grace)
    assert "sum(" in RULES.label.plain


def test_ids_are_remembered_at_least_as_long_as_decisions_are_open() -> None:
    """Otherwise a copy that comes while its decision is open would be a second decision."""
    assert RULES.memory == 15 * SECOND
    assert rules(remember=timedelta(0)).memory == 12 * SECOND


@pytest.mark.parametrize(
    ("wait", "bucket"),
    [("1s", "1s"), ("60s", "1s"), ("30m", "30s"), ("8h", "8m"), ("7d", "10m")],
)
def test_a_bucket_is_a_sixtieth_of_the_wait_within_reason(wait: str, bucket: str) -> None:
    """So an example comes little later than it could, and a week is not a million buckets."""
    units = {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86400 * SECOND}
    length, expected = (int(text[:-1]) * units[text[-1]] for text in (wait, bucket))
    assert default_bucket(length) == expected


def test_a_restart_reads_no_more_than_it_needs() -> None:
    """It reads open windows, remembered ids, and which open feedback examples have already."""
    back = read_back(RULES, START)
    assert back.feedback == START - 2 * SECOND
    assert back.examples == START - 10 * SECOND
    assert back.decisions == START - 17 * SECOND
    assert read_back(RULES, None).decisions is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"grace": -SECOND},
        {"bucket": timedelta(0)},
        {"within": {"click": -SECOND}, "early": {"click": SECOND}},
        {"within": {}, "early": {}},
        {"within": {"click": SECOND}, "early": {}},
    ],
)
def test_impossible_rules_cannot_be_made(wrong: dict[str, object]) -> None:
    """An existing value is a legal value."""
    with pytest.raises(ValueError, match=r".+"):
        rules(**wrong)


def test_times_are_whole_microseconds() -> None:
    """Floats would lose microseconds of this century."""
    at = START + timedelta(microseconds=1)
    assert moment(micros(at)) == at
