"""Event times: which records the join does not take, judged by the time of their record."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tidemill.streams.join.event_times import EventTimes
from tidemill.streams.units import micros

TIMES = EventTimes(max_skew=timedelta(minutes=5), max_age=timedelta(days=3_650))
ARRIVED = datetime(2026, 3, 1, 12, tzinfo=UTC)
ARRIVED_MS = micros(ARRIVED) // 1_000
LAST_MS = 253_402_300_799_999


def refusal(at: int, arrived_ms: int = ARRIVED_MS) -> tuple[str, str] | None:
    """Return why a record is refused."""
    _, refused = TIMES.check(np.array([at]), np.array([arrived_ms]))
    return refused.get(0)


@pytest.mark.parametrize(
    ("behind", "reason"),
    [
        (timedelta(days=3_650), None),
        (timedelta(days=3_650, microseconds=1), "age"),
        (timedelta(0), None),
        (timedelta(minutes=-5), None),
        (timedelta(minutes=-5, microseconds=-1), "skew"),
    ],
)
def test_both_limits_are_inside(behind: timedelta, reason: str | None) -> None:
    """A replay of an archive is no mistake until it is older than the loop says."""
    found = refusal(micros(ARRIVED - behind))
    assert (found and found[0]) == reason


@pytest.mark.parametrize(("divided_by", "unit"), [(1_000, "milliseconds"), (1_000_000, "seconds")])
@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=365), timedelta(days=3_000)])
def test_a_time_in_another_unit_names_that_unit(divided_by: int, unit: str, age: timedelta) -> None:
    """It would be an example of 1970, and whoever sends it does not see it from here."""
    found = refusal(micros(ARRIVED - age) // divided_by)
    assert found is not None
    assert found[0] == "age"
    assert f"seems to be in {unit}, not in microseconds" in found[1]


def test_a_time_that_fits_no_unit_says_how_old_it_is() -> None:
    """A service that never set its clock sends the year 1 or 1970."""
    for at, year in ((micros(datetime(1, 1, 1, tzinfo=UTC)), "0001-01-01"), (0, "1970-01-01")):
        found = refusal(at)
        assert found is not None
        assert f"{year} is further before its record than max_age, 3650d" in found[1]


@pytest.mark.parametrize("arrived_ms", [-1, -(2**63), LAST_MS + 1, 2**63 - 1])
def test_a_record_time_beyond_the_calendar_is_refused_before_it_is_used(arrived_ms: int) -> None:
    """With CreateTime a producer writes it, and one such record must not end the worker."""
    for at in (micros(ARRIVED), 0, LAST_MS * 1_000):  # the last two are close to what is in use
        found = refusal(at, arrived_ms)
        assert found is not None
        assert found[0] == "record-time"
        assert f"{arrived_ms} ms" in found[1]
    arrived, _ = TIMES.check(np.array([0]), np.array([arrived_ms]))
    assert arrived[0] in (0, LAST_MS * 1_000)


def test_the_last_millisecond_of_the_calendar_is_a_time() -> None:
    """The limit itself is legal, so that a batch with it can be written."""
    arrived, refused = TIMES.check(np.array([micros(ARRIVED)]), np.array([LAST_MS]))
    assert refused[0][0] == "age"
    assert arrived.tolist() == [LAST_MS * 1_000]
