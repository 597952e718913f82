"""The Faust app of a streams worker: one agent per loop over all its topics, in batches.

Delivery: exactly once. Rows, offsets and frontier land in commits of the lake that are compared and
swapped (`transactions.py`); a crash before one repeats its batches, after it nothing. Dead letters
are the exception: acknowledged by the broker before the commit that moves past them, so a crash
between the two writes them twice. An agent that fails ends the process: Faust would go on behind
its back.

Partitions are claimed and their windows read back when a rebalance is complete, before anything is
fetched; they are committed and given up before the next one starts.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

import faust
from aiokafka.errors import KafkaError
from faust.types import TP

from tidemill.errors import ContractError
from tidemill.kafka import KafkaConfig
from tidemill.schemas.logs import Log, is_feedback
from tidemill.streams.consumer.app import GroupConfig, new_app
from tidemill.streams.consumer.batches import FetchedBatch
from tidemill.streams.consumer.transport import BatchSchema
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.rekey.rekeyer import Rekeyer, SourceEnd, keep_rekeying
from tidemill.streams.runtime.close_requests import EndOfStreamSource
from tidemill.streams.runtime.loop_runner import TOGETHER, LoopRunner

log = logging.getLogger(__name__)

IN_FLIGHT = 2 * TOGETHER  # records of one log that wait in queues at most, and one batch more
TICK_S = 0.1  # how often it is looked whether a commit is due
IDLE_TICK_S = 0.5  # how often quiet logs are compared with their end, one request each time


def whole(topics: Mapping[Log, str], assigned: Collection[TP]) -> set[int]:
    """Return the partitions of which all logs of a loop, read from *topics*, are *assigned*.

    While a new version adds a log, workers of the old one share the others, and the new log alone
    is assigned without them. It is left until they have taken the version up too.

    Raises:
        ContractError: decisions and feedback were assigned apart.
    """
    held = {
        name: {tp.partition for tp in assigned if tp.topic == topic}
        for name, topic in topics.items()
    }
    common = set.intersection(*held.values())
    for name, numbers in held.items():
        if numbers == common:
            continue
        told = f"partitions {sorted(numbers)} of {topics[name]} were assigned, but"
        if len(held) == 2:
            raise ContractError(
                f"{told} {sorted(common)} of both topics",
                hint="all topics of a loop need the same number of partitions, and all workers of "
                "a group the same loops",
            )
        log.warning("%s only %s of all: are there workers of another version?", told, common)
    return common


class StreamsApp:
    """The Faust app, and what connects it to the runs of its loops."""

    def __init__(
        self,
        kafka: KafkaConfig,
        group: GroupConfig,
        runs: Sequence[LoopRunner],
        metrics: StreamMetrics,
        closing: EndOfStreamSource,
        rekeying: Mapping[str, Callable[[Log], Rekeyer]] | None = None,
    ) -> None:
        """Connect *runs*; *rekeying* makes what re-keys a log of feedback, by the loop's name."""
        self._runs = runs
        self._rekeying = rekeying or {}
        self._sources = {
            (run.loop.loop, name): SourceEnd(kafka, run.loop, name)
            for run in runs
            if run.loop.rekey
            for name in run.topics
            if is_feedback(name)
        }
        self._backlogs: set[tuple[str, Log]] = set()  # logs of which records wait to be re-keyed
        self._metrics = metrics
        self._closing = closing
        self._places: dict[str, tuple[LoopRunner, Log]] = {
            topic: (run, name) for run in runs for name, topic in run.topics.items()
        }
        self.app = new_app(kafka, group)
        self.app.transport.progress = self
        self.app.on_rebalance_complete.connect(self._claim)
        self.app.on_partitions_revoked.connect(self._release)
        self.app.on_before_shutdown.connect(self._finish)
        for run in runs:
            self._add_agent(run)
        self.app.task(self._commit_in_time)
        self.app.task(self._watch_idle)
        for run in runs:
            if run.loop.loop in self._rekeying:
                for name in filter(is_feedback, run.topics):
                    self.app.task(partial(self._rekey, run, name))

    async def positions(self, tps: Iterable[TP]) -> Mapping[TP, int | None]:
        """Return where each partition goes on: what the lake said when it was claimed."""
        found = {}
        for tp in tps:
            run, name = self._places[tp.topic]
            offset = run.next_offset(name, tp.partition)
            if offset is not None:
                found[tp] = offset
        return found

    def settled(self, tp: TP) -> int | None:
        """Return the offset that is committed to the lake."""
        run, name = self._places[tp.topic]
        return run.settled(name, tp.partition)

    def is_ahead(self, tp: TP) -> bool:
        """Return whether *tp* should wait: for its own batches to be taken, or for another log.

        A log that is ahead in event time would only fill memory: its rows wait for one that is
        behind, as long as that has records to catch up with.
        """
        run, name = self._places[tp.topic]
        delivered = self.app.consumer.delivered(tp)
        taken = run.next_offset(name, tp.partition)
        if taken is None:
            return True  # not held: who holds it reads it
        if delivered is not None and delivered - taken >= IN_FLIGHT:
            return True
        behind = run.behind(name, tp.partition)
        return any(
            self.app.consumer.has_more(TP(run.topics[other], tp.partition))
            or (run.loop.loop, other) in self._backlogs
            for other in behind
        )

    def lost(self, tp: TP, records: int) -> None:
        """Tell operators that retention was shorter than the backlog."""
        run, name = self._places[tp.topic]
        run.lost(name, tp.partition, records)
        self._metrics.lost.labels(tp.topic).inc(records)
        log.error(
            "%d records of %s/%d were deleted by Kafka before they were read\n"
            "  hint: lengthen the topic's retention.ms, or run more workers",
            records,
            tp.topic,
            tp.partition,
        )

    def _add_agent(self, run: LoopRunner) -> None:
        topic = self.app.topic(
            *run.topics.values(),
            schema=BatchSchema(),
            # fewer, and one full queue starves the other logs
            maxsize=3 + len(run.topics) * run.loop.partitions,
        )

        async def work(stream: faust.StreamT) -> None:
            async for batch in stream:
                if batch.session == self.app.consumer.session:
                    await self._take(batch)

        self.app.agent(topic, name=f"tidemill.{run.loop.loop}")(work)

    async def _take(self, batch: FetchedBatch) -> None:
        run, name = self._places[batch.topic]
        await run.take(name, batch)

    async def _claim(self, _sender: object, **_more: object) -> None:
        """Own what was assigned, before anything of it is fetched."""
        assigned = self.app.consumer.assignment()
        for run in self._runs:
            await run.claim(whole(run.topics, assigned))

    async def _release(self, _sender: object, _revoked: Collection[TP], **_more: object) -> None:
        """Commit and give up everything: who owns it after the rebalance reads it back."""
        for run in self._runs:
            await run.release()

    async def _finish(self, _sender: object, **_more: object) -> None:
        if self.app.crashed:
            return
        for run in self._runs:
            await run.commit()
        await self.app.consumer.commit()
        for run in self._runs:
            await run.release()

    async def _commit_in_time(self) -> None:
        while not self.app.should_stop:
            await asyncio.sleep(TICK_S)
            for run in self._runs:
                if run.is_due(partial(self._is_caught_up, run)):
                    await run.commit()

    def _is_caught_up(self, run: LoopRunner) -> bool:
        """Return whether *run* has received all records that Kafka has for it."""
        return all(
            self.app.consumer.is_through(TP(topic, number), run.received(name, number))
            for name, topic in run.topics.items()
            for number in run.partitions
        )

    async def _watch_idle(self) -> None:
        marks: dict[TP, tuple[int, int]] = {}
        while not self.app.should_stop:
            await asyncio.sleep(IDLE_TICK_S)
            if self.app.rebalancing:
                continue
            marks = self._pass_marks(marks)
            await self._look_at_sources()
            for run in self._runs:
                await self._advance(run)

    async def _look_at_sources(self) -> None:
        """Find out which logs have feedback that waits to be re-keyed: they do not end."""
        held = {run.loop.loop for run in self._runs if run.partitions}
        for place, source in self._sources.items():
            if place[0] not in held:
                continue
            if await asyncio.to_thread(source.is_reached):
                self._backlogs.discard(place)
            else:
                self._backlogs.add(place)

    async def _rekey(self, run: LoopRunner, name: Log) -> None:
        """Re-key a log of *run* while partition 0 is held, which one worker does."""

        def superseded() -> None:
            run.superseded = True

        await keep_rekeying(
            partial(self._rekeying[run.loop.loop], name),
            lambda: 0 in run.partitions and not run.superseded and not self.app.should_stop,
            superseded,
        )

    def _pass_marks(self, before: Mapping[TP, tuple[int, int]]) -> dict[TP, tuple[int, int]]:
        """Move past marks of transactions that no record has followed since the last look.

        Else the log would look unread by them for ever. Returns those that are new.
        """
        found = {}
        for topic, (run, name) in self._places.items():
            for number in run.partitions:
                tp = TP(topic, number)
                marks = self.app.consumer.marks(tp)
                if marks is None:
                    continue
                found[tp] = marks
                if before.get(tp) == marks and run.pass_marks(name, number, *marks):
                    self.app.consumer.pass_marks(tp, marks[1])
        return found

    async def _advance(self, run: LoopRunner) -> None:
        """Let time go on in logs that are at their end, or end them if someone asked for it."""
        until = self._closing.wanted(run.loop.loop)
        going_on = run.going_on(until) if until is not None else []
        asked = {*run.quiet(), *going_on}
        asked = {place for place in asked if (run.loop.loop, place[0]) not in self._backlogs}
        at_end = await self._at_end(run, asked)
        if until is not None and going_on:
            run.end_logs(until, at_end)
        run.advance_idle(at_end)

    async def _at_end(
        self, run: LoopRunner, logs: Iterable[tuple[Log, int]]
    ) -> set[tuple[Log, int]]:
        """Return those of *logs* of which everything there is was taken; the broker is asked.

        Whatever comes in while it answers is seen: it moves the offset that is looked at last.
        """
        places = {TP(run.topics[name], number): (name, number) for name, number in logs}
        if not places:
            return set()
        before = {tp: run.next_offset(*place) for tp, place in places.items()}
        try:
            ends = await self.app.consumer.ends(places)
        except (KafkaError, TimeoutError) as error:
            log.info("the ends of quiet logs are not known, they stay as they are: %s", error)
            return set()
        return {
            place
            for tp, place in places.items()
            if tp in ends
            and ends[tp][0] >= ends[tp][1]
            and self.app.consumer.delivered(tp) == run.next_offset(*place) == before[tp]
        }
