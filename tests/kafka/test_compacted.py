"""The values of a compacted topic, read once and again, with records between them that are bad."""

import uuid

import pytest

from tidemill.kafka import (
    CompactedLog,
    KafkaConfig,
    LogFollower,
    Record,
    Topic,
    ensure_topics,
    read_values,
    write_all,
)


def number(record: Record) -> int:
    """Read a record as a number."""
    return int(record.value or b"")


@pytest.fixture
def topic(kafka: KafkaConfig) -> str:
    """A compacted topic of this test alone."""
    name = f"compacted-{uuid.uuid4().hex[:12]}"
    ensure_topics(kafka, [Topic(name=name, compacted=True)])
    return name


@pytest.mark.kafka
def test_a_follower_reads_what_is_new_and_keeps_the_rest(kafka: KafkaConfig, topic: str) -> None:
    """A monitor that read the whole topic every five seconds would be its heaviest reader."""
    follower = LogFollower(kafka, topic, number)
    assert follower.read().values == []
    write_all(kafka, topic, [(b"a", b"1"), (b"b", b"x"), (b"c", b"3")])
    assert follower.read().values == [1, 3]
    write_all(kafka, topic, [(b"a", b"junk"), (b"b", b"2")])
    log = follower.read()
    assert (log.values, [bad.key for bad in log.bad]) == ([1, 3, 2], ["a"])
    assert follower.read().values == [1, 3, 2]
    write_all(kafka, topic, [(b"a", None), (b"c", b"4")])
    log = follower.read()
    assert (log.values, log.bad) == ([2, 4], [])
    follower.close()
    assert follower.read().values == [2, 4]
    follower.close()
    assert read_values(kafka, topic, number).values == [2, 4]


@pytest.mark.kafka
def test_a_follower_may_begin_near_the_end(kafka: KafkaConfig, topic: str) -> None:
    """A topic that is not compacted has a record for each commit of weeks."""
    write_all(kafka, topic, [(b"%d" % n, b"%d" % n) for n in range(100)])
    follower = LogFollower(kafka, topic, number, newest=3)
    assert follower.read().values == [97, 98, 99]
    write_all(kafka, topic, [(b"x", b"100")])
    assert follower.read().values == [97, 98, 99, 100]
    follower.close()


def test_whoever_writes_keys_without_end_fills_nobodys_memory() -> None:
    """Each reader of a shared topic holds what it read; what is weaker goes first."""
    log = CompactedLog(number, most=100, is_weak=lambda value: value > 0)
    for n in range(10_000):
        key, value = b"%d" % n, b"%d" % (n if n % 3 else 0) if n < 150 or n % 2 else b"x"
        log.take([new_record(n, key, value)])
        assert len(log.values) <= 125
        assert len(log.bad) <= 125
    assert log.values.count(0) > 100, "the strong ones stay"
    assert [bad.offset for bad in log.bad][-1] == 9_998
    endless = CompactedLog(number)
    endless.take([new_record(n, b"%d" % n, b"1") for n in range(500)])
    assert len(endless.values) == 500


def new_record(offset: int, key: bytes, value: bytes) -> Record:
    """Return a record of some topic."""
    return Record(topic="t", partition=0, offset=offset, key=key, value=value, timestamp_ms=0)
