"""The transport of Faust for fetched batches: all records of one fetch are one Faust event.

Faust spends about 70 us of Python on each event, whatever its settings are. So one event carries
all records that one fetch returned for a partition, and Faust's group, rebalancing, agents,
supervision and life cycle cost nothing per record. A broker address `batch://host:port` selects
this transport, through the entry point `faust.transports`.

A `Flow` answers where a partition starts and up to which offset it is committed: that is in the
lake, and the group's offsets in Kafka are only for operators' tools. This module overrides private
names of faust-streaming and aiokafka; tests/streams/consumer/test_transport.py pins each of them,
so an upgrade fails there and not in production.

Longer than 300 lines because it overrides Faust's consumer as a whole: fetching, seeking and
committing share the state of one session.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

import faust
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.transport.utils import DefaultSchedulingStrategy
from faust.types import TP, ConsumerMessage, Message

from tidemill.errors import BrokerError
from tidemill.streams.consumer.batches import FetchedBatch
from tidemill.streams.consumer.fetch_thread import FETCH_WAIT_MS, BatchThread
from tidemill.streams.consumer.log_position import LogPosition
from tidemill.streams.consumer.prefetch import FetchedRecords
from tidemill.streams.consumer.topic_ids import TopicIdentity

logger = logging.getLogger(__name__)

PAUSE_S = 0.02  # how long to wait when every partition has to wait for others


class FetchState(Protocol):
    """The state of the logs that the transport reads; `BatchConsumer` has it."""

    session: int
    """A number that each seek raises: batches of an earlier session are invalid."""

    def position_of(self, tp: TP) -> LogPosition:
        """Return the position up to which *tp* was fetched and handed out."""

    def with_control_batches(self) -> list[TP]:
        """Return the partitions that may have control batches behind their records."""

    def control_batches(self, tp: TP) -> tuple[int, int] | None:
        """Return the offsets, from and to, of control batches behind the records handed out."""

    def skip_control_batches(self, tp: TP, next: int) -> None:
        """Expect the next batch to start at *next*."""

    async def ends(self, tps: Collection[TP]) -> dict[TP, tuple[int, int]]:
        """Return the consumer's position and the end of the log, from a request to the broker."""

    async def identities(
        self, topics: Collection[str]
    ) -> Mapping[str, TopicIdentity | None] | None:
        """Return the ids of *topics* that exist, asked of a broker; None if none answers."""


class Flow(Protocol):
    """The decisions about the logs: where they start, which have to wait, what is committed."""

    def attach(self, fetches: FetchState) -> None:
        """Set the source of the fetched positions."""

    async def positions(self, tps: Iterable[TP]) -> Mapping[TP, int | None]:
        """Return the next offset of each partition; None if nothing was ever read of it."""

    def committed(self, tp: TP) -> int | None:
        """Return the next offset that the lake needs from Kafka."""

    def has_to_wait(self, tp: TP) -> bool:
        """Return whether *tp* has to wait for other logs, which have more to read."""

    def lost(self, tp: TP, records: int) -> None:
        """Record that Kafka has deleted *records* of *tp* before they were read."""

    def identify(self, identities: Mapping[str, TopicIdentity | None]) -> None:
        """Compare *identities* with those that the lake has read from."""

    def is_refused(self, tp: TP) -> bool:
        """Return whether nothing of *tp* is taken any more."""

    def ends_too_early(self, tp: TP, end: int) -> None:
        """Record that *tp* ends at *end*, before the offset that the lake has read up to."""


class BatchSchema(faust.Schema):  # type: ignore[misc]  # Faust is not typed
    """The schema of a batched topic: agents get the `FetchedBatch` of a message as it is."""

    def loads_key(self, app: object, message: Message, **_options: object) -> None:
        """Return None: the keys are those of the records."""

    def loads_value(self, app: object, message: Message, **_options: object) -> FetchedBatch:
        """Return the batch of *message*."""
        batch: FetchedBatch = message.value
        return batch


class BatchScheduler(DefaultSchedulingStrategy):  # type: ignore[misc]  # Faust is not typed
    """Yields the records of a partition together for batched topics, else one by one."""

    def __init__(self, consumer: "BatchConsumer") -> None:
        self._consumer = consumer

    def iterate(self, records: Mapping[TP, list[Any]]) -> Iterator[tuple[TP, Any]]:
        """Yield ``(tp, records)`` for batched topics, then ``(tp, record)`` in round robin."""
        single = {}
        for tp, fetched in records.items():
            if self._consumer.is_batched(tp.topic):
                yield tp, fetched
            else:
                single[tp] = fetched
        yield from super().iterate(single)


class BatchConsumer(driver.Consumer):  # type: ignore[misc]  # Faust is not typed
    """Faust's consumer of aiokafka; it delivers batches, and seeks to the offsets of the lake."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (Faust's own)
        super().__init__(*args, **kwargs)
        self.scheduler = BatchScheduler(self)
        self.session = 0
        self._fetched = 0  # the session of the last fetch
        self._delivered: dict[TP, int] = {}
        self._expected: dict[TP, int] = {}
        self._batched: dict[str, bool] = {}
        self._fetching = asyncio.Lock()  # a fetch during a seek may return records from before it
        self._sought: object = None  # the assignment at the last seek
        flow: Flow | None = self.transport.flow
        if flow is None:
            raise RuntimeError("set app.transport.flow before the app starts")
        self._flow = flow
        flow.attach(self)

    def is_batched(self, topic: str) -> bool:
        """Return whether a channel of the app reads *topic* with a `BatchSchema`."""
        if topic not in self._batched:
            self._batched[topic] = any(
                topic in channel.topics and isinstance(channel.schema, BatchSchema)
                for channel in self.app.topics
            )
        return self._batched[topic]

    def position_of(self, tp: TP) -> LogPosition:
        """Return how far *tp* was fetched and handed out, as of Kafka's last answer."""
        passed, end = self._thread.passed_and_end(tp) or (None, None)
        return LogPosition(
            end=end,
            passed=passed,
            fetched=self._thread.records_end(tp),
            awaited=self._expected.get(tp),
            handed_out=self._delivered.get(tp),
        )

    def with_control_batches(self) -> list[TP]:
        """Return the partitions that may have control batches behind their records."""
        found: list[TP] = self._thread.with_control_batches()
        return found

    def control_batches(self, tp: TP) -> tuple[int, int] | None:
        """Return the offsets, from and to, of control batches behind the records handed out."""
        control = self._thread.control_batches(tp)
        handed_out = self._delivered.get(tp)
        if control is None or handed_out is None:
            return None
        return (handed_out, control[1]) if control[0] <= handed_out < control[1] else None

    def skip_control_batches(self, tp: TP, next: int) -> None:
        """Expect the next batch to start at *next*."""
        self._delivered[tp] = self._expected[tp] = next

    async def _getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 (Faust's signature)
    ) -> Mapping[TP, list[Any]]:
        """Fetch from the partitions that do not have to wait.

        After a new assignment nothing is fetched before its seek: if rebalances overlap, Faust
        resumes the flow after the first one, although the second is not done.
        """
        active = active_partitions or set()
        candidates = self._thread.with_records() & active  # others have nothing to hand out
        wanted = active - {tp for tp in candidates if self._flow.has_to_wait(tp)}
        async with self._fetching:
            if wanted and self._assignment() is self._sought:
                records: Mapping[TP, list[Any]] = await self._thread.getmany(wanted, timeout)
                if self._assignment() is self._sought:
                    self._fetched = self.session
                    return records
        await self.sleep(PAUSE_S)
        return {}

    async def verify_all_partitions_active(self) -> None:
        """Look for partitions that stand still, as Faust does, in one pass: it pauses after each.

        Thousands of pauses every other second take some hundredths of a core.
        """
        now_s = time.monotonic()
        for tp in self.assignment():
            self.verify_event_path(now_s, tp)

    def _assignment(self) -> object:
        """Return aiokafka's current assignment: another object after each rebalance."""
        subscription = self._thread._ensure_consumer()._subscription.subscription
        return None if subscription is None else subscription.assignment

    async def ends(self, tps: Collection[TP]) -> dict[TP, tuple[int, int]]:
        """Return the consumer's position and the end of each of *tps*, asked of the broker.

        The position is behind control batches, which no agent will ever get. Partitions with
        records on their way to an agent are left out; if no broker answers, all of them are.
        """
        try:
            ends = await self.highwaters(*tps)
            positions = await self._thread.positions(tps)
        except (KafkaError, TimeoutError) as error:
            logger.info(
                "the ends of quiet logs are unknown, their time does not advance: %s", error
            )
            return {}
        return {
            tp: (positions[tp], end)
            for tp, end in ends.items()
            if tp in self._expected and not self.position_of(tp).is_under_way
        }

    async def identities(
        self, topics: Collection[str]
    ) -> Mapping[str, TopicIdentity | None] | None:
        """Return the ids of *topics* that exist, asked of a broker; None if none answers."""
        found: Mapping[str, TopicIdentity | None] | None = await self._thread.identities(topics)
        return found

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every batched partition to the offset of the `Flow`, and begin a new session."""
        async with self._fetching:
            assignment = self._assignment()
            starts = await self._seek()
            self._sought = assignment
        return starts

    async def _seek(self) -> Mapping[TP, int]:
        assigned = {tp for tp in self.assignment() if self.is_batched(tp.topic)}
        wanted = await self._flow.positions(assigned)
        starts, lows = await self._check(wanted) if wanted else ({}, {})
        self.session += 1
        self._delivered = dict(starts)
        self._expected = {tp: max(start, lows[tp]) for tp, start in starts.items()}
        if starts:
            await self.seek_wait(self._expected)
        return starts

    async def _check(
        self, wanted: Mapping[TP, int | None]
    ) -> tuple[dict[TP, int], Mapping[TP, int]]:
        """Compare the *wanted* offsets with the log: Kafka would silently start somewhere else.

        Returns:
            the offset to continue from, and the first offset of the log.
        """
        identities = await self.identities({tp.topic for tp in wanted})
        if identities is not None:
            self._flow.identify(identities)
        lows = await self.earliest_offsets(*wanted)
        highs = await self._thread.call_thread(
            self._thread._ensure_consumer().end_offsets, list(wanted)
        )
        starts = {}
        for tp, offset in wanted.items():
            low, high = lows[tp], highs[tp]
            if offset is not None and offset > high:
                self._flow.ends_too_early(tp, high)
                continue
            if low > (offset or 0):
                self._flow.lost(tp, low - (offset or 0))
            starts[tp] = offset or 0
        return starts, lows

    def _new_consumer_thread(self) -> BatchThread:
        return BatchThread(self, loop=self.loop, beacon=self.beacon)

    def _to_message(self, tp: TP, record: object) -> ConsumerMessage:
        if not isinstance(record, FetchedRecords):
            return super()._to_message(tp, record)
        newest: Any = record[-1]
        batch = FetchedBatch(
            topic=tp.topic,
            partition=tp.partition,
            start=self._delivered.get(tp, record.start),
            last=record.next - 1,
            session=self.session,
            parts=record,
        )
        self._delivered[tp] = self._expected[tp] = batch.next
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            batch.last,
            newest.timestamp / 1000.0,
            newest.timestamp_type,
            (),
            None,
            batch,
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def getmany(
        self,
        timeout: float,  # noqa: ASYNC109 (Faust's signature)
    ) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Yield the fetched messages, unless the flow was stopped meanwhile.

        Records dropped here are read again, because a seek follows every stop of the flow.

        Raises:
            BrokerError: records were dropped between aiokafka and this method.
        """
        records, active = await self._wait_next_records(timeout)
        session = self._fetched
        if not records or self.should_stop:
            return
        for tp, fetched in self.scheduler.iterate(records):
            if not self.flow_active or self.session != session:
                return
            if active is not None and tp not in active and tp not in self._buffered_partitions:
                continue
            expected = self._expected.get(tp)
            # control batches may have been skipped already: then the records start before them
            if (
                isinstance(fetched, FetchedRecords)
                and expected is not None
                and not fetched.start <= expected <= fetched[0].offset
            ):
                await self._check_gap(tp, fetched.start)
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            yield tp, self._to_message(tp, fetched)

    async def _check_gap(self, tp: TP, start: int) -> None:
        """Report a gap before *start* as lost if Kafka has deleted the records, else raise."""
        identities = await self.identities({tp.topic})
        if identities is not None:
            self._flow.identify(identities)
        if self._flow.is_refused(tp):
            return  # the topic was made anew: no agent takes anything of it
        expected = self._expected[tp]
        low = (await self.earliest_offsets(tp))[tp]
        if not expected < start <= low:
            raise BrokerError(
                f"{tp.topic}/{tp.partition} was read up to {expected}, then from {start}",
                hint="nothing is lost: a restarted worker continues from the lake; please report "
                "this",
            )
        self._flow.lost(tp, start - expected)

    async def _wait_next_records(
        self,
        timeout: float,  # noqa: ASYNC109 (Faust's signature)
    ) -> tuple[Mapping[TP, list[Any]] | None, set[TP] | None]:
        """Return the next records after a short wait at most, none while the flow is stopped."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
            return {}, set()
        if not self._get_active_partitions():
            await self.sleep(PAUSE_S)
            return {}, set()
        records: tuple[Mapping[TP, list[Any]] | None, set[TP] | None]
        records = await super()._wait_next_records(min(timeout, FETCH_WAIT_MS / 1000))
        return records

    def _new_offset(self, tp: TP) -> int | None:
        """Return the offset to commit for the group: that of the lake, not of Faust's acks."""
        if not self.is_batched(tp.topic):
            offset: int | None = super()._new_offset(tp)
            return offset
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return self._flow.committed(tp)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if not self.is_batched(tp.topic):
            await super()._add_gap(tp, offset_from, offset_to)


class BatchTransport(driver.Transport):  # type: ignore[misc]  # Faust is not typed
    """The transport of broker addresses `batch://`; set `flow` before the app starts."""

    Consumer = BatchConsumer
    flow: Flow | None = None
