"""What is fetched comes out whole: as aiokafka gives it, record batch by record batch."""

import asyncio
import gc
import inspect
import uuid
import weakref
from collections.abc import Mapping, Sequence

import aiokafka
import aiokafka.consumer.fetcher as fetcher
import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import Assignment
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.streams.record_batches import ABORT, COMMIT, Sent, mark, record_batch, sent
from tests.streams.test_chunks import Row, rows

from tidemill.kafka import KafkaConfig, Topic, ensure_topics
from tidemill.streams.batches import Batch
from tidemill.streams.fetches import FetchedBytes, Run, WholeBatches, keep_bytes, record_batches

PLACE = TopicPartition("t", 0)
Part = tuple[list[Sent], int | None, bool]


def partition_records(
    data: bytes, aborted: Sequence[tuple[int, int]], position: int, *, keeps: bool
) -> PartitionRecords:
    """Return an answer as aiokafka's fetcher keeps it."""
    records = (FetchedBytes if keeps else MemoryRecords)(data)
    none = (None, None)
    return PartitionRecords(PLACE, records, list(aborted), position, *none, True, READ_COMMITTED)


def found(data: bytes, aborted: Sequence[tuple[int, int]], position: int) -> tuple[list[Row], int]:
    """Return the records of *data* from *position* on, and the position after them."""
    fetched = partition_records(data, aborted, position, keeps=True)
    run = Run(position)
    for part in record_batches(fetched):
        run.add(part)
    return rows(batch(run).records()) if run else [], fetched.next_fetch_offset


def batch(run: Run) -> Batch:
    """Return *run* as agents get it."""
    return Batch(
        topic="t", partition=0, start=run.start, last=run.next - 1, session=1, parts=list(run)
    )


def by_aiokafka(
    data: bytes, aborted: Sequence[tuple[int, int]], position: int
) -> tuple[list[Row], int]:
    """Return the same as aiokafka does it."""
    fetched = partition_records(data, aborted, position, keeps=False)
    records = [(each.offset, each.timestamp, each.key, each.value) for each in fetched]
    return records, fetched.next_fetch_offset


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(sent(most=5), st.none() | st.integers(0, 2), st.booleans()), max_size=6),
    st.sampled_from([0, 0, 1, 3, 50]),
)
def test_it_is_what_aiokafka_would_have_given(parts: list[Part], position: int) -> None:
    """Events of an aborted transaction never happened; what is before the position is past."""
    data, aborted, offset = b"", [], 0
    for records, producer, aborts in parts:
        moved = [each._replace(offset=each.offset + offset) for each in records]
        data += record_batch(offset, moved, codec=3, producer=-1 if producer is None else producer)
        first, offset = offset, moved[-1].offset + 1
        if producer is not None:
            data += mark(offset, producer, ABORT if aborts else COMMIT)
            offset += 1
            aborted += [(producer, first)] * aborts
    assert found(data, aborted, position) == by_aiokafka(data, aborted, position)


def test_batches_of_before_kafka_0_11_are_read_too() -> None:
    """Old segments outlive upgrades."""
    builder = LegacyRecordBatchBuilder(1, 0, 2**20)
    builder.append(0, timestamp=7, key=b"k", value=b"old")
    old = bytes(builder.build())
    assert found(old, [], 0) == by_aiokafka(old, [], 0) == ([(0, 7, b"k", b"old")], 1)


def test_marks_belong_to_the_run_they_follow() -> None:
    """A run that ended before a mark would leave a gap to the next one, and lag for ever."""
    records = [Sent(0, 1, b"k", b"v")]
    fetched = partition_records(
        record_batch(0, records, producer=7) + mark(1, 7, COMMIT), [], 0, keeps=True
    )
    run = Run(0)
    for part in record_batches(fetched):
        run.add(part)
    run.next = fetched.next_fetch_offset
    assert (batch(run).start, batch(run).next, len(batch(run))) == (0, 2, 1)


def test_a_wrong_checksum_is_noticed() -> None:
    """Bytes that rot on a disk must not become events."""
    data = bytearray(record_batch(0, [Sent(0, 1, b"key", b"value")]))
    data[-3] ^= 1
    with pytest.raises(fetcher.Errors.CorruptRecordException):
        found(bytes(data), [], 0)


@pytest.mark.kafka
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_librdkafkas_batches_are_read_as_aiokafka_reads_them(
    kafka: KafkaConfig, codec: str
) -> None:
    """The producers of most services are librdkafka's, and the broker stamps and marks."""
    topic = uuid.uuid4().hex
    ensure_topics(kafka, [Topic(name=topic, partitions=1)])
    produce(kafka, topic, codec)
    plain = asyncio.run(consume(kafka, topic, whole=False))
    assert len(plain) == 2_003
    assert asyncio.run(consume(kafka, topic, whole=True)) == plain


def produce(kafka: KafkaConfig, topic: str, codec: str) -> None:
    """Write records of all kinds: with headers, without key or value, aborted, committed."""
    settings = {"bootstrap.servers": kafka.bootstrap, "compression.type": codec}
    producer = Producer({**settings, "transactional.id": topic, "linger.ms": 5})
    producer.init_transactions()
    for count, ends in ((1_000, True), (500, False), (1_003, True)):
        producer.begin_transaction()
        for number in range(count):
            key = None if number % 7 == 0 else b"key %d" % number
            value = None if number % 11 == 0 else b"value" * (number % 300)
            headers: Mapping[str, bytes | None] = {"h": b"x", "n": None} if number % 5 == 0 else {}
            producer.produce(topic, key=key, value=value, headers=dict(headers))
        producer.flush()
        producer.commit_transaction() if ends else producer.abort_transaction()


async def consume(kafka: KafkaConfig, topic: str, *, whole: bool) -> list[Row]:
    """Read *topic* to its end; *whole* as the worker does, else as aiokafka does."""
    if whole:
        keep_bytes()
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, isolation_level="read_committed"
    )
    await consumer.start()
    place = TopicPartition(topic, 0)
    try:
        if whole:
            consumer._fetcher._records = WholeBatches(lambda _: True, 700)
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        end = (await consumer.end_offsets([place]))[place]
        taken: list[Row] = []
        while await consumer.position(place) < end:
            got = (await consumer._fetcher.fetched_records([place], 1)).get(place, [])
            if got and whole:
                taken += rows(batch(got).records())
            else:
                taken += [(each.offset, each.timestamp, each.key, each.value) for each in got]
        return taken
    finally:
        await consumer.stop()


def test_aiokafka_still_keeps_answers_where_they_are_looked_for() -> None:
    """Private names again: an upgrade has to fail here and not in production."""
    source = inspect.getsource(fetcher.Fetcher._proc_fetch_request)
    assert "records = MemoryRecords(part_data[-1])" in source
    assert "self._records[tp] = FetchResult(" in source
    assert "records.has_next()" in source
    assert "self._records = records" in inspect.getsource(PartitionRecords.__init__)
    names = ("check_assignment", "has_more", "_assignment.state_value", "consumed_to")
    assert all(name in inspect.getsource(fetcher.FetchResult) for name in names)


def test_an_answer_is_freed_with_its_last_record_and_not_by_the_garbage_collector() -> None:
    """A worker collects seldom; a megabyte an answer would pile up until then."""

    async def fetch() -> weakref.ref[FetchedBytes]:
        assignment = Assignment([PLACE])
        assignment.state_value(PLACE).reset_to(0)
        results = WholeBatches(lambda _: True, 1)
        data = record_batch(0, [Sent(0, 1, b"key", b"value")])
        records = partition_records(data, [], 0, keeps=True)
        freed = weakref.ref(records._records)
        results[PLACE] = FetchResult(
            PLACE, assignment=assignment, partition_records=records, backoff=0
        )
        del records
        while results[PLACE].has_more():
            results[PLACE].getall()
        del results[PLACE]
        return freed

    gc.disable()
    try:
        assert asyncio.run(fetch())() is None
    finally:
        gc.enable()
