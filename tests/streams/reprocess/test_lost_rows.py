"""Rows that are made again get the judgement that they had: by stream time, and by their ids."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

from tidemill.schemas.events.schemas import TIME
from tidemill.streams.reprocess.lost_rows import with_duplicates, with_stream_time

START = datetime(2026, 1, 1, tzinfo=UTC)
Row = tuple[int, str, int, int | None, str | None]
SCHEMA = pl.Schema(
    {"offset": pl.Int64(), "id": pl.String(), "at": TIME, "stream_time": TIME}
    | {"verdict": pl.String()}
)


def second(at: int | None) -> datetime | None:
    """Return a time so many seconds after the start."""
    return None if at is None else START + timedelta(seconds=at)


def rows(*given: Row) -> pl.DataFrame:
    """Return rows of offset, id, event time, stream time and verdict."""
    made = [(n, id_, second(at), second(time), verdict) for n, id_, at, time, verdict in given]
    return pl.DataFrame(made, schema=SCHEMA, orient="row")


def times(found: pl.DataFrame) -> Sequence[datetime | None]:
    """Return the stream times of *found*, in the order of offsets."""
    return found["stream_time"].to_list()


def test_stream_time_is_the_largest_time_before_a_row_lost_ones_included() -> None:
    """Another stream time would be another verdict, and the audit would say so."""
    lost = rows((0, "a", 5, None, None), (2, "c", 3, None, None), (3, "d", 20, None, None))
    known = rows((1, "b", 10, 5, None), (4, "e", 12, 30, None), (6, "g", 1, 30, None))
    later = rows((5, "f", 2, None, None))
    made = with_stream_time(pl.concat([lost, later]).drop("stream_time"), known, [])
    assert times(made) == [None, second(10), second(10), second(30)]


def test_an_idle_advance_counts_from_its_offset_on() -> None:
    """An idle log was moved on by the clock, and records after that were judged by it."""
    lost = rows((0, "a", 1, None, None), (1, "b", 2, None, None), (2, "c", 3, None, None))
    advance = {"offset": 1, "at": second(60)}
    made = with_stream_time(lost.drop("stream_time"), rows(), [advance])
    assert times(made) == [None, second(60), second(60)]


def test_a_copy_is_one_whose_id_came_on_time_within_memory() -> None:
    """The first of its id was counted; whether it is lost too does not matter."""
    lost = rows((1, "a", 11, 10, None), (3, "b", 200, 150, None), (5, "b", 201, 200, None))
    known = rows((0, "a", 10, None, None), (2, "b", 20, 15, None), (4, "b", 1, 200, "late"))
    found = with_duplicates(lost, known, timedelta(seconds=100))
    assert found["verdict"].to_list() == ["duplicate", None, "duplicate"]


def test_a_late_row_is_no_copy_and_makes_none() -> None:
    """Late comes first, and an id that came late only has not been counted."""
    lost = rows((1, "a", 1, 100, "late"), (2, "a", 99, 100, None))
    found = with_duplicates(lost, rows((0, "a", 1, 100, "late")), timedelta(seconds=100))
    assert found["verdict"].to_list() == ["late", None]
