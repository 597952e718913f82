"""Re-keys feedback: writes it to the partitions of its decisions, keyed by decision.

A decision meets its feedback in the partition of the same number. With `rekey: true` in the loop,
the worker that owns partition 0 of its decisions also reads the feedback as it was produced, all
partitions in the order of stream time (`merge.py`). It writes each record unchanged to an internal
topic, keyed by the decision it names, and the join reads that topic. Each log of feedback is
re-keyed independently.

Delivery: exactly once. Records and the offsets they came from are one Kafka transaction, under a
transactional id that only one process can have; readers read committed records only. A record that
names no decision is written under its own key: the join makes it a dead letter with the reason.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import aiokafka
import polars as pl
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition as AioPartition
from confluent_kafka import KafkaException
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from tidemill.errors import BrokerError, ContractError, FencedError
from tidemill.kafka import KafkaConfig, TransactionalWriter, partition_count
from tidemill.schemas import topics
from tidemill.schemas.avro.payloads import Payloads
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import FEEDBACK, Log, stream_of, topic_of
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.choose import SchemaStore
from tidemill.streams.consumer.app import credentials
from tidemill.streams.consumer.topic_ids import TopicIdentity, topic_identities
from tidemill.streams.rekey.merge import StreamTimeMerge
from tidemill.streams.rekey.source_end import group_of
from tidemill.streams.units import NEVER, micros
from tidemill.streams.versions import VersionCheck

logger = logging.getLogger(__name__)

EVERY_S = 0.1  # a transaction takes some 10 ms, and a control batch in each partition it writes
TRANSACTION_RECORDS = 20_000  # in one transaction at most
_QUEUE_RECORDS = 4_000  # a partition with so many queued records is not read
_POLL_MS = 100
_RETRY_S = 1.0


class _RekeyedRecord(NamedTuple):
    """One record to write; a *partition* of -1 means the partition of its key."""

    source: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    partition: int


class Rekeyer:
    """Re-keys one log of feedback of a loop. All methods are called from one event loop."""

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
        """Re-key the log *name* by the schemas of *store*; *newest* returns the newest version."""
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
        self._next: dict[int, int] = {}  # the committed offsets of the source
        self._width = 0  # how many partitions the broker told
        self._identity: TopicIdentity | None = None  # of the source, once it is known

    async def work(self, is_wanted: Callable[[], bool]) -> bool:
        """Re-key while *is_wanted* holds; return False if a newer version of the loop is needed.

        It also returns when the source has new partitions, or was made anew: a new re-keyer has to
        read them.

        Raises:
            FencedError: another process re-keys this log now.
            ContractError: the source is missing, or is not the topic that was read before.
            BrokerError: the broker does not answer; a new re-keyer loses and doubles nothing.
            KafkaError: likewise.
        """
        writer = await asyncio.to_thread(self._writer, self._kafka, self._group)
        consumer = self._consumer("read_committed")
        everything = self._consumer("read_uncommitted")
        try:
            await consumer.start()
            await everything.start()
            await self._begin(consumer, writer)
            while is_wanted() and not self._has_grown(consumer):
                started_s = time.monotonic()
                if not await self._take(consumer):
                    return False
                if any(self._ordering.counts().values()):
                    if await self._is_made_anew(everything):
                        return True
                    await self._ask_ends(consumer, everything, writer)
                await self._forward(consumer, writer)
                await asyncio.sleep(max(0.0, started_s + EVERY_S - time.monotonic()))
        finally:
            await consumer.stop()
            await everything.stop()
            await asyncio.to_thread(writer.close)
        return True

    def _consumer(self, isolation: str) -> Any:  # noqa: ANN401 (aiokafka is not typed)
        auth = credentials_to_aiokafka_auth(credentials(self._kafka), None)
        return aiokafka.AIOKafkaConsumer(
            bootstrap_servers=self._kafka.bootstrap.split(","),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=isolation,
            fetch_max_wait_ms=_POLL_MS,
            metadata_max_age_ms=30_000,
            **auth,
        )

    async def _begin(self, consumer: Any, writer: TransactionalWriter) -> None:  # noqa: ANN401
        """Start at the offsets of the last transaction, whichever process made it."""
        count = await asyncio.to_thread(partition_count, self._kafka, self._source)
        tps = [AioPartition(self._source, number) for number in range(count or 0)]
        if not tps:
            raise ContractError(
                f"there is no topic {self._source}",
                hint="the producer of the feedback has to create it; or publish the loop again",
            )
        consumer.assign(tps)
        wanted = [tp.partition for tp in tps]
        known = await asyncio.to_thread(writer.offsets, self._group, self._source, wanted)
        lows = await consumer.beginning_offsets(tps)
        highs = await consumer.end_offsets(tps)
        for tp in tps:
            at, low = known.get(tp.partition, 0), lows[tp]
            if at > highs[tp]:
                raise ContractError(
                    f"{self._source}/{tp.partition} ends at {highs[tp]}, but was re-keyed "
                    f"up to {at}",
                    hint="the topic was recreated or truncated: give the loop a new name, or "
                    "restore the topic",
                )
            if at < low and tp.partition in known:
                logger.error(
                    "%d records of %s/%d were deleted by Kafka before they were re-keyed\n"
                    "  hint: lengthen the topic's retention.ms",
                    low - at,
                    self._source,
                    tp.partition,
                    extra={"partition": tp.partition},
                )
            consumer.seek(tp, max(at, low))
            self._next[tp.partition] = at
        self._ordering.watch(wanted)
        logger.info("re-keying %d partitions of %s", len(tps), self._source)

    def _has_grown(self, consumer: Any) -> bool:  # noqa: ANN401 (aiokafka is not typed)
        """Return whether the source has partitions that are not read yet."""
        known = len(consumer.partitions_for_topic(self._source) or ())
        return max(known, self._width) > len(self._next)

    async def _take(self, consumer: Any) -> bool:  # noqa: ANN401 (aiokafka is not typed)
        """Read partitions with short queues; return False if events of a newer version came."""
        waiting = self._ordering.waiting
        tps = [tp for tp in consumer.assignment() if waiting(tp.partition) < _QUEUE_RECORDS]
        if not tps:
            return True
        fetched = await consumer.getmany(*tps, timeout_ms=_POLL_MS, max_records=TRANSACTION_RECORDS)
        for tp, records in fetched.items():
            values = Payloads.of([record.value for record in records])
            decoded = self._decoder.decode(values)
            if self._versions.is_newer(decoded, values):
                return False
            read = decoded.frame.select("row", "decision_id", pl.col("at").to_physical()).rows()
            self._ordering.take(tp.partition, self._rows(tp, records, read))
        return True

    def _rows(
        self, tp: AioPartition, records: Sequence[Any], read: Iterable[tuple[int, str, int]]
    ) -> Iterator[tuple[int, _RekeyedRecord]]:
        """Yield each of *records* with its event time, for the order of stream time.

        An unreadable record has none, nor has one that is ahead of its arrival: a record of the
        year 3000 would hold its partition back until all others have reached that time.
        """
        known = {row: (decision.encode(), at) for row, decision, at in read}
        source = f"{tp.topic}/{tp.partition}/".encode()
        unreadable = tp.partition % self._loop.partitions
        now_ms = int(time.time() * 1000)
        for row, record in enumerate(records):
            headers = (*record.headers, ("source", source + b"%d" % record.offset))
            key, partition, at = record.key, unreadable, NEVER
            if row in known:
                (key, event_at), partition = known[row], -1
                if event_at <= min(record.timestamp, now_ms) * 1000 + self._max_skew_us:
                    at = event_at
            rekeyed = _RekeyedRecord(
                tp.partition, record.offset, key, record.value, headers, partition
            )
            yield at, rekeyed

    async def _is_made_anew(self, everything: Any) -> bool:  # noqa: ANN401
        """Return whether the source is another topic now; Kafka forgot its group offsets."""
        found = (await topic_identities(everything, [self._source]) or {}).get(self._source)
        self._identity = self._identity or found
        is_new = found is not None and found != self._identity
        if is_new:
            logger.warning("%s was made anew: re-keying it from its first record", self._source)
        return is_new

    async def _ask_ends(
        self,
        consumer: Any,  # noqa: ANN401 (aiokafka is not typed)
        everything: Any,  # noqa: ANN401
        writer: TransactionalWriter,
    ) -> None:
        """Ask the broker which partitions are read to their end, so that others may overtake them.

        The answer covers the rows that were taken before the question. The end includes records of
        open transactions: they were appended already, and have to be waited for.
        """
        moment = self._ordering.moment
        self._width = await asyncio.to_thread(writer.partitions, self._source)
        if self._width > len(self._next):
            return  # the new ones may have earlier records: nothing may overtake them
        tps = sorted(consumer.assignment())
        ends = await everything.end_offsets(tps)
        read = [tp.partition for tp in tps if await consumer.position(tp) >= ends[tp]]
        self._ordering.note_ended(read, moment)

    async def _forward(self, consumer: Any, writer: TransactionalWriter) -> None:  # noqa: ANN401
        """Write the rows that are due, and the offsets they came from, in one transaction."""
        tps = sorted(consumer.assignment())
        positions = {tp.partition: await consumer.position(tp) for tp in tps}
        rows = self._ordering.hand_out(TRANSACTION_RECORDS)
        offsets = {row.source: row.offset + 1 for row in rows}
        for number, waiting in self._ordering.counts().items():
            if not waiting:  # everything is written: control batches behind it are passed too
                offsets[number] = positions[number]
        offsets_after = {number: at for number, at in offsets.items() if at != self._next[number]}
        if offsets_after:
            await asyncio.to_thread(self._write, writer, rows, offsets_after)
            self._next.update(offsets_after)

    def _write(
        self,
        writer: TransactionalWriter,
        rows: Sequence[_RekeyedRecord],
        offsets_after: dict[int, int],
    ) -> None:
        with writer.transaction():
            for row in rows:
                writer.write(
                    self._target, row.key, row.value, headers=row.headers, partition=row.partition
                )
            offsets = {(self._source, number): at for number, at in offsets_after.items()}
            writer.move(self._group, offsets)


async def keep_rekeying(
    new: Callable[[], Rekeyer], is_owner: Callable[[], bool], newer: Callable[[], None]
) -> None:
    """Re-key whenever *is_owner* holds, for ever; call *newer* if a newer version is needed.

    While the broker does not answer, it retries.

    Raises:
        FencedError: another process re-keys this log, although this one is the owner.
        ContractError: the source is missing, or is not the topic that was read before.
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
            logger.warning("re-keying feedback failed, trying again: %s", error)
            await asyncio.sleep(_RETRY_S)
