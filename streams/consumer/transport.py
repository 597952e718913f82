"""Batches as Faust events: one fetched run of records of one partition is one message.

Faust spends about 70 us of Python on each event, whatever it is told; so an event of ours is a
whole run of records, and Faust's group, rebalancing, agents, supervision and life cycle come at no
cost per record. Reached as `batch://host:port` through the entry point `faust.transports`.

It knows neither loops nor the lake. Where a partition starts and how far its work is safe is asked
of a `Progress`, because that truth is not in Kafka: the group's offsets are written for operators'
tools alone. It overrides private names of faust-streaming and aiokafka; tests/streams/
test_transport.py pins each of them, so that an upgrade fails there and not in production.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Protocol

import faust
from faust.transport.drivers import aiokafka as driver
from faust.transport.utils import DefaultSchedulingStrategy
from faust.types import TP, ConsumerMessage, Message

from tidemill.errors import BrokerError
from tidemill.streams.consumer.batches import FetchedBatch
from tidemill.streams.consumer.fetch_thread import FETCH_WAIT_MS, BatchThread
from tidemill.streams.consumer.prefetch import FetchedRecords

PAUSE_S = 0.02  # how long to wait when every partition is held back by a full queue


class Progress(Protocol):
    """What the transport has to ask: where to start, and up to where everything is safe."""

    async def positions(self, tps: Iterable[TP]) -> Mapping[TP, int | None]:
        """Return the next offset of each partition; None: nothing was ever read of it."""

    def settled(self, tp: TP) -> int | None:
        """Return the offset up to which (exclusive) nothing is needed from Kafka any more."""

    def is_ahead(self, tp: TP) -> bool:
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

    @property
    def progress(self) -> Progress:
        """Who knows where partitions start."""
        progress: Progress | None = self.transport.progress
        if progress is None:
            raise RuntimeError("set app.transport.progress before the app starts")
        return progress

    def is_batched(self, topic: str) -> bool:
        """Whether a channel of the app reads *topic* with a `BatchSchema`."""
        if topic not in self._batched:
            self._batched[topic] = any(
                topic in channel.topics and isinstance(channel.schema, BatchSchema)
                for channel in self.app.topics
            )
        return self._batched[topic]

    def delivered(self, tp: TP) -> int | None:
        """Return the offset after the last one handed to an agent since the last seek."""
        return self._delivered.get(tp)

    def has_more(self, tp: TP) -> bool:
        """Return whether there are records of *tp* that were not handed out, as Kafka last said."""
        known = self._thread.known(tp)
        return known is not None and known[0] < known[1]

    def is_through(self, tp: TP, received: int | None) -> bool:
        """Return whether nothing of *tp* is on its way to who has *received* all before an offset.

        Neither in Kafka, as of its last answer, nor fetched, nor handed out. Marks of transactions
        at the end do not count, nor what Kafka has deleted: nobody receives them.
        """
        known, delivered = self._thread.known(tp), self._delivered.get(tp)
        if known is None or received is None or delivered is None or known[0] < known[1]:
            return False
        return not self._is_under_way(tp) and received >= delivered

    def _is_under_way(self, tp: TP) -> bool:
        """Return whether the thread has handed out records of *tp* that no agent has yet."""
        ran_to: int = self._thread.ran_to(tp)
        return self._expected[tp] < ran_to

    def marks(self, tp: TP) -> tuple[int, int] | None:
        """Return the offsets, from and to, of marks behind everything handed out, if there are."""
        found = self._thread.marks(tp)
        if found is None or self._delivered.get(tp) is None:
            return None
        delivered = self._delivered[tp]
        return (delivered, found[1]) if found[0] <= delivered < found[1] else None

    def pass_marks(self, tp: TP, next: int) -> None:
        """Take note that nothing is waited for before *next*; batches go on from there."""
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
        wanted = {tp for tp in active_partitions or () if not self.progress.is_ahead(tp)}
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

    async def ends(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        """Return, for each of *tps*, the consumer's position and the end, asked of the broker.

        The position is past marks of transactions that no record will ever stand for. Partitions
        of which records are under way to an agent are left out.
        """
        places = list(tps)
        ends = await self.highwaters(*places)
        positions = {tp: await self.position(tp) or 0 for tp in places}
        return {
            tp: (positions[tp], end)
            for tp, end in ends.items()
            if tp in self._expected and not self._is_under_way(tp)
        }

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every batched partition to where `Progress` says; a new session begins."""
        async with self._fetching:
            assignment = self._assignment()
            starts = await self._seek()
            self._sought = assignment
        return starts

    async def _seek(self) -> Mapping[TP, int]:
        assigned = {tp for tp in self.assignment() if self.is_batched(tp.topic)}
        wanted = await self.progress.positions(assigned)
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
                self.progress.lost(tp, low - (offset or 0))
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
            # marks before the run may have been passed already: then it starts before them
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
        self.progress.lost(tp, start - expected)

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
        return self.progress.settled(tp)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if not self.is_batched(tp.topic):
            await super()._add_gap(tp, offset_from, offset_to)


class BatchTransport(driver.Transport):  # type: ignore[misc]  # Faust is not typed
    """What `batch://` in a broker address stands for; set `progress` before the app starts."""

    Consumer = BatchConsumer
    progress: Progress | None = None
