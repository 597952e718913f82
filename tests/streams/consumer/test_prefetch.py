"""Prefetched record batches have the same records as aiokafka's own fetcher returns."""

import asyncio
import gc
import inspect
import random
import uuid
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial, wraps
from types import SimpleNamespace

import aiokafka
import aiokafka.consumer.fetcher as fetcher
import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchError, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import Assignment, SubscriptionState
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer
from faust.types import TP
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.streams.consumer.test_record_batches import Row, rows
from tests.streams.fetched_logs import MemoryCluster, MemoryLog
from tests.streams.record_batches import ABORT, COMMIT, Sent, control_batch, record_batch, sent

from tidemill.kafka import KafkaConfig, Topic, ensure_topics
from tidemill.streams.consumer.batches import FetchedBatch
from tidemill.streams.consumer.fetch_thread import BatchThread
from tidemill.streams.consumer.prefetch import (
    PREFETCH_PARTITIONS,
    FetchedBytes,
    FetchedRecords,
    WholeBatches,
    ends,
    record_batches,
    retain_bytes,
)
from tidemill.streams.consumer.record_batches import RecordBatch

PARTITION = TopicPartition("t", 0)
Part = tuple[list[Sent], int | None, bool]


def partition_records(
    data: bytes, aborted: Sequence[tuple[int, int]], position: int, *, keeps: bool
) -> PartitionRecords:
    """Return an answer as aiokafka's fetcher stores it."""
    records = (FetchedBytes if keeps else MemoryRecords)(data)
    none = (None, None)
    return PartitionRecords(
        PARTITION, records, list(aborted), position, *none, True, READ_COMMITTED
    )


def found(data: bytes, aborted: Sequence[tuple[int, int]], position: int) -> tuple[list[Row], int]:
    """Return the records of *data* from *position* on, and the position after them."""
    fetched = partition_records(data, aborted, position, keeps=True)
    records = FetchedRecords(position)
    for part in record_batches(fetched):
        records.add(part)
    return rows(batch(records).records()) if records else [], fetched.next_fetch_offset


def batch(records: FetchedRecords) -> FetchedBatch:
    """Return *records* as agents get them."""
    return FetchedBatch(
        topic="t",
        partition=0,
        start=records.start,
        last=records.next - 1,
        session=1,
        parts=list(records),
    )


def by_aiokafka(
    data: bytes, aborted: Sequence[tuple[int, int]], position: int
) -> tuple[list[Row], int]:
    """Return the same as aiokafka's own code returns it."""
    fetched = partition_records(data, aborted, position, keeps=False)
    records = [(each.offset, each.timestamp, each.key, each.value) for each in fetched]
    return records, fetched.next_fetch_offset


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(sent(most=5), st.none() | st.integers(0, 2), st.booleans()), max_size=6),
    st.sampled_from([0, 0, 1, 3, 50]),
)
def test_the_records_are_those_of_aiokafka(parts: list[Part], position: int) -> None:
    """Events of aborted transactions and records before the position are left out."""
    data, aborted, offset = b"", [], 0
    for records, producer, aborts in parts:
        moved = [each._replace(offset=each.offset + offset) for each in records]
        data += record_batch(offset, moved, codec=3, producer=-1 if producer is None else producer)
        first, offset = offset, moved[-1].offset + 1
        if producer is not None:
            data += control_batch(offset, producer, ABORT if aborts else COMMIT)
            offset += 1
            aborted += [(producer, first)] * aborts
    expected = by_aiokafka(data, aborted, position)
    assert found(data, aborted, position) == expected
    assert ends(partition_records(data, aborted, position, keeps=True))[1] == expected[1]


def test_batches_of_before_kafka_0_11_are_read_too() -> None:
    """Old segments outlive upgrades."""
    builder = LegacyRecordBatchBuilder(1, 0, 2**20)
    builder.append(0, timestamp=7, key=b"k", value=b"old")
    old = bytes(builder.build())
    assert found(old, [], 0) == by_aiokafka(old, [], 0) == ([(0, 7, b"k", b"old")], 1)
    assert ends(partition_records(old, [], 0, keeps=True)) == (1, 1)


def test_control_batches_belong_to_the_records_they_follow() -> None:
    """Records that ended before a control batch would leave a gap, and lag for ever."""
    records = [Sent(0, 1, b"k", b"v")]
    fetched = partition_records(
        record_batch(0, records, producer=7) + control_batch(1, 7, COMMIT), [], 0, keeps=True
    )
    fetched_records = FetchedRecords(0)
    for part in record_batches(fetched):
        fetched_records.add(part)
    fetched_records.next = fetched.next_fetch_offset
    whole = batch(fetched_records)
    assert (whole.start, whole.next, len(whole)) == (0, 2, 1)


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
    """Most services produce with librdkafka, and the broker adds times and control batches."""
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
    for count, commits in ((1_000, True), (500, False), (1_003, True)):
        producer.begin_transaction()
        for number in range(count):
            key = None if number % 7 == 0 else b"key %d" % number
            value = None if number % 11 == 0 else b"value" * (number % 300)
            headers: Mapping[str, bytes | None] = {"h": b"x", "n": None} if number % 5 == 0 else {}
            producer.produce(topic, key=key, value=value, headers=dict(headers))
        producer.flush()
        producer.commit_transaction() if commits else producer.abort_transaction()


async def consume(kafka: KafkaConfig, topic: str, *, whole: bool) -> list[Row]:
    """Read *topic* to its end; *whole* as the worker does, else as aiokafka does."""
    if whole:
        retain_bytes()
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, isolation_level="read_committed"
    )
    await consumer.start()
    tp = TopicPartition(topic, 0)
    try:
        if whole:
            consumer._fetcher._records = WholeBatches(lambda _: True, 700)
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        if whole:
            return await rest(consumer, tp)
        end = (await consumer.end_offsets([tp]))[tp]
        taken: list[Row] = []
        while await consumer.position(tp) < end:
            got = (await consumer._fetcher.fetched_records([tp], 1)).get(tp, [])
            taken += [(each.offset, each.timestamp, each.key, each.value) for each in got]
        return taken
    finally:
        await consumer.stop()


@pytest.mark.kafka
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_after_a_seek_everything_comes_from_there(kafka: KafkaConfig, share: float) -> None:
    """Records fetched before the seek would look like a gap, or come twice."""
    topic = uuid.uuid4().hex
    ensure_topics(kafka, [Topic(name=topic, partitions=1)])
    producer = Producer({**kafka.client(), "batch.num.messages": 10})
    for _ in range(500):
        producer.produce(topic, value=b"x" * 100)
    producer.flush()
    offset, taken = asyncio.run(sought(kafka, TopicPartition(topic, 0), share))
    assert taken == list(range(offset, 500))


async def sought(kafka: KafkaConfig, tp: TopicPartition, share: float) -> tuple[int, list[int]]:
    """Seek to a *share* of what was fetched, while there is more of it than was handed out.

    Returns:
        where that is, and the offsets of all records after the seek.
    """
    retain_bytes()
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap,
        isolation_level="read_committed",
        max_partition_fetch_bytes=5_000,
    )
    await consumer.start()
    fetches = consumer._fetcher._records = WholeBatches(lambda _: True, 1)
    thread = BatchThread.__new__(BatchThread)
    thread._fetches, thread.log = fetches, SimpleNamespace(dev=lambda *_: None)
    thread.consumer = SimpleNamespace(_read_offset={})
    thread.app = SimpleNamespace(conf=SimpleNamespace(broker_request_timeout=30.0))
    try:
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        while tp not in fetches:  # noqa: ASYNC110 (aiokafka tells nobody)
            await asyncio.sleep(0.01)
        offset = int(await consumer.position(tp) * share)
        assert fetches.position(tp, await consumer.position(tp)) == 0
        await thread._seek_wait(consumer, {tp: offset})
        return offset, [row[0] for row in await rest(consumer, tp)]
    finally:
        await consumer.stop()


async def rest(consumer: aiokafka.AIOKafkaConsumer, tp: TopicPartition) -> list[Row]:
    """Return the records from the consumer's position to the end, handed out as to a worker."""
    end = (await consumer.end_offsets([tp]))[tp]
    fetches = consumer._fetcher._records
    taken: list[Row] = []
    while fetches.position(tp, await consumer.position(tp)) < end:
        records = (await consumer._fetcher.fetched_records([tp], 1)).get(tp)
        taken += rows(batch(records).records()) if records else []
    return taken


def test_aiokafka_still_has_the_private_names_that_prefetch_overrides() -> None:
    """Private names again: an upgrade has to fail here and not in production."""
    source = inspect.getsource(fetcher.Fetcher._proc_fetch_request)
    assert "records = MemoryRecords(part_data[-1])" in source
    assert "self._records[tp] = FetchResult(" in source
    assert "records.has_next()" in source
    assert "tp_state.position != fetch_offset" in source
    assert "self._records = records" in inspect.getsource(PartitionRecords.__init__)
    names = ("has_more", "_assignment.state_value", "consumed_to")
    assert all(name in inspect.getsource(fetcher.FetchResult) for name in names)
    assert "if tp in self._records:" in inspect.getsource(fetcher.Fetcher._get_actions_per_node)
    assert "self._records.clear()" in inspect.getsource(fetcher.Fetcher._fetch_requests_routine)
    source = inspect.getsource(fetcher.Fetcher.fetched_records)
    assert "for tp in list(self._records.keys())" in source
    assert source.count("del self._records[tp]") == 3, "lost, handed out, an error"


@pytest.mark.parametrize("seed", range(12))
def test_aiokafkas_own_fetcher_hands_out_each_record_once_and_in_order(seed: int) -> None:
    """Whatever comes between: seeks, deleted records, other leaders, control batches, aborts."""
    asyncio.run(fetch_and_compare(random.Random(seed)))


def test_a_fetcher_that_has_ended_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would silently return nothing any more, and the worker would look idle for ever."""

    def fails(_fetched: PartitionRecords) -> tuple[int, int]:
        raise ZeroDivisionError

    async def run() -> None:
        retain_bytes()
        log = MemoryLog(random.Random(1))
        log.grow()
        subscription = SubscriptionState()
        client = MemoryCluster({PARTITION: log}, random.Random(1))
        fetching = fetcher.Fetcher(client, subscription)
        fetching._records = WholeBatches(lambda _: True, 1)
        subscription.assign_from_user([PARTITION])
        fetching.seek_to(PARTITION, 0)
        await asyncio.wait([fetching.error_future])
        thread = BatchThread.__new__(BatchThread)
        thread._ensure_consumer = lambda: SimpleNamespace(_fetcher=fetching)
        await thread.getmany({TP(*PARTITION)}, 0.1)

    monkeypatch.setattr("tidemill.streams.consumer.prefetch.ends", fails)
    with pytest.raises(fetcher.Errors.KafkaError, match="Unexpected error"):
        asyncio.run(run())


async def fetch_and_compare(draw: random.Random) -> None:
    """Read two logs that grow and are truncated, then compare the records with the logs."""
    retain_bytes()
    tps = [TopicPartition("t", 0), TopicPartition("t", 1)]
    logs = {tp: MemoryLog(draw) for tp in tps}
    subscription = SubscriptionState()
    fetching = fetcher.Fetcher(
        MemoryCluster(logs, draw),
        subscription,
        prefetch_backoff=0.001,
        retry_backoff_ms=1,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    fetches = fetching._records = WholeBatches(lambda _: True, draw.choice([1, 3, 100]))
    subscription.assign_from_user(tps)
    readings = {tp: Reading(logs[tp]) for tp in tps}

    def seek(tp: TopicPartition, offset: int) -> None:
        fetches.forget([tp])
        fetching.seek_to(tp, offset)
        readings[tp].seek(offset)

    async def read(wanted: Sequence[TopicPartition]) -> None:
        for tp, records in (await fetching.fetched_records(wanted, 0.002)).items():
            readings[tp].take(records)

    def is_read(tp: TopicPartition) -> bool:
        state = subscription.subscription.assignment.state_value(tp)
        return state.has_valid_position and (fetches.position(tp, state.position) >= logs[tp].end)

    try:
        for tp in tps:
            seek(tp, 0)
        for _ in range(150):
            for log in logs.values():
                if draw.random() < 0.5:
                    log.grow()
            step = draw.random()
            if step < 0.06:
                tp = draw.choice(tps)
                seek(tp, draw.randint(logs[tp].low, max(logs[tp].low, readings[tp].at)))
            elif step < 0.09:
                logs[draw.choice(tps)].delete_oldest()
            else:
                await read(draw.choice([tps, tps[:1], tps[1:]]))
        while not all(map(is_read, tps)):
            await read(tps)
    finally:
        await fetching.close()
    for tp in tps:
        there = [offset for each in logs[tp].batches for offset in each.offsets]
        assert set(there) <= set(readings[tp].taken), f"{tp} misses some"


class Reading:
    """The records read of a log, each fetch compared with what may come next."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.at = 0
        self.taken: list[int] = []

    def seek(self, offset: int) -> None:
        """Go back, or on."""
        self.at = offset
        self.taken = [each for each in self.taken if each < offset]

    def take(self, records: FetchedRecords) -> None:
        """Take the next records: they follow, unless records between were deleted."""
        offsets = [row[0] for row in rows(batch(records).records())]
        is_gap = self.at < records.start <= self._log.low
        assert records.start <= self.at <= offsets[0] or is_gap, (records.start, self.at, offsets)
        self.taken += offsets
        self.at = records.next


class Partition:
    """A partition with one record in each batch, and its state in aiokafka."""

    def __init__(self) -> None:
        self.results = WholeBatches(lambda _: True, 1)
        self.assignment = Assignment([PARTITION])
        self.state = self.assignment.state_value(PARTITION)
        self.state.reset_to(0)

    def answer(self, data: bytes) -> weakref.ref[FetchedBytes]:
        """Take what a broker would answer now."""
        records = partition_records(data, [], self.state.position, keeps=True)
        self.results[PARTITION] = FetchResult(
            PARTITION, assignment=self.assignment, partition_records=records, backoff=0
        )
        return weakref.ref(records._records)

    def events(self, *offsets: int) -> bytes:
        """Return the record batches at these offsets."""
        return b"".join(record_batch(at, [Sent(at, 1, b"key", b"value")]) for at in offsets)

    def hand_out(self) -> list[int]:
        """Return the offsets of what aiokafka would hand out now."""
        found = self.results[PARTITION].getall()
        if not self.results[PARTITION].has_more():
            del self.results[PARTITION]
        return [row[0] for row in rows(batch(found).records())] if found else []

    @property
    def position(self) -> int:
        """The offset behind everything handed out."""
        return self.results.position(PARTITION, self.state.position)

    def thread(self) -> BatchThread:
        """Return the thread of a consumer that has this partition."""

        async def position(_place: TopicPartition) -> int:
            return int(self.state.position)

        async def call_thread(ask: Callable[..., Awaitable[int]], *arguments: object) -> int:
            return await ask(*arguments)

        assigned = SimpleNamespace(assignment=self.assignment)
        consumer = SimpleNamespace(
            _subscription=SimpleNamespace(subscription=assigned), position=position
        )
        thread = BatchThread.__new__(BatchThread)
        thread._fetches, thread.call_thread = self.results, call_thread
        thread._ensure_consumer = lambda: consumer
        return thread


def in_a_loop(test: Callable[[], None]) -> Callable[[], None]:
    """Run *test* in an event loop, which aiokafka's assignments need."""

    async def run() -> None:
        test()

    @wraps(test)
    def ran() -> None:
        asyncio.run(run())

    return ran


@in_a_loop
def test_one_more_answer_is_fetched_while_one_is_handed_out() -> None:
    """A partition that waits for the broker after each answer keeps its worker idle."""
    partition = Partition()
    partition.answer(partition.events(0, 1))
    assert PARTITION not in partition.results, "more is asked for"
    assert (partition.state.position, partition.position) == (2, 0)
    partition.answer(partition.events(2))
    assert PARTITION in partition.results, "that is enough"
    assert (partition.state.position, partition.position) == (3, 0)
    assert partition.hand_out() == [0]
    assert (PARTITION in partition.results, partition.position) == (True, 1)
    assert partition.hand_out() == [1]
    assert (PARTITION in partition.results, partition.position) == (False, 2)
    assert partition.hand_out() == [2]
    assert (list(partition.results), partition.position) == ([], 3)


@in_a_loop
def test_with_many_partitions_only_some_are_fetched_ahead() -> None:
    """Each of them takes a megabyte, and with many partitions there is other work."""
    tps = [TopicPartition("t", number) for number in range(PREFETCH_PARTITIONS + 1)]
    results, assignment = WholeBatches(lambda _: True, 1), Assignment(tps)
    data = [record_batch(at, [Sent(at, 1, b"k", b"v")]) for at in range(2)]
    for at in range(2):
        for tp in tps[: PREFETCH_PARTITIONS + 1 - at]:
            if at == 0:
                assignment.state_value(tp).reset_to(0)
            assert tp not in results
            records = partition_records(data[at], [], at, keeps=True)
            results[tp] = FetchResult(
                tp, assignment=assignment, partition_records=records, backoff=0
            )
    assert tps[-1] in results, "it has one, and that is enough now"
    results[tps[0]].getall()
    del results[tps[0]]
    assert tps[-1] not in results


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["answer", "hand out", "hand out", "seek"]), max_size=60))
def test_all_records_are_handed_out_once_in_any_order_of_events(steps: list[str]) -> None:
    """An answer is fetched from the end of the last one, or from the offset of a seek."""

    @in_a_loop
    def run() -> None:
        partition = Partition()
        taken: list[int] = []
        for number, step in enumerate(steps):
            if step == "answer" and PARTITION not in partition.results:
                first = partition.state.position
                partition.answer(partition.events(*range(first, first + 1 + number % 3)))
            elif step == "hand out" and partition.results:
                taken += partition.hand_out()
            elif step == "seek":
                partition.results.forget([PARTITION])
                partition.state.seek(len(taken))
            assert taken == list(range(partition.position))

    run()


@in_a_loop
def test_control_batches_at_the_end_stay_known_until_records_follow() -> None:
    """A caller that skips them must not skip the records behind them."""
    partition = Partition()
    partition.answer(
        record_batch(0, [Sent(0, 1, b"k", b"v")], producer=7) + control_batch(1, 7, COMMIT)
    )
    assert partition.hand_out() == [0]
    assert (partition.results.control_batches(PARTITION), partition.position) == (None, 2), (
        "they go with it"
    )
    partition.answer(control_batch(2, 7, COMMIT))
    partition.answer(partition.events(3))
    assert partition.hand_out() == []
    assert (partition.results.control_batches(PARTITION), partition.position) == ((2, 3), 3)
    assert partition.hand_out() == [3]
    assert partition.results.control_batches(PARTITION) is None


@in_a_loop
def test_records_deleted_behind_control_batches_are_not_skipped_with_them() -> None:
    """Kafka has deleted them before they were read, so the worker counts them as lost."""
    partition = Partition()
    partition.answer(control_batch(0, 7, COMMIT))
    assert partition.hand_out() == []
    partition.state.await_reset(-2)
    partition.state.reset_to(100)
    partition.answer(control_batch(100, 7, COMMIT) + partition.events(101))
    assert partition.results[PARTITION].getall().start == 100


@in_a_loop
def test_what_was_fetched_before_kafka_deleted_it_is_still_handed_out() -> None:
    """A position out of range is reset independently of the results."""
    partition = Partition()
    partition.answer(partition.events(0))
    partition.state.await_reset(-2)
    assert partition.thread().passed_and_end(TP(*PARTITION)) is None, (
        "it is not known where to go on"
    )
    partition.state.reset_to(100)
    partition.answer(partition.events(100))
    assert [partition.hand_out(), partition.hand_out()] == [[0], [100]]
    assert partition.position == 101


@in_a_loop
def test_another_thread_never_takes_an_answer_for_handed_out() -> None:
    """Neither before nor after it has arrived, nor in between."""
    partition = Partition()
    observed = []
    consumed_to = partition.state.consumed_to

    def observe(position: int) -> None:
        observed.append(partition.position)
        consumed_to(position)
        observed.append(partition.position)

    partition.state.consumed_to = observe
    partition.answer(partition.events(0))
    partition.answer(partition.events(1))
    partition.state.lso = 1  # of a new leader that lags
    assert (observed, partition.thread().passed_and_end(TP(*PARTITION))) == ([0, 0, 0, 0], (0, 2))
    partition.state.lso = None
    assert partition.thread().passed_and_end(TP(*PARTITION)) is None


@in_a_loop
def test_another_thread_sees_nothing_of_records_that_are_being_handed_out() -> None:
    """A position that advanced before the records are returned would make them look taken."""
    partition = Partition()
    partition.results = WholeBatches(lambda _: True, 10)
    partition.answer(partition.events(0, 1, 2))
    add, observed = FetchedRecords.add, []

    def observe(records: FetchedRecords, part: RecordBatch) -> None:
        observed.append((partition.position, partition.results.records_end(PARTITION)))
        add(records, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FetchedRecords, "add", observe)
        assert partition.hand_out() == [0, 1, 2]
    assert observed == [(0, 0)] * 3
    assert (partition.position, partition.results.records_end(PARTITION)) == (3, 3)


def test_the_position_of_a_worker_is_what_was_handed_out() -> None:
    """It is compared with the end of the log, to advance the time of idle logs."""

    async def run() -> tuple[int | None, int]:
        partition = Partition()
        partition.answer(partition.events(0, 1))
        partition.hand_out()
        thread = partition.thread()
        return await thread.position(TP(*PARTITION)), thread.records_end(TP(*PARTITION))

    assert asyncio.run(run()) == (1, 1)


@in_a_loop
def test_nothing_stays_after_a_lost_assignment_or_a_seek() -> None:
    """Fetched records and control batches belong to the position that was read before."""
    for forget in (WholeBatches.clear, partial(WholeBatches.forget, tps=[PARTITION])):
        partition = Partition()
        partition.answer(record_batch(0, [Sent(0, 1, b"k", b"v")]))
        partition.answer(control_batch(1, 7, COMMIT))
        partition.hand_out()
        partition.hand_out()
        partition.answer(partition.events(2))
        partition.answer(partition.events(3))
        results = partition.results
        assert (results.control_batches(PARTITION), results.records_end(PARTITION)) == ((1, 2), 1)
        forget(results)
        assert (results.control_batches(PARTITION), results.records_end(PARTITION)) == (None, 0)
        partition.answer(partition.events(4))
        assert [partition.hand_out(), list(results)] == [[4], []]


@in_a_loop
def test_an_answer_that_cannot_be_read_to_its_end_is_never_skipped() -> None:
    """Each call raises again, because the next answer begins behind it."""
    partition = Partition()
    corrupt = bytearray(partition.events(0, 1))
    corrupt[-3] ^= 1
    partition.answer(bytes(corrupt))
    assert partition.hand_out() == [0]
    for _ in range(2):
        with pytest.raises(fetcher.Errors.CorruptRecordException):
            partition.hand_out()


@in_a_loop
def test_nothing_of_a_lost_assignment_is_handed_out() -> None:
    """Another worker reads it."""
    partition = Partition()
    partition.answer(partition.events(0))
    partition.answer(partition.events(1))
    partition.assignment._unassign()
    assert partition.hand_out() == partition.hand_out() == []
    assert list(partition.results) == []


@in_a_loop
def test_the_error_of_a_partition_is_raised_after_the_records_before_it() -> None:
    """Aiokafka has an error in place of an answer, and raises it when that is its turn."""
    partition = Partition()
    partition.answer(partition.events(0))
    wrong = FetchError(error=PermissionError(), backoff=0)
    partition.results[PARTITION] = wrong
    assert PARTITION in partition.results
    assert partition.hand_out() == [0]
    assert (partition.results[PARTITION], PARTITION in partition.results) == (wrong, True)


@settings(deadline=None)
@given(st.integers(0, 200), st.binary(min_size=1, max_size=8))
@example(15, b"\0\0\0\x80").via("a length below zero, in a batch of before Kafka 0.11")
def test_corrupt_bytes_raise_where_they_are_read_and_not_where_they_are_fetched(
    at: int, rot: bytes
) -> None:
    """An error where aiokafka fetches ends its fetching, and the worker does not notice."""
    data = bytearray(b"".join(record_batch(n, [Sent(n, 1, b"key", b"value")]) for n in range(3)))
    data[at : at + len(rot)] = rot
    _, end = ends(partition_records(bytes(data), [], 0, keeps=True))
    try:
        _, position = found(bytes(data), [], 0)
    except (fetcher.Errors.CorruptRecordException, SystemError):
        return
    assert position == end


def test_an_answer_is_freed_with_its_last_record_and_not_by_the_garbage_collector() -> None:
    """A worker runs the collector seldom; until then each answer would take a megabyte."""

    async def fetch() -> tuple[weakref.ref[FetchedBytes], ...]:
        partition = Partition()
        freed = partition.answer(partition.events(0)), partition.answer(partition.events(1))
        while list(partition.results):
            partition.hand_out()
        return freed

    gc.disable()
    try:
        assert [each() for each in asyncio.run(fetch())] == [None, None]
    finally:
        gc.enable()
