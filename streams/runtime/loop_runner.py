"""One loop in one worker: its partitions, from batches to commits.

Batches are taken on the event loop. Once a second, or after so many rows, everything taken so far
is cut off and committed in a thread: dead letters, decisions, feedback, examples, in that order.
Taking goes on meanwhile, but never is there more than one commit at a time. It knows no Faust.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tidemill.schemas.logs import Log
from tidemill.schemas.published import joined_topics
from tidemill.streams.commit.closed_lookup import begin_examining, recall_from
from tidemill.streams.commit.commit_cycle import CommitCycle
from tidemill.streams.commit.open_windows import OpenWindows
from tidemill.streams.commit.transactions import PATIENCE_S, Lease, ProgressTable, claim
from tidemill.streams.consumer.batches import FetchedBatch, merged
from tidemill.streams.deadletters.error_limit import ErrorLimit
from tidemill.streams.deadletters.writer import DeadLetterSink
from tidemill.streams.join.checkpoints import Resume
from tidemill.streams.join.idleness import IdleClock, frontier_at
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.runtime.copartitioning import CopartitioningCheck
from tidemill.streams.runtime.partitions import LogReading, Partition, PartitionSnapshot
from tidemill.streams.runtime.prepared import PreparedLoop
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.state.spill import SpillStore
from tidemill.streams.units import micros
from tidemill.streams.versions import VersionCheck

log = logging.getLogger(__name__)

TOGETHER = 8_000  # so many records are decoded at once; fewer wait for more until the next commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """When work is due, how long it waits for a lake that refuses, and by which clock."""

    every_s: float = 1.0  # a commit of a table takes 12 ms and more; readers see rows this late
    rows: int = 120_000  # bounds what a crash repeats, and the memory of what is not committed
    together: int = TOGETHER  # so many records are decoded at once, or what a commit finds
    patience_s: float = PATIENCE_S  # a lake that refuses for longer ends the worker
    clock: Callable[[], float] = time.monotonic  # in seconds; it never goes back


@dataclass(slots=True)
class _OwnedPartition:
    """One partition this worker owns."""

    partition: Partition
    lease: Lease
    idle: IdleClock
    waiting: dict[Log, list[FetchedBatch]]
    due_since_s: float | None = None  # when stream time passed a close that is not yet committed

    def waiting_rows(self, log: Log) -> int:
        """Return how many records of *log* wait to be taken."""
        return sum(len(batch) for batch in self.waiting[log])

    def stream_times(self) -> dict[Log, datetime | None]:
        """Return how far the time of each log has come."""
        return {log: self.partition.stream_time(log) for log in self.waiting}


class LoopRunner:
    """The work on one loop. All methods are called from one event loop."""

    def __init__(
        self,
        prepared: PreparedLoop,
        tables: Mapping[str, ProgressTable],
        letters: DeadLetterSink,
        metrics: StreamMetrics,
        on_examples: Callable[[int], None],
        cadence: Cadence,
        newest: Callable[[], int],
        spill_files: SpillStore,
    ) -> None:
        loop = self.loop = prepared.loop
        self.rules = prepared.rules
        self.topics: dict[Log, str] = joined_topics(loop)
        self._tables = tables
        self._metrics = metrics
        self._on_examples = on_examples
        self._cadence = cadence
        self._now_s = cadence.clock
        self._versions = VersionCheck(loop, newest)
        self._rounds = CommitCycle(loop.loop, tables, letters, metrics, cadence.patience_s)
        self._labels = prepared.labels
        self._decoders = prepared.decoders
        self._windows = OpenWindows(
            loop, self.rules, tables, spill_files, metrics, self._join, cadence.patience_s
        )
        self._ahead = self.rules.grace
        self._held: dict[int, _OwnedPartition] = {}
        self._lock = asyncio.Lock()
        self._committed_s = self._now_s()
        self._is_cutting = False  # the joins are a thread's meanwhile
        self._is_behind = False  # windows are due that did not fit into the last round
        self._was_full = False  # the last round was due for its size, not for the time
        self.failed = False
        self.superseded = False

    @property
    def partitions(self) -> Collection[int]:
        """The numbers of the partitions held."""
        return self._held.keys()

    @property
    def is_closing(self) -> bool:
        """Whether windows are due whose examples are not committed yet."""
        return any(held.due_since_s is not None for held in self._held.values())

    def next_offset(self, log: Log, partition: int) -> int | None:
        """Return the offset up to which *log* was taken, or None if the partition is not held."""
        held = self._held.get(partition)
        return None if held is None else held.partition.readings[log].next

    def received(self, log: Log, partition: int) -> int | None:
        """Return the offset up to which *log* was taken or waits here; None if it is not held."""
        held = self._held.get(partition)
        if held is None:
            return None
        waiting = held.waiting[log]
        return waiting[-1].next if waiting else held.partition.readings[log].next

    def lost(self, log: Log, partition: int, records: int) -> None:
        """Take note that Kafka deleted *records* before they were read: they are no gaps."""
        held = self._held.get(partition)
        if held is not None:
            held.partition.readings[log].gaps -= records

    def pass_marks(self, log: Log, partition: int, start: int, next: int) -> bool:
        """Move past marks of transactions from *start* on, if *log* is taken up to there."""
        held = self._held.get(partition)
        if held is None or held.waiting[log] or held.partition.readings[log].next != start:
            return False
        held.partition.pass_marks(log, start, next)
        return True

    def settled(self, log: Log, partition: int) -> int | None:
        """Return the offset up to which *log* is committed to the lake."""
        held = self._held.get(partition)
        return None if held is None else held.lease.of(log, "offset")

    def behind(self, log: Log, partition: int) -> list[Log]:
        """Return the logs that *log* is more than `grace` ahead of in event time.

        Rows read now would wait in memory for these logs, which windows cannot close without.
        """
        held = self._held.get(partition)
        times = {} if held is None else held.stream_times()
        mine = times.pop(log, None)
        if mine is None:
            return []
        return [other for other, time in times.items() if time is None or mine - time > self._ahead]

    async def claim(self, partitions: Collection[int]) -> None:
        """Own *partitions*, and read back what the lake knows of them.

        Raises:
            TidemillError: the lake refuses, or another worker keeps claiming.
        """
        async with self._lock:
            started = self._now_s()
            self._held = await asyncio.to_thread(self._load, partitions)
            self._metrics.partitions.labels(self.loop.loop).set(len(self._held))
            if self._held:
                log.info(
                    "%s: owns partitions %s after %.2f s",
                    self.loop.loop,
                    sorted(self._held),
                    self._now_s() - started,
                )

    async def release(self) -> None:
        """Commit everything taken, and forget all partitions.

        After an error nothing is committed: the lake has what is whole, the next owner reads the
        rest again.
        """
        try:
            if not self.failed:
                await self.commit()
        finally:
            self._held = {}
            self._windows.forget()
            self._metrics.partitions.labels(self.loop.loop).set(0)

    async def take(self, name: Log, batch: FetchedBatch) -> None:
        """Read one batch; wait for the running commit if too much waits already.

        Raises:
            TidemillError: a commit that had become due failed.
        """
        held = self._held.get(batch.partition)
        if held is None or self.superseded:
            return  # whoever owns it next reads it from the lake's offset on
        held.idle.read(name, self._now_s())
        held.waiting[name].append(batch)
        labels = (self.loop.loop, name)
        self._metrics.records.labels(*labels).inc(len(batch))
        self._metrics.batches.labels(*labels).inc()
        if held.waiting_rows(name) >= self._cadence.together and not self._is_cutting:
            self._take_waiting(held, name)
        if self._pending_rows() >= self._cadence.rows:
            await self.commit()
            self._was_full = True

    def _take_waiting(self, held: _OwnedPartition, name: Log) -> None:
        """Take the batches of one log that came since the last time, as one."""
        batches, held.waiting[name] = held.waiting[name], []
        try:
            for batch in merged(batches):
                letters = held.partition.take(name, batch)
                if letters is None:
                    self.superseded = True
                    return
                for letter in letters:
                    self._metrics.dead.labels(self.loop.loop, name, letter.reason).inc()
        except BaseException:
            self.failed = True
            raise
        self._note_due(held, self._now_s())

    def is_due(self, is_caught_up: Callable[[], bool]) -> bool:
        """Whether it is time for a round of commits.

        After a full round the rest of a backlog does not wait, once all of it is here
        (*is_caught_up*): it is no small round of live traffic, which the interval is to prevent.
        """
        waited = self._is_behind or self._now_s() - self._committed_s >= self._cadence.every_s
        return (
            bool(self._held)
            and (self._pending_rows() > 0 or any(held.due_since_s for held in self._held.values()))
            and (waited or (self._was_full and is_caught_up()))
        )

    async def commit(self) -> None:
        """Commit everything taken so far; return when it is safe.

        Raises:
            FencedError: another worker owns one of the partitions now.
            LakeError: the lake still refuses after a while.
            BrokerError: dead letters were not acknowledged.
        """
        async with self._lock:
            held = dict(self._held)
            for item in held.values():
                for name in self.loop.logs:
                    if not self.superseded:
                        self._take_waiting(item, name)
            due_s = [item.due_since_s for item in held.values() if item.due_since_s is not None]
            started = self._now_s()
            try:
                limits = await self._windows.closing()
                cuts = await self._cut([item.partition for item in held.values()], limits)
                self._is_behind = False
                for item in held.values():
                    self._note_behind(item)
                leases = {number: item.lease for number, item in held.items()}
                version = await asyncio.to_thread(self._rounds.write, leases, cuts)
                self._windows.committed(leases)
            except BaseException:
                self.failed = True
                raise
            self._committed_s, self._was_full = self._now_s(), False
            self._metrics.commits.labels(self.loop.loop).observe(self._committed_s - started)
        if version is not None:
            for since_s in due_s:
                lag_s = self._committed_s - since_s
                self._metrics.close_to_example.labels(self.loop.loop).observe(lag_s)
            self._on_examples(version)
        self._count_open()

    async def _cut(
        self, partitions: Sequence[Partition], limits: Mapping[int, int]
    ) -> list[PartitionSnapshot]:
        """Close what is due up to *limits*; in a thread where that may read the lake."""

        def cut() -> list[PartitionSnapshot]:
            return [partition.cut(limits.get(partition.number)) for partition in partitions]

        if not self.rules.corrections:
            return cut()
        self._is_cutting = True
        try:
            return await asyncio.to_thread(cut)
        finally:
            self._is_cutting = False

    def quiet(self) -> list[tuple[Log, int]]:
        """Return the logs that may be idle: nothing read for a while, everything read is taken."""
        now_s = self._now_s()
        return [
            (name, number)
            for number, held in self._held.items()
            if held.partition.join.open_decisions or held.partition.join.open_feedback
            for name in held.idle.quiet(now_s)
        ]

    def advance_idle(self, at_end: Collection[tuple[Log, int]]) -> None:
        """Let time go on in the logs that are *at_end*, where that closes a window.

        An advance that closes nothing is not made: it would only have to be written down.
        """
        now_s = self._now_s()
        for number, held in self._held.items() if not self._is_cutting else ():
            join = held.partition.join
            idle = {name for name in held.idle.quiet(now_s) if (name, number) in at_end}
            times = held.stream_times()
            targets = held.idle.targets(times, idle, now_s)
            after = [targets.get(name) or time for name, time in times.items()]
            if not targets or not self._closes(held, after):
                continue
            for name, to in targets.items():
                join.advance(name, to)
            if len(idle) == len(times):
                held.idle.advanced(now_s)
            self._note_due(held, now_s)

    def going_on(self, until: datetime) -> list[tuple[Log, int]]:
        """Return the logs that would have to end so that decisions up to *until* are closed."""
        to = self.rules.closing_time(until)
        found = []
        for number, held in self._held.items():
            if any(time is None or time < to for time in held.stream_times().values()):
                found += [(name, number) for name in self.loop.logs]
        return found

    def end_logs(self, until: datetime, at_end: Collection[tuple[Log, int]]) -> None:
        """Close every decision up to *until* in partitions of which all logs are *at_end*."""
        to = self.rules.closing_time(until)
        for number, held in self._held.items() if not self._is_cutting else ():
            if all((name, number) in at_end for name in self.loop.logs):
                for name in self.loop.logs:
                    held.partition.join.advance(name, to)
                self._note_due(held, self._now_s())

    def _closes(self, held: _OwnedPartition, times: Collection[datetime | None]) -> bool:
        """Whether stream times of *times* close a window of *held*, or settle feedback."""
        join = held.partition.join
        if not (join.open_decisions or join.open_feedback):
            return False
        known = [time for time in times if time is not None]
        if len(known) < len(times):
            return False
        closed = join.frontier
        return closed is None or frontier_at(self.rules, min(known)) > micros(closed)

    def _note_due(self, held: _OwnedPartition, now_s: float) -> None:
        if held.due_since_s is None and self._closes(held, held.stream_times().values()):
            held.due_since_s = now_s

    def _note_behind(self, held: _OwnedPartition) -> None:
        """Keep the time since when a window is due that did not fit into this round."""
        times = held.stream_times().values()
        if held.due_since_s is not None and self._closes(held, times):
            self._is_behind = True
        else:
            held.due_since_s = None

    def _pending_rows(self) -> int:
        return sum(
            held.partition.pending_rows + sum(held.waiting_rows(name) for name in held.waiting)
            for held in self._held.values()
        )

    def _count_open(self) -> None:
        joins = [held.partition.join for held in self._held.values()]
        gauge = self._metrics.open
        gauge.labels(self.loop.loop, "decisions").set(sum(join.open_decisions for join in joins))
        gauge.labels(self.loop.loop, "feedback").set(sum(join.open_feedback for join in joins))
        self._metrics.labels_failed.labels(self.loop.loop).set(self._labels.failed)

    def _load(self, partitions: Collection[int]) -> dict[int, _OwnedPartition]:
        """Claim and read back; in a thread."""
        held = {}
        patience_s = self._cadence.patience_s
        leases = claim(
            self._tables,
            partitions,
            self.loop.version,
            logs=self.loop.logs,
            patience_s=patience_s,
        )
        if self.rules.corrections:
            begin_examining(self._tables, leases)
        joins = self._windows.recover(leases)
        for number, lease in leases.items():
            readings = {name: self._reading(lease, name) for name in self.loop.logs}
            keys = CopartitioningCheck(self.topics, number, self.loop.partitions)
            skew = self.loop.max_skew
            partition = Partition(number, joins[number], readings, skew, self._versions, keys)
            idle = IdleClock(readings, self.loop.idle_after, self._now_s())
            held[number] = _OwnedPartition(partition, lease, idle, {name: [] for name in readings})
        return held

    def _reading(self, lease: Lease, name: Log) -> LogReading:
        """Return how far the lake has *name*; a log that is new to it begins at offset 0."""
        offset = lease.offset(name)
        bad = lease.of(name, "bad") or 0
        return LogReading(
            topic=self.topics[name],
            decoder=self._decoders[name],
            share=ErrorLimit(self.loop.max_bad, next=offset, bad=bad),
            next=offset,
            dead=lease.of(name, "dead") or 0,
            gaps=lease.of(name, "holes") or 0,
        )

    def _join(self, number: int, resume: Resume, state: OpenState) -> PartitionJoin:
        recall = recall_from(self._tables, number, self.rules)
        return PartitionJoin(self.rules, resume, labels=self._labels, recall=recall, state=state)
