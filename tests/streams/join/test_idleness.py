"""Idle advances: how far the stream time of a log with nothing to read may go."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.streams.join.idleness import IdleClock

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
BOTH: set[Log] = {DECISIONS, FEEDBACK}
THREE: tuple[Log, ...] = (DECISIONS, FEEDBACK, Log("feedback.orders"))


def clock(logs: Iterable[Log] = BOTH) -> IdleClock:
    """Return a clock that starts at 100 and calls a log quiet after 5 seconds."""
    return IdleClock(logs, 5 * SECOND, now_s=100.0)


def test_a_log_is_quiet_once_nothing_came_for_long_enough() -> None:
    """If it were quiet too early, all events of a slow producer would be late."""
    idle = clock()
    idle.read(DECISIONS, 103.0)
    assert idle.quiet(104.9) == set()
    assert idle.quiet(105.0) == {"feedback"}
    assert idle.quiet(108.0) == BOTH


def test_an_idle_log_follows_the_busy_one_and_no_further() -> None:
    """A topic without feedback must not hold decisions back, nor get ahead of them."""
    times: dict[Log, datetime | None] = {DECISIONS: NOON, FEEDBACK: None}
    assert clock().targets(times, {FEEDBACK}, 200.0) == {FEEDBACK: NOON}


def test_two_idle_logs_continue_from_the_last_event_not_from_today() -> None:
    """A replay of last year that pauses for a minute is a minute older, not a year."""
    idle = clock()
    idle.read(DECISIONS, 110.0)
    times: dict[Log, datetime | None] = {DECISIONS: NOON, FEEDBACK: NOON - SECOND}
    assert idle.targets(times, BOTH, 170.0) == dict.fromkeys(BOTH, NOON + 60 * SECOND)


def test_an_idle_advance_is_not_counted_twice() -> None:
    """Each advance starts where the last one ended."""
    idle = clock()
    times: dict[Log, datetime | None] = dict.fromkeys(BOTH, NOON)
    target = idle.targets(times, BOTH, 160.0)[DECISIONS]
    assert target == NOON + 60 * SECOND
    idle.advanced(160.0)
    times = dict.fromkeys(BOTH, target)
    assert idle.targets(times, BOTH, 161.0)[FEEDBACK] == NOON + 61 * SECOND


def test_a_loop_that_never_had_an_event_has_no_time() -> None:
    """There is no event time to continue from."""
    times: dict[Log, datetime | None] = dict.fromkeys(BOTH)
    assert clock().targets(times, BOTH, 1e6) == {}


def test_of_three_logs_the_idle_ones_follow_the_slowest() -> None:
    """No window closes before it; any further, and the next records would be late for nothing."""
    idle = clock(THREE)
    times: dict[Log, datetime | None] = {
        DECISIONS: NOON,
        FEEDBACK: NOON - SECOND,
        Log("feedback.orders"): None,
    }
    assert idle.targets(times, {Log("feedback.orders")}, 200.0) == {
        Log("feedback.orders"): NOON - SECOND
    }
    times[FEEDBACK] = None
    assert idle.targets(times, {Log("feedback.orders")}, 200.0) == {}
    two: set[Log] = {FEEDBACK, Log("feedback.orders")}
    assert idle.targets(times, two, 200.0) == dict.fromkeys(two, NOON)


def test_three_idle_logs_advance_together() -> None:
    """The last windows of a quiet loop close, however many topics it has."""
    idle = clock(THREE)
    idle.read(Log("feedback.orders"), 110.0)
    assert idle.quiet(112.0) == BOTH
    times: dict[Log, datetime | None] = {
        DECISIONS: NOON - SECOND,
        FEEDBACK: None,
        Log("feedback.orders"): NOON,
    }
    assert idle.targets(times, set(THREE), 170.0) == dict.fromkeys(THREE, NOON + 60 * SECOND)
