"""The values of a compacted topic, read once and again, with records between them that are bad."""

import uuid

import pytest

from tidemill.kafka import (
    KafkaConfig,
    LogFollower,
    Record,
    Topic,
    ensure_topics,
    read_values,
    write_all,
)

pytestmark = pytest.mark.kafka


def number(record: Record) -> int:
    """Read a record as a number."""
    return int(record.value or b"")


@pytest.fixture
def topic(kafka: KafkaConfig) -> str:
    """A compacted topic of this test alone."""
    name = f"compacted-{uuid.uuid4().hex[:12]}"
    ensure_topics(kafka, [Topic(name=name, compacted=True)])
    return name


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


def test_a_follower_may_begin_near_the_end(kafka: KafkaConfig, topic: str) -> None:
    """A topic that is not compacted has a record for each commit of weeks."""
    write_all(kafka, topic, [(b"%d" % n, b"%d" % n) for n in range(100)])
    follower = LogFollower(kafka, topic, number, newest=3)
    assert follower.read().values == [97, 98, 99]
    write_all(kafka, topic, [(b"x", b"100")])
    assert follower.read().values == [97, 98, 99, 100]
    follower.close()
