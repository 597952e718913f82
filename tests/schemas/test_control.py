"""Messages on the control topic: what is written is read again, and what is none is refused."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tidemill.kafka import CompactedLog, Record
from tidemill.schemas import topics
from tidemill.schemas.control import (
    CloseRequest,
    ControlMessage,
    FleetBeat,
    NewExamples,
    TrainerBeat,
    parse_control,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def record(key: bytes | None, value: bytes | None, offset: int = 0) -> Record:
    """Return a record of the control topic."""
    return Record(
        topic=topics.CONTROL, partition=0, offset=offset, key=key, value=value, timestamp_ms=0
    )


BEAT = TrainerBeat(
    loop="shop",
    at=NOON,
    examples=41,
    version="lightgbm-3",
    promoted=True,
    reason="promoted: better",
)


FLEET = FleetBeat(process="host-1", at=NOON, loops=("shop", "mail"))


@pytest.mark.parametrize(
    "message", [CloseRequest("shop", NOON), NewExamples("shop", 41), BEAT, FLEET]
)
def test_a_message_is_read_as_it_was_written(message: ControlMessage) -> None:
    """Workers of one release talk to trainers of another."""
    assert parse_control(record(*message.record())) == message


def test_a_time_of_any_zone_is_the_same_moment() -> None:
    """Whoever replays sits anywhere."""
    there = NOON.astimezone(timezone(timedelta(hours=5)))
    assert parse_control(record(*CloseRequest("shop", there).record())) == CloseRequest(
        "shop", NOON
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"\xff\xfe", b"1"),
        (None, b"x"),
        (b"shop", b"1.5"),
        (b"shop", b""),
        (b"shop", "²".encode()),
        (b"trainer/shop", b"{}"),
        (b"trainer/shop", b"7"),
        (b"trainer/shop", b'{"at": "2026-01-01", "examples": 1}'),
        (b"close/shop", b"{}"),
        (b"close/shop", b"[1]"),
        (b"close/shop", b'{"until": 7}'),
        (b"close/shop", b'{"until": "2026-01-01T00:00:00"}'),
        (b"close/shop", b"[" * 100_000),
    ],
)
def test_what_is_no_message_costs_that_record_alone(key: bytes | None, value: bytes) -> None:
    """The control topic is open to many writers; its reader serves every loop of a worker."""
    log = CompactedLog(parse_control)
    good = NewExamples("banner", 2)
    taken = log.take([record(key, value), record(*good.record(), offset=1)])
    assert taken == [good]
    assert [bad.offset for bad in log.bad] == [0]
