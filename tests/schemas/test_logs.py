"""Logs and positions: one number for a record of feedback, whichever topic it lies in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.schemas import topics
from tidemill.schemas.logs import (
    DECISIONS,
    FEEDBACK,
    OFFSETS,
    STREAMS,
    Log,
    feedback_log,
    first_position,
    is_feedback,
    log_of,
    number_of,
    offset_of,
    position_of,
    stream_of,
    topic_of,
)

streams = st.from_regex(r"[a-z][a-z0-9]{0,9}(-[a-z0-9]{1,9}){0,2}", fullmatch=True)
offsets = st.integers(min_value=0, max_value=OFFSETS - 1)


@given(streams, offsets)
def test_a_place_says_which_record_it_is(stream: str, offset: int) -> None:
    """The lake keeps positions and nothing else; what a person sees is decoded from them."""
    log = feedback_log(stream)
    position = position_of(log, offset)
    assert (offset_of(position), log_of(position, (DECISIONS, FEEDBACK, log))) == (offset, log)
    assert position == first_position(log) + offset
    assert 0 <= position < 2**63
    assert 1 <= number_of(log) < STREAMS


@given(offsets)
def test_without_a_stream_a_place_is_the_offset(offset: int) -> None:
    """Lakes that were written before there were streams stay true."""
    assert position_of(FEEDBACK, offset) == offset
    assert log_of(offset, (DECISIONS, FEEDBACK)) == FEEDBACK


@pytest.mark.parametrize("offset", [-1, OFFSETS])
def test_an_offset_that_would_be_another_place_is_refused(offset: int) -> None:
    """It would name a record of another stream."""
    with pytest.raises(ValueError, match="offset"):
        position_of(FEEDBACK, offset)


def test_the_number_of_a_stream_never_changes() -> None:
    """It is in every lake: another rule for it would be another meaning of their rows."""
    assert [number_of(log) for log in (DECISIONS, FEEDBACK, Log("feedback.orders"))] == [
        0,
        0,
        18514,
    ]


def test_a_place_of_an_unknown_stream_belongs_to_no_log() -> None:
    """Nobody may take it for a record of a stream that is there."""
    assert (
        log_of(
            position_of(Log("feedback.orders"), 7), (DECISIONS, FEEDBACK, Log("feedback.returns"))
        )
        is None
    )


@given(streams)
def test_each_log_has_a_topic_of_its_own(stream: str) -> None:
    """Two logs on one topic would read each other's records."""
    logs = [DECISIONS, FEEDBACK, feedback_log(stream)]
    named = [topic_of("shop", log) for log in logs]
    assert named == [topics.decisions("shop"), topics.feedback("shop"), f"shop.feedback.{stream}"]
    assert [stream_of(log) for log in logs] == [None, None, stream]
    assert [is_feedback(log) for log in logs] == [False, True, True]
