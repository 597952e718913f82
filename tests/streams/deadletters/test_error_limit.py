"""How many bad records a stretch of a log may have: the same whatever the batches are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ContractError
from tidemill.schemas.loop.definition import MaxBad
from tidemill.streams.deadletters.error_limit import ErrorLimit
from tidemill.streams.deadletters.writer import DeadLetter

HALF_OF_TEN = MaxBad(share=0.5, of=10)


def dead_letter(offset: int, reason: str = "truncated", came_ms: int = 0) -> DeadLetter:
    """Return a letter about the record at *offset*."""
    return DeadLetter(
        topic="t.decisions",
        partition=3,
        offset=offset,
        timestamp_ms=came_ms,
        reason=reason,
        detail=f"{reason} at {offset}",
        key=None,
        value=None,
    )


def stops_at(bad: list[bool], sizes: list[int], limit: MaxBad, *, restart: bool) -> int | None:
    """Read a log of good and *bad* records in batches of *sizes*; return the stretch it stops in.

    With *restart* each batch is read by another worker, which knows only the number kept.
    """
    share, start = ErrorLimit(limit), 0
    for size in [*sizes, len(bad)]:
        rows = range(start, min(start + size, len(bad)))
        if not rows:
            break
        if restart:
            share = ErrorLimit(limit, next=start, bad=share.bad)
        try:
            share.take(rows[-1], [dead_letter(row) for row in rows if bad[row]])
        except ContractError as error:
            return int(error.what.split("from offset ")[1].split()[0]) // limit.of
        start = rows[-1] + 1
    return None


@given(
    st.lists(st.booleans(), max_size=60),
    st.lists(st.integers(1, 20), max_size=20),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    st.booleans(),
)
def test_batch_sizes_and_restarts_do_not_matter(
    bad: list[bool], sizes: list[int], of: int, share: float, restart: bool
) -> None:
    """It stops in the first stretch that has more than its share, however the log was read."""
    limit = MaxBad(share=share, of=of)
    stretches = [sum(bad[start : start + of]) for start in range(0, len(bad), of)]
    over = [number for number, count in enumerate(stretches) if count > share * of]
    assert stops_at(bad, sizes, limit, restart=restart) == (over[0] if over else None)


def test_a_share_of_one_lets_everything_pass() -> None:
    """The way out for somebody who wants it all in the dead letters."""
    assert stops_at([True] * 100, [7], MaxBad(share=1.0, of=10), restart=False) is None


def test_a_worker_that_is_started_again_and_again_does_not_empty_the_topic() -> None:
    """A supervisor starts it again at once: what was committed before still counts."""
    assert stops_at([True] * 100, [1] * 100, HALF_OF_TEN, restart=True) == 0


def test_a_limit_made_stricter_judges_what_comes_not_what_was_let_through() -> None:
    """A new version of the loop finds a stretch that it would not have allowed."""
    share = ErrorLimit(HALF_OF_TEN, next=15, bad=9)
    share.take(16, [])
    with pytest.raises(ContractError):
        share.take(17, [dead_letter(17)])


@pytest.mark.parametrize(
    ("reason", "hint"),
    [("unknown-schema", "SCHEMA_REGISTRY_URL"), ("skew", "clocks"), ("truncated", "events")],
)
def test_the_error_says_what_is_likely_wrong(reason: str, hint: str) -> None:
    """Whoever is woken at night needs the place, the count, the reasons and what to look at."""
    dead_letters = [dead_letter(20), *(dead_letter(row, reason) for row in range(21, 27))]
    with pytest.raises(ContractError) as caught:
        ErrorLimit(HALF_OF_TEN, next=20).take(29, dead_letters)
    assert caught.value.what.startswith("t.decisions/3: ")
    assert "7 of the 10 records from offset 20 on are bad" in caught.value.what
    assert reason in caught.value.what
    assert hint in caught.value.hint
    assert "max_bad: {share: 1}" in caught.value.hint


def test_what_an_operator_has_accepted_is_not_counted() -> None:
    """There is a way on after a stop, and it opens the door to nothing that comes later."""
    limit = ErrorLimit(HALF_OF_TEN, accepted_until=1_000)
    limit.take(9, [dead_letter(offset, came_ms=1_000) for offset in range(10)])
    assert limit.bad == 0
    limit.take(14, [dead_letter(offset, came_ms=1_001) for offset in range(10, 15)])
    with pytest.raises(ContractError) as caught:
        limit.take(15, [dead_letter(15, came_ms=1_784_000_000_123)])
    assert "--accept-bad 2026-07-14T03:33:21Z" in caught.value.hint


def test_a_time_past_the_calendar_is_no_reason_to_end_by_another_error() -> None:
    """Not every broker sets the time of its records itself."""
    limit = ErrorLimit(MaxBad(share=0, of=10))
    with pytest.raises(ContractError, match="more than max_bad"):
        limit.take(1, [dead_letter(1, came_ms=2**62)])
