"""Shards of a playback: each partition gets its events in order, and none is lost on the way."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.deploy.demo.shards import Decide, Feed, Past
from tidemill.schemas.partitioner import partition_of

START = datetime(2013, 1, 1, tzinfo=UTC)


def past(minutes: list[tuple[int, int]]) -> Past:
    """Return one decision for each pair: minutes after START, and minutes until its feedback."""
    at = [START + timedelta(minutes=minute) for minute, _ in minutes]
    fed = [START + timedelta(minutes=minute + lag) for minute, lag in minutes]
    ids = [f"d{number}" for number in range(len(minutes))]
    times = pl.Datetime("us", "UTC")
    return Past(
        decisions=pl.DataFrame(
            {"id": ids, "at": at, "entity": [None] * len(ids), "carrier": ["UA"] * len(ids)},
            schema={"id": pl.String, "at": times, "entity": pl.String, "carrier": pl.String},
        ),
        feedback=pl.DataFrame(
            {
                "id": [f"{i}-f" for i in ids],
                "decision_id": ids,
                "at": fed,
                "delay": [1.0] * len(ids),
            },
            schema={"id": pl.String, "decision_id": pl.String, "at": times, "delay": pl.Float64},
        ),
        kind="arrived",
    )


PAIRS = st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 3_000)), min_size=1, max_size=50)


@given(PAIRS, st.integers(1, 5))
def test_every_event_is_in_exactly_one_shard_and_in_order(
    minutes: list[tuple[int, int]], partitions: int
) -> None:
    """A feedback before its decision, or on another partition, is no playback of what happened."""
    played = past(minutes)
    ids: list[str] = []
    for shard in played.shards(partitions):
        events = [event for day in played.days() for event in shard.day(day)]
        assert [event.at for event in events] == sorted(event.at for event in events)
        decided: set[str] = set()
        for event in events:
            if isinstance(event, Decide):
                decided.add(event.id)
                assert partition_of(event.id.encode(), partitions) == shard.partition
            else:
                assert event.decision_id in decided
        ids += [event.id for event in events]
    assert len(ids) == len(set(ids)) == played.events == 2 * len(minutes)


def test_events_carry_what_the_client_sends() -> None:
    """Nothing is added and nothing is left out."""
    [shard] = past([(5, 10)]).shards(1)
    decide, feed = shard.day(START.date())
    at = START + timedelta(minutes=5)
    assert decide == Decide(at, "d0", None, {"carrier": "UA"})
    assert feed == Feed(at + timedelta(minutes=10), "d0-f", "d0", "arrived", {"delay": 1.0})


@pytest.mark.parametrize(
    ("key", "hashed"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)],
)
def test_keys_are_placed_as_kafka_places_them(key: bytes, hashed: int) -> None:
    """The known answers of Kafka's own tests; another placement would mix the shards."""
    assert partition_of(key, 7) == (hashed & 0x7FFFFFFF) % 7
