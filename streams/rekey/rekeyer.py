"""Feedback of other keys or partitions, written once more to where its decisions are.

A decision meets its feedback in the partition of the same number. With `rekey: true` in the loop,
whoever owns partition 0 of its decisions also reads the feedback as it was produced, all partitions
in the order of stream time (`merge.py`), and writes each record, byte by byte, to an internal
topic, keyed by the decision it names. The join reads that topic. Each log of feedback is re-keyed
by itself.

Delivery: exactly once. Records and the offsets they came from are one Kafka transaction, under a
name that only one process has at a time; readers see committed records only. What tells no decision
goes along under its own key: the join finds out why, and makes it a dead letter.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import aiokafka
import polars as pl
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition as Place
from confluent_kafka import Consumer, KafkaException, TopicPartition
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from tidemill.errors import BrokerError, ContractError, FencedError
from tidemill.kafka import KafkaConfig, TransactionalWriter, client_log, partition_count
from tidemill.schemas import topics
from tidemill.schemas.avro.payloads import Payloads
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import FEEDBACK, Log, stream_of, topic_of
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.choose import SchemaStore
from tidemill.streams.consumer.app import credentials
from tidemill.streams.rekey.merge import StreamTimeMerge
from tidemill.streams.units import NEVER, micros
from tidemill.streams.versions import VersionCheck

log = logging.getLogger(__name__)

EVERY_S = 0.1  # a transaction takes some 10 ms and leaves a mark in each partition it wrote to
MOST = 20_000  # records in one transaction
_ENOUGH = 4_000  # of a partition that holds no other one back, so many wait at most
_POLL_MS = 100
_RETRY_S = 1.0
_ASK_S = 5.0


class _RekeyedRecord(NamedTuple):
    """One record on its way; a *partition* of -1 means: by its key."""

    source: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    partition: int


def group_of(loop_name: str, name: Log = FEEDBACK) -> str:
    """Return the consumer group, and the transactional name, under which a log is re-keyed."""
    stream = stream_of(name)
    return f"tidemill-rekey-{loop_name}" + ("" if stream is None else f".{stream}")


class Rekeyer:
    """Re-keys one log of feedback of a loop while it is asked to; used on one event loop."""

    def __init__(
        self,
        kafka: KafkaConfig,
        loop: Loop,
        store: SchemaStore,
        newest: Callable[[], int],
        name: Log = FEEDBACK,
        *,
        writer: type[TransactionalWriter] = TransactionalWriter,
    ) -> None:
        """Re-key the log *name*, by the schemas of *store*; *newest* tells the newest version."""
        self._writer = writer
        self._kafka = kafka
        self._loop = loop
        self._group = group_of(loop.loop, name)
        self._source = topic_of(loop.loop, name)
        self._target = topics.rekeyed(loop.loop, stream_of(name))
        self._decoder = EventDecoder(loop, name, store)
        self._versions = VersionCheck(loop, newest)
        self._max_skew_us = micros(loop.max_skew)
        self._ordering: StreamTimeMerge[_RekeyedRecord] = StreamTimeMerge()
        self._next: dict[int, int] = {}  # offsets of the source that are committed

    async def work(self, is_wanted: Callable[[], bool]) -> bool:
        """Re-key while *is_wanted* holds; return False if a newer version of the loop is needed.

        It also returns when the source has more partitions than before: do it again with another.

        Raises:
            FencedError: another process does it now.
            ContractError: the source is not there, or not the one that was read before.
            BrokerError: the broker does not answer; open it again, nothing is lost or doubled.
            KafkaError: likewise.
        """
        writer = await asyncio.to_thread(self._writer, self._kafka, self._group)
        consumer = self._consumer()
        try:
            await consumer.start()
            await self._begin(consumer, writer)
            while is_wanted() and not self._has_grown(consumer):
                started_s = time.monotonic()
                if not await self._take(consumer):
                    return False
                await self._hand_on(consumer, writer)
                await asyncio.sleep(max(0.0, started_s + EVERY_S - time.monotonic()))
        finally:
            await consumer.stop()
            await asyncio.to_thread(writer.close)
        return True

    def _consumer(self) -> Any:  # noqa: ANN401 (aiokafka is not typed)
        auth = credentials_to_aiokafka_auth(credentials(self._kafka), None)
        return aiokafka.AIOKafkaConsumer(
            bootstrap_servers=self._kafka.bootstrap.split(","),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=_POLL_MS,
            metadata_max_age_ms=30_000,
            **auth,
        )

    async def _begin(self, consumer: Any, writer: TransactionalWriter) -> None:  # noqa: ANN401
        """Start where the last transaction ended, whoever made it."""
        count = await asyncio.to_thread(partition_count, self._kafka, self._source)
        places = [Place(self._source, number) for number in range(count or 0)]
        if not places:
            raise ContractError(
                f"there is no topic {self._source}",
                hint="who sends the feedback has to make it; or publish the loop again",
            )
        consumer.assign(places)
        wanted = [place.partition for place in places]
        known = await asyncio.to_thread(writer.offsets, self._group, self._source, wanted)
        lows = await consumer.beginning_offsets(places)
        highs = await consumer.end_offsets(places)
        for place in places:
            at, low = known.get(place.partition, 0), lows[place]
            if at > highs[place]:
                raise ContractError(
                    f"{self._source}/{place.partition} ends at {highs[place]}, but was re-keyed "
                    f"up to {at}",
                    hint="the topic was made anew or cut: give the loop a new name, or restore it",
                )
            if at < low and place.partition in known:
                log.error(
                    "%d records of %s/%d were deleted by Kafka before they were re-keyed\n"
                    "  hint: lengthen the topic's retention.ms",
                    low - at,
                    self._source,
                    place.partition,
                )
            consumer.seek(place, max(at, low))
            self._next[place.partition] = at
        self._ordering.watch(wanted)
        log.info("re-keying %d partitions of %s", len(places), self._source)

    def _has_grown(self, consumer: Any) -> bool:  # noqa: ANN401 (aiokafka is not typed)
        """Whether the source has partitions that are not read yet; then it is begun anew."""
        found = consumer.partitions_for_topic(self._source) or ()
        return len(found) > len(self._next)

    async def _take(self, consumer: Any) -> bool:  # noqa: ANN401 (aiokafka is not typed)
        """Read on where too little waits; return False for events of a newer version."""
        places = [
            place
            for place in consumer.assignment()
            if self._ordering.waiting(place.partition) < _ENOUGH
        ]
        if not places:
            return True
        found = await consumer.getmany(*places, timeout_ms=_POLL_MS, max_records=MOST)
        for place, records in found.items():
            values = Payloads.of([record.value for record in records])
            decoded = self._decoder.decode(values)
            if self._versions.is_newer(decoded, values):
                return False
            read = decoded.frame.select("row", "decision_id", pl.col("at").to_physical()).rows()
            self._ordering.take(place.partition, self._rows(place, records, read))
        return True

    def _rows(
        self,
        place: Place,
        records: Sequence[Any],
        read: Iterable[tuple[int, str, int]],
    ) -> Iterator[tuple[int, _RekeyedRecord]]:
        """Yield each of *records* with the event time it moves its partition on to.

        That of an unreadable one moves nothing, nor does that of one that is ahead of its arrival:
        a record of the year 3000 would hold its partition back until all others have come there.
        """
        known = {row: (decision.encode(), at) for row, decision, at in read}
        source = f"{place.topic}/{place.partition}/".encode()
        unreadable = place.partition % self._loop.partitions
        now_ms = int(time.time() * 1000)
        for row, record in enumerate(records):
            headers = (*record.headers, ("source", source + b"%d" % record.offset))
            found = known.get(row)
            key, partition, at = record.key, unreadable, NEVER
            if found is not None:
                key, partition = found[0], -1
                if found[1] <= min(record.timestamp, now_ms) * 1000 + self._max_skew_us:
                    at = found[1]
            yield (
                at,
                _RekeyedRecord(
                    place.partition, record.offset, key, record.value, headers, partition
                ),
            )

    async def _hand_on(self, consumer: Any, writer: TransactionalWriter) -> None:  # noqa: ANN401
        """Write what is due, and where it came from, in one transaction."""
        places = sorted(consumer.assignment())
        positions = {place.partition: await consumer.position(place) for place in places}
        ends = {place.partition: consumer.last_stable_offset(place) for place in places}
        ended = {
            number for number, end in ends.items() if end is not None and positions[number] >= end
        }
        rows = self._ordering.hand_out(ended, MOST)
        offsets = {row.source: row.offset + 1 for row in rows}
        for number, waiting in self._ordering.counts().items():
            if not waiting:  # all of it is handed on, and marks behind it are passed
                offsets[number] = positions[number]
        moved = {number: at for number, at in offsets.items() if at != self._next[number]}
        if moved:
            await asyncio.to_thread(self._write, writer, rows, moved)
            self._next.update(moved)

    def _write(
        self, writer: TransactionalWriter, rows: Sequence[_RekeyedRecord], moved: dict[int, int]
    ) -> None:
        with writer.transaction():
            for row in rows:
                writer.write(
                    self._target, row.key, row.value, headers=row.headers, partition=row.partition
                )
            offsets = {(self._source, number): at for number, at in moved.items()}
            writer.move(self._group, offsets)


async def keep_rekeying(
    new: Callable[[], Rekeyer], is_owner: Callable[[], bool], newer: Callable[[], None]
) -> None:
    """Re-key whenever *is_owner* holds, for ever; call *newer* if a newer version is needed.

    A broker that is away is waited for.

    Raises:
        FencedError: another process does it, although this one is the owner.
        ContractError: the source is not there, or not the one that was read before.
    """
    while True:
        await asyncio.sleep(EVERY_S)
        if not is_owner():
            continue
        try:
            if not await new().work(is_owner):
                newer()
        except FencedError:
            if is_owner():
                raise
        except (BrokerError, KafkaError, KafkaException, TimeoutError) as error:
            log.warning("feedback is not re-keyed for now, and tried again: %s", error)
            await asyncio.sleep(_RETRY_S)


class SourceEnd:
    """Whether all that was produced to a log is re-keyed; blocks while it asks the broker."""

    def __init__(self, kafka: KafkaConfig, loop: Loop, name: Log = FEEDBACK) -> None:
        self._topic = topic_of(loop.loop, name)
        settings = kafka.client(
            group_id=group_of(loop.loop, name),
            enable_auto_commit=False,
            isolation_level="read_uncommitted",  # an open transaction is something to wait for
        )
        self._consumer = Consumer(settings, logger=client_log)

    def is_reached(self) -> bool:
        """Return whether no record of the source waits to be re-keyed; False if it is not known."""
        try:
            found = self._consumer.list_topics(self._topic, timeout=_ASK_S).topics[self._topic]
            places = [TopicPartition(self._topic, number) for number in found.partitions]
            known = self._consumer.committed(places, timeout=_ASK_S)
            return bool(places) and all(
                max(place.offset, 0)
                >= self._consumer.get_watermark_offsets(place, timeout=_ASK_S)[1]
                for place in known
            )
        except KafkaException as error:
            log.info("whether all of %s is re-keyed is not known: %s", self._topic, error)
            return False

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()
