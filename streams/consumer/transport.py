"""Batches as Faust events: one fetched run of records of one partition is one message.

Faust spends about 70 us of Python on each event, whatever it is told; so an event of ours is a
whole run of records, and Faust's group, rebalancing, agents, supervision and life cycle come at no
cost per record. Reached as `batch://host:port` through the entry point `faust.transports`.

Where a partition starts and how far its work is safe is asked of a `Flow`, because that truth is
not in Kafka: the group's offsets are written for operators' tools alone. This module overrides
private names of faust-streaming and aiokafka; tests/streams/consumer/test_transport.py pins each
of them, so that an upgrade fails there and not in production.
"""

import asyncio
import logging
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

logger = logging.getLogger(__name__)

PAUSE_S = 0.02  # how long to wait when every partition is held back by a full queue


class FetchState(Protocol):
    """What the transport knows of the logs it reads; `BatchConsumer` has it."""

    session: int
    """Raised by each seek: a batch of an earlier session is void."""

    def position_of(self, tp: TP) -> LogPosition:
        """Return how far *tp* was fetched and handed out."""

    def control_batches(self, tp: TP) -> tuple[int, int] | None:
        """Return the offsets, from and to, of control batches behind all that was handed out."""

    def skip_control_batches(self, tp: TP, next: int) -> None:
        """Go on at *next*: nothing before it is waited for."""

    async def ends(self, tps: Collection[TP]) -> dict[TP, tuple[int, int]]:
        """Return the consumer's position and the end of the log, asked of the broker."""


class Flow(Protocol):
    """What the transport has to ask: where to start, what waits, and up to where all is safe."""

    def attach(self, fetches: FetchState) -> None:
        """Be told who knows what is fetched."""

    async def positions(self, tps: Iterable[TP]) -> Mapping[TP, int | None]:
        """Return the next offset of each partition; None: nothing was ever read of it."""

    def committed(self, tp: TP) -> int | None:
        """Return the offset up to which (exclusive) nothing is needed from Kafka any more."""

    def has_to_wait(self, tp: TP) -> bool:
        """Return whether *tp* should wait for others, which have more to read."""

    def lost(self, tp: TP, records: int) -> None:
        """Be told that Kafka has deleted so many *records* of *tp* before they were read."""


class BatchSchema(faust.Schema):  # type: ignore[misc]  # Faust is not typed
    """Marks a topic as batched: its messages carry a `FetchedBatch`, which agents get as it is."""

    def loads_key(self, app: object, message: Message, **_options: object) -> None:
        """Return None: a batch has the keys of its records."""

    def loads_value(self, app: object, message: Message, **_options: object) -> FetchedBatch:
        """Return the batch of *message*."""
        batch: FetchedBatch = message.value
        return batch


class BatchScheduler(DefaultSchedulingStrategy):  # type: ignore[misc]  # Faust is not typed
    """Yield the records of batched topics as one run per partition, the others one by one."""

    def __init__(self, consumer: "BatchConsumer") -> None:
        self._consumer = consumer

    def iterate(self, records: Mapping[TP, list[Any]]) -> Iterator[tuple[TP, Any]]:
        """Return ``(tp, run)`` for batched topics first, then ``(tp, record)`` in round robin."""
        single = {}
        for tp, run in records.items():
            if self._consumer.is_batched(tp.topic):
                yield tp, run
            else:
                single[tp] = run
        yield from super().iterate(single)


class BatchConsumer(driver.Consumer):  # type: ignore[misc]  # Faust is not typed
    """Faust's consumer of aiokafka, delivering batches and seeking to where the lake says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (Faust's own)
        super().__init__(*args, **kwargs)
        self.scheduler = BatchScheduler(self)
        self.session = 0
        self._fetched = 0  # the session of the last fetch
        self._delivered: dict[TP, int] = {}
        self._expected: dict[TP, int] = {}
        self._batched: dict[str, bool] = {}
        self._fetching = asyncio.Lock()  # a fetch beside a seek may return what lies before it
        self._sought: object = None  # the assignment that the last seek was for
        flow: Flow | None = self.transport.flow
        if flow is None:
            raise RuntimeError("set app.transport.flow before the app starts")
        self._flow = flow
        flow.attach(self)

    def is_batched(self, topic: str) -> bool:
        """Whether a channel of the app reads *topic* with a `BatchSchema`."""
        if topic not in self._batched:
            self._batched[topic] = any(
                topic in channel.topics and isinstance(channel.schema, BatchSchema)
                for channel in self.app.topics
            )
        return self._batched[topic]

    def position_of(self, tp: TP) -> LogPosition:
        """Return how far *tp* was fetched and handed out, as of Kafka's last answer."""
        passed, end = self._thread.known(tp) or (None, None)
        return LogPosition(
            end=end,
            passed=passed,
            fetched=self._thread.ran_to(tp),
            awaited=self._expected.get(tp),
            handed_out=self._delivered.get(tp),
        )

    def control_batches(self, tp: TP) -> tuple[int, int] | None:
        """Return the offsets, from and to, of control batches behind all that was handed out."""
        found = self._thread.control_batches(tp)
        handed_out = self._delivered.get(tp)
        if found is None or handed_out is None:
            return None
        return (handed_out, found[1]) if found[0] <= handed_out < found[1] else None

    def skip_control_batches(self, tp: TP, next: int) -> None:
        """Go on at *next*: nothing before it is waited for."""
        self._delivered[tp] = self._expected[tp] = next

    async def _getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 (Faust's signature)
    ) -> Mapping[TP, list[Any]]:
        """Fetch, but leave partitions that are ahead of their like where they are.

        After a new assignment nothing is fetched before the seek that follows it: when rebalances
        overlap, Faust resumes the flow after the first one, where the second is not done.
        """
        wanted = {tp for tp in active_partitions or () if not self._flow.has_to_wait(tp)}
        async with self._fetching:
            if wanted and self._assignment() is self._sought:
                found: Mapping[TP, list[Any]] = await self._thread.getmany(wanted, timeout)
                if self._assignment() is self._sought:
                    self._fetched = self.session
                    return found
        await self.sleep(PAUSE_S)
        return {}

    def _assignment(self) -> object:
        """Return what aiokafka is assigned now: another object after each rebalance."""
        subscription = self._thread._ensure_consumer()._subscription.subscription
        return None if subscription is None else subscription.assignment

    async def ends(self, tps: Collection[TP]) -> dict[TP, tuple[int, int]]:
        """Return, for each of *tps*, the consumer's position and the end, asked of the broker.

        The position is past control batches that no record will ever stand for. Partitions of
        which records are under way to an agent are left out, all of them if no broker answers.
        """
        try:
            ends = await self.highwaters(*tps)
            positions = {tp: await self.position(tp) or 0 for tp in tps}
        except (KafkaError, TimeoutError) as error:
            logger.info("the ends of quiet logs are not known, they stay as they are: %s", error)
            return {}
        return {
            tp: (positions[tp], end)
            for tp, end in ends.items()
            if tp in self._expected and not self.position_of(tp).is_under_way
        }

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every batched partition to where the `Flow` says; a new session begins."""
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
        """Compare with what Kafka still has, for it would start elsewhere without a word.

        Returns:
            where the work goes on, and where the log begins.
        """
        lows = await self.earliest_offsets(*wanted)
        highs = await self._thread.call_thread(
            self._thread._ensure_consumer().end_offsets, list(wanted)
        )
        starts = {}
        for tp, offset in wanted.items():
            low, high = lows[tp], highs[tp]
            if offset is not None and offset > high:
                raise BrokerError(
                    f"{tp.topic}/{tp.partition} ends at {high}, the lake has read up to {offset}",
                    hint="the topic was made anew or cut: give the loop a new name, or restore it",
                )
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
        """Yield what was fetched, unless the flow was stopped meanwhile.

        What is dropped here is read again: a seek follows every stop of the flow.

        Raises:
            BrokerError: records were dropped elsewhere, on the way from aiokafka to here.
        """
        records, active = await self._wait_next_records(timeout)
        session = self._fetched
        if not records or self.should_stop:
            return
        for tp, run in self.scheduler.iterate(records):
            if not self.flow_active or self.session != session:
                return
            if active is not None and tp not in active and tp not in self._buffered_partitions:
                continue
            expected = self._expected.get(tp)
            # control batches before the run may have been skipped: then it starts before them
            if (
                isinstance(run, FetchedRecords)
                and expected is not None
                and not run.start <= expected <= run[0].offset
            ):
                await self._look_into_gap(tp, run.start)
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            yield tp, self._to_message(tp, run)

    async def _look_into_gap(self, tp: TP, start: int) -> None:
        """Tell records that Kafka has deleted from records that were dropped by mistake."""
        expected = self._expected[tp]
        low = (await self.earliest_offsets(tp))[tp]
        if not expected < start <= low:
            raise BrokerError(
                f"{tp.topic}/{tp.partition} was read up to {expected}, then from {start}",
                hint="nothing is lost: a restarted worker goes on where the lake ends; please "
                "report this",
            )
        self._flow.lost(tp, start - expected)

    async def _wait_next_records(
        self,
        timeout: float,  # noqa: ASYNC109 (Faust's signature)
    ) -> tuple[Mapping[TP, list[Any]] | None, set[TP] | None]:
        """Return what there is soon, but nothing that was asked for in another session."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
            return {}, set()
        if not self._get_active_partitions():
            await self.sleep(PAUSE_S)
            return {}, set()
        found: tuple[Mapping[TP, list[Any]] | None, set[TP] | None]
        found = await super()._wait_next_records(min(timeout, FETCH_WAIT_MS / 1000))
        return found

    def _new_offset(self, tp: TP) -> int | None:
        """Return the position to write for the group: what the lake has, not what was acked."""
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
    """What `batch://` in a broker address stands for; set `flow` before the app starts."""

    Consumer = BatchConsumer
    flow: Flow | None = None
