"""Turns: a fleet of quiet partitions shares the requests, and a busy one is in every request."""

import asyncio
import uuid
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer

from tidemill.kafka import KafkaConfig, Topic, ensure_topics
from tidemill.streams.consumer.turns import (
    BUSY_BYTES,
    BUSY_S,
    TURN_PARTITIONS,
    TURN_S,
    Turns,
)

FLEET = frozenset(TopicPartition(f"t{number}", 0) for number in range(3 * TURN_PARTITIONS - 5))


class Clock:
    """A clock that a test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """Return a clock."""
    return Clock()


def requested(turns: Turns, fetched: Iterable[TopicPartition] = ()) -> set[TopicPartition]:
    """Request what is due, and return it."""
    due = set(turns.due(FLEET, fetched))
    turns.note_requested(due)
    return due


def test_a_few_partitions_are_all_in_every_request(clock: Clock) -> None:
    """A worker of a few loops must not wait for turns."""
    few, turns = frozenset(sorted(FLEET)[:TURN_PARTITIONS]), Turns(clock)
    for _ in range(3):
        assert set(turns.due(few, ())) == few
        turns.note_requested(few)


def test_each_quiet_partition_has_its_turn(clock: Clock) -> None:
    """One that is left out would never be read, and hold back its windows for ever."""
    turns, seen = Turns(clock), list[TopicPartition]()
    for _ in range(6):
        seen += sorted(requested(turns))
        clock.now_s += TURN_S
    assert sorted(seen) == sorted([*FLEET, *FLEET]), "two rounds"


def test_turns_are_not_taken_faster_than_their_time(clock: Clock) -> None:
    """Answers with a record each come at once: without a pause the next request would, too."""
    turns = Turns(clock)
    assert len(requested(turns)) == TURN_PARTITIONS
    assert requested(turns) == set()


def test_a_partition_whose_broker_is_asked_already_keeps_its_turn(clock: Clock) -> None:
    """With several brokers a request to one of them is often under way."""
    turns = Turns(clock)
    first = set(turns.due(FLEET, ()))
    missed = set(sorted(first)[:10])
    turns.note_requested(first - missed)
    clock.now_s += TURN_S
    assert missed < requested(turns)


def test_a_busy_partition_is_in_every_request_for_a_while(clock: Clock) -> None:
    """One loop at full speed must not wait for the turns of a thousand idle ones."""
    turns, busy, small = Turns(clock), *sorted(FLEET)[-2:]
    requested(turns)
    turns.note_answer(busy, BUSY_BYTES)
    turns.note_answer(small, BUSY_BYTES - 1)
    assert requested(turns) == {busy} == turns.busy()
    clock.now_s += BUSY_S
    assert busy not in requested(turns)


def test_partitions_with_fetched_records_are_among_the_due(clock: Clock) -> None:
    """Aiokafka waits until their records are taken, unless it does not see them."""
    turns, fetched = Turns(clock), sorted(FLEET)[-1]
    requested(turns)
    assert requested(turns, [fetched, TopicPartition("another", 0)]) == {fetched}


def test_a_new_assignment_begins_with_its_own_partitions(clock: Clock) -> None:
    """Those of before may belong to another worker."""
    turns = Turns(clock)
    turns.due(FLEET, ())
    clock.now_s += TURN_S
    other = frozenset(TopicPartition(f"other{number}", 0) for number in range(len(FLEET)))
    assert set(turns.due(other, ())) <= other


def test_what_aiokafka_requests_has_had_its_turn(clock: Clock) -> None:
    """Its method chooses from what it is shown; this is the only word about what it has chosen."""
    turns = Turns(clock)
    shown: list[set[TopicPartition]] = []

    def choose(due: SimpleNamespace) -> tuple[list[tuple[int, SimpleNamespace]]]:
        shown.append(set(due.tps))
        topics = [(tp.topic, [(tp.partition, due.state_value(tp), 1)]) for tp in due.tps]
        return ([(0, SimpleNamespace(topics=topics))],)

    chosen = turns.choosing(choose, {})
    assignment = SimpleNamespace(tps=FLEET, state_value=lambda _tp: 7)
    for _ in range(3):
        chosen(assignment)
        clock.now_s += TURN_S
    assert set.union(*shown) == FLEET
    assert sum(map(len, shown)) == len(FLEET)


@pytest.mark.kafka
def test_every_record_of_a_fleet_is_read_in_turns(kafka: KafkaConfig) -> None:
    """The method of aiokafka that chooses is private: an upgrade must not skip a partition."""
    topic, count = uuid.uuid4().hex, 7
    ensure_topics(kafka, [Topic(name=topic, partitions=count)])
    producer = Producer(kafka.client())
    for number in range(count):
        producer.produce(topic, value=b"x", partition=number)
    producer.flush()
    read, requests = asyncio.run(read_in_turns(kafka, topic, count))
    assert read == set(range(count))
    assert 0 < max(requests) <= 2, "two have their turn at a time"


async def read_in_turns(kafka: KafkaConfig, topic: str, count: int) -> tuple[set[int], list[int]]:
    """Return the partitions that were read, and how many were in each request."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, fetch_max_wait_ms=100)
    await consumer.start()
    requests: list[int] = []
    fetcher, turns = consumer._fetcher, Turns(at_once=2)
    choose = turns.choosing(fetcher._get_actions_per_node, fetcher._records)

    def counted(assignment: object) -> object:
        actions = choose(assignment)
        requests.extend(len(parts) for _, each in actions[0] for _, parts in each.topics)
        return actions

    fetcher._get_actions_per_node = counted
    read: set[int] = set()
    try:
        tps = [TopicPartition(topic, number) for number in range(count)]
        consumer.assign(tps)
        for tp in tps:
            consumer.seek(tp, 0)
        while len(read) < count:
            read |= {tp.partition for tp in await consumer.getmany(timeout_ms=200)}
    finally:
        await consumer.stop()
    return read, requests
