"""One loop in one worker: its partitions, from batches to commits.

Batches are taken on the event loop. When the `CommitSchedule` says so, a snapshot of everything
taken so far is committed in a thread: dead letters, decisions, feedback, examples, in that order.
Batches are taken meanwhile too, but only one commit cycle runs at a time.

Longer than 300 lines because claim, take, commit and release share one lock and the partitions that
are owned.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from itertools import product

from tidemill.errors import ContractError, LakeError
from tidemill.log_fields import log_fields
from tidemill.schemas.logs import Log
from tidemill.schemas.published import joined_topics
from tidemill.streams.commit.closed_lookup import begin_examining, recall_from
from tidemill.streams.commit.commit_cycle import CommitCycle
from tidemill.streams.commit.leases import Lease, claim
from tidemill.streams.commit.open_windows import OpenWindows
from tidemill.streams.commit.progress_table import ProgressTable
from tidemill.streams.commit.snapshot import PartitionSnapshot
from tidemill.streams.commit.topic_check import check_identity
from tidemill.streams.consumer.batches import FetchedBatch, merged
from tidemill.streams.consumer.log_position import LogPosition
from tidemill.streams.consumer.topic_ids import TopicIdentity
from tidemill.streams.deadletters.error_limit import ErrorLimit
from tidemill.streams.deadletters.report import DeadLetterReport
from tidemill.streams.deadletters.writer import DeadLetterSink
from tidemill.streams.join.checkpoints import Resume
from tidemill.streams.join.event_times import EventTimes
from tidemill.streams.join.idleness import IdleClock
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.placement import misplaced_in
from tidemill.streams.runtime.commit_schedule import Cadence, CommitSchedule
from tidemill.streams.runtime.copartitioning import CopartitioningCheck
from tidemill.streams.runtime.owned_partition import OwnedPartition
from tidemill.streams.runtime.partitions import LogReading, Partition
from tidemill.streams.runtime.prepared_loop import PreparedLoop
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.state.spill_store import SpillStore
from tidemill.streams.units import micros
from tidemill.streams.versions import VersionCheck

logger = logging.getLogger(__name__)


class _UnverifiedError(Exception):
    """It is not known that the topics are those that the lake has read from."""


class LoopRunner:
    """The work on one loop. All methods are called from one event loop."""

    def __init__(
        self,
        *,
        prepared: PreparedLoop,
        tables: Mapping[str, ProgressTable],
        dead_letters: DeadLetterSink,
        metrics: StreamMetrics,
        on_examples: Callable[[int], None],
        cadence: Cadence,
        newest: Callable[[], int],
        spill_files: SpillStore,
        accept_bad: datetime | None = None,
    ) -> None:
        """Work on *prepared*, with no partition yet.

        Args:
            prepared: the loop with its rules, label and decoders.
            tables: its tables in the lake, by name.
            dead_letters: where records that cannot be read are written.
            metrics: the counters of the worker.
            on_examples: is called with each new version of the table of examples.
            cadence: when commits are due.
            newest: returns the newest published version of the loop.
            spill_files: the store of open feedback and ids that do not fit the memory budget.
            accept_bad: unreadable records that Kafka had before do not count for `max_bad`.
        """
        loop = self.loop = prepared.loop
        self.rules = prepared.rules
        self.topics: dict[Log, str] = joined_topics(loop)
        self._tables = tables
        self._metrics = metrics
        self._report = DeadLetterReport(loop.loop, self.topics, metrics.dead)
        for log, topic in self.topics.items():  # counters that begin at zero
            metrics.lost.labels(topic)
            metrics.misplaced.labels(loop.loop, log)
        self._on_examples = on_examples
        self._accepted_until = -1 if accept_bad is None else micros(accept_bad) // 1000
        self._cadence = cadence
        self._now_s = cadence.clock
        self._schedule = CommitSchedule(cadence)
        self._versions = VersionCheck(loop, newest)
        self._cycle = CommitCycle(loop.loop, tables, dead_letters, metrics, cadence.patience_s)
        self._labels = prepared.labels
        self._told_failed = 0
        self._decoders = prepared.decoders
        self._windows = OpenWindows(
            loop=loop,
            rules=self.rules,
            tables=tables,
            spill_files=spill_files,
            metrics=metrics,
            join=self._join,
            patience_s=cadence.patience_s,
        )
        self._owned: dict[int, OwnedPartition] = {}
        self._lock = asyncio.Lock()
        self._may_be_open = False  # rows were taken since the last look for quiet logs
        self._has_work = False  # there may be something to commit; an idle loop is asked no more
        self._is_in_thread = False  # a snapshot is being made: nobody else may use the joins
        self.failed = False
        self.superseded = False
        self.refusal: ContractError | LakeError | None = None
        self.verify: Callable[[], Awaitable[bool]] | None = None

    def refuse(self, error: ContractError | LakeError) -> None:
        """Read and commit nothing any more, because of the topics or the lake: see *error*.

        Nothing since the last commit counts as read. Other loops of the worker go on.
        """
        self.failed = True
        self.refusal = self.refusal or error

    def identify(self, name: Log, identity: TopicIdentity) -> None:
        """Compare *identity* with that of the topic that the lake has read *name* from."""
        adopted = []
        for number, owned in self._owned.items():
            reading = owned.partition.readings[name]
            if reading.identity == identity:
                continue
            try:
                is_adopted = check_identity(self.loop.loop, owned.lease, name, identity)
            except ContractError as error:
                self.refuse(error)
                return
            reading.identity = identity
            adopted += [number] if is_adopted else []
        if adopted:
            logger.warning(
                "%s: the lake has read partitions %s of %s without ids; adopting topic id %s",
                *(self.loop.loop, adopted, identity.topic, identity.id),
            )

    @property
    def partitions(self) -> Collection[int]:
        """The numbers of the partitions owned."""
        return self._owned.keys()

    @property
    def is_closing(self) -> bool:
        """Whether windows are due whose examples are not committed yet."""
        return any(owned.due_since_s is not None for owned in self._owned.values())

    def position(self, log: Log, partition: int) -> LogPosition:
        """Return how far *log* was received, taken and committed; empty if it is not owned."""
        owned = self._owned.get(partition)
        return LogPosition() if owned is None else owned.position(log)

    def lost(self, log: Log, partition: int, records: int) -> None:
        """Record that Kafka deleted *records* before they were read: they do not count as gaps."""
        owned = self._owned.get(partition)
        if owned is not None:
            owned.partition.readings[log].gaps -= records

    def skip_control_batches(self, log: Log, partition: int, start: int, next: int) -> bool:
        """Move past control batches from *start* on, if *log* is taken up to there."""
        owned = self._owned.get(partition)
        is_skipped = owned is not None and owned.skip_control_batches(log, start, next)
        self._has_work |= is_skipped
        return is_skipped

    def behind(self, log: Log, partition: int) -> list[Log]:
        """Return the logs that *log* is more than `grace` ahead of in event time."""
        owned = self._owned.get(partition)
        return [] if owned is None else owned.behind(log)

    async def claim(self, partitions: Collection[int]) -> None:
        """Claim *partitions*, and recover their open windows from the lake.

        Raises:
            TidemillError: the lake refuses, or another worker keeps claiming.
        """
        async with self._lock:
            started = self._now_s()
            self._owned = await asyncio.to_thread(self._load, partitions)
            self._may_be_open = True
            self._metrics.partitions.labels(self.loop.loop).set(len(self._owned))
            if self._owned:
                logger.info(
                    "%s: owns partitions %s after %.2f s",
                    self.loop.loop,
                    sorted(self._owned),
                    self._now_s() - started,
                )

    async def release(self) -> None:
        """Commit everything taken, and drop all partitions.

        After an error nothing is committed: the next owner reads from the last commit on.
        """
        try:
            if not self.failed:
                await self.commit()
        finally:
            self._owned = {}
            self._windows.forget()
            self._metrics.partitions.labels(self.loop.loop).set(0)

    async def take(self, name: Log, batch: FetchedBatch) -> None:
        """Queue one batch, and take the queued batches once they are enough; commit if it is due.

        Raises:
            TidemillError: a commit failed.
        """
        owned = self._owned.get(batch.partition)
        if owned is None or self.superseded or self.refusal is not None:
            return  # its next owner reads it again, from the offset of the lake
        self._has_work = True
        owned.idle.read(name, self._now_s())
        owned.waiting[name].append(batch)
        labels = (self.loop.loop, name)
        self._metrics.records.labels(*labels).inc(len(batch))
        self._metrics.batches.labels(*labels).inc()
        if owned.waiting_rows(name) >= self._cadence.batch_records and not self._is_in_thread:
            self._take_waiting(owned, name)
        if self._schedule.is_full(self.pending_rows):
            await self.commit()
            self._schedule.note_full()

    def _take_waiting(self, owned: OwnedPartition, name: Log) -> None:
        """Take all queued batches of one log as one batch."""
        batches, owned.waiting[name] = owned.waiting[name], []
        self._may_be_open |= bool(batches)
        try:
            for batch in merged(batches):
                dead_letters = owned.partition.take(name, batch)
                if dead_letters is None:
                    self.superseded = True
                    return
                self._report.take(name, dead_letters)
                self._metrics.misplaced.labels(self.loop.loop, name).inc(
                    owned.partition.take_misplaced(name)
                )
        except ContractError as error:
            self.refuse(error)
            return
        except BaseException:
            self.failed = True
            raise
        owned.note_due(self._now_s())

    def is_due(self, is_caught_up: Callable[[], bool]) -> bool:
        """Return whether a commit cycle is due; *is_caught_up* says if a backlog has ended."""
        if not self._has_work or not self._owned or self.refusal is not None:
            return False
        if not self._schedule.is_due(is_caught_up):
            return False
        self._has_work = self.pending_rows > 0 or self.is_closing
        return self._has_work

    @property
    def waited_s(self) -> float:
        """How long the last commit cycle is ago."""
        return self._schedule.waited_s

    async def commit(self) -> None:
        """Take everything queued, and commit everything taken; return after the commits.

        Raises:
            FencedError: another worker owns one of the partitions now.
            LakeError: the lake still refuses after a while.
            BrokerError: dead letters were not acknowledged.
        """
        async with self._lock:
            owned = dict(self._owned)
            for each, name in product(owned.values(), self.loop.logs):
                if not self.superseded and self.refusal is None:
                    self._take_waiting(each, name)
            if self.refusal is not None:
                return
            due_s = [each.due_since_s for each in owned.values() if each.due_since_s is not None]
            started = self._now_s()
            try:
                with log_fields(loop=self.loop.loop):
                    version = await self._write(owned)
            except _UnverifiedError:
                return  # refused, or no broker answers: nothing since the last commit counts
            except BaseException:
                self.failed = True
                raise
            waited_s = self._schedule.waited_s
            self._schedule.note_committed()
        self._metrics.commit_interval.labels(self.loop.loop).set(waited_s)
        committed_s = self._schedule.committed_s
        self._metrics.commits.labels(self.loop.loop).observe(committed_s - started)
        if version is not None:
            for since_s in due_s:
                self._metrics.close_to_example.labels(self.loop.loop).observe(committed_s - since_s)
            self._on_examples(version)
        self._count_open()

    async def _write(self, owned: Mapping[int, OwnedPartition]) -> int | None:
        """Write snapshots of *owned*; return the new version of examples, None if none closed."""
        limits = await self._windows.closing()
        snapshots = await self._snapshots([each.partition for each in owned.values()], limits)
        # a list, not a generator: each partition has to record whether it has closed
        is_behind = [each.note_closed() for each in owned.values()]
        self._schedule.note_behind(any(is_behind))
        leases = {number: each.lease for number, each in owned.items()}
        version = await asyncio.to_thread(self._cycle.write, leases, snapshots)
        self._windows.committed(leases)
        return version

    async def _snapshots(
        self, partitions: Sequence[Partition], limits: Mapping[int, int]
    ) -> list[PartitionSnapshot]:
        """Return snapshots after a close up to *limits*; in a thread if it may read the lake.

        Nothing is taken between the question for the topics' ids and the snapshots, so the answer
        holds for all of their rows.
        """

        def snapshots() -> list[PartitionSnapshot]:
            return [partition.snapshot(limits.get(partition.number)) for partition in partitions]

        self._is_in_thread = True
        try:
            if partitions and self.verify is not None and not await self.verify():
                raise _UnverifiedError
            if not self.rules.corrections:
                return snapshots()
            return await asyncio.to_thread(snapshots)
        finally:
            self._is_in_thread = False

    def quiet_logs(self) -> list[tuple[Log, int]]:
        """Return the logs of partitions with open rows that had no records for `idle_after`."""
        if not self._may_be_open:
            return []
        now_s = self._now_s()
        open_ = {number: owned for number, owned in self._owned.items() if owned.is_open}
        self._may_be_open = bool(open_)
        return [
            (name, number) for number, owned in open_.items() for name in owned.idle.quiet(now_s)
        ]

    def advance_idle(self, at_end: Collection[tuple[Log, int]]) -> None:
        """Advance the time of idle logs that are *at_end*, where that closes a window."""
        for number, owned in self._owned.items() if not self._is_in_thread else ():
            its = [name for name, partition in at_end if partition == number]
            owned.advance_idle(its, self._now_s())
            self._has_work |= owned.due_since_s is not None

    def logs_before(self, until: datetime) -> list[tuple[Log, int]]:
        """Return the logs that must end before all decisions up to *until* are closed."""
        to = self.rules.closing_time(until)
        numbers = [number for number, owned in self._owned.items() if owned.is_before(to)]
        return [(name, number) for number in numbers for name in self.loop.logs]

    def end_logs(self, until: datetime, at_end: Collection[tuple[Log, int]]) -> None:
        """Close every decision up to *until* in partitions with all logs *at_end*."""
        to = self.rules.closing_time(until)
        for number, owned in self._owned.items() if not self._is_in_thread else ():
            if all((name, number) in at_end for name in self.loop.logs):
                owned.end_logs(to, self._now_s())
                self._has_work |= owned.due_since_s is not None

    @property
    def pending_rows(self) -> int:
        """How many records wait or are taken, and are not committed."""
        return sum(owned.pending_rows for owned in self._owned.values())

    def _count_open(self) -> None:
        joins = [owned.partition.join for owned in self._owned.values()]
        gauge = self._metrics.open
        gauge.labels(self.loop.loop, "decisions").set(sum(join.open_decisions for join in joins))
        gauge.labels(self.loop.loop, "feedback").set(sum(join.open_feedback for join in joins))
        if self.rules.has_items:
            unknown = sum(join.counts.unknown_item for join in joins)
            self._metrics.unknown_items.labels(self.loop.loop).set(unknown)
        self._metrics.labels_failed.labels(self.loop.loop).set(self._labels.failed)
        if self._labels.failed > 2 * self._told_failed:  # once, and again whenever they doubled
            self._told_failed = self._labels.failed
            logger.warning(
                "%s: the label of %d decisions is an error; they are examples without label, "
                "label_error. One is %s",
                *(self.loop.loop, self._labels.failed, self._labels.last_error),
                extra={"loop": self.loop.loop, "decision_id": self._labels.last_failed_id},
            )

    def _load(self, partitions: Collection[int]) -> dict[int, OwnedPartition]:
        """Claim *partitions* and recover them; blocks."""
        leases = claim(
            self._tables,
            partitions,
            self.loop.version,
            logs=self.loop.logs,
            patience_s=self._cadence.patience_s,
        )
        if self.rules.corrections:
            begin_examining(self._tables, leases)
        joins = self._windows.recover(leases)
        return {number: self._own(lease, joins[number]) for number, lease in leases.items()}

    def _own(self, lease: Lease, join: PartitionJoin) -> OwnedPartition:
        readings = {name: self._reading(lease, name) for name in self.loop.logs}
        partition = Partition(
            number=lease.partition,
            join=join,
            readings=readings,
            times=EventTimes(max_skew=self.loop.max_skew, max_age=self.loop.max_age),
            versions=self._versions,
            keys=CopartitioningCheck(
                topics=self.topics,
                partition=lease.partition,
                partitions=self.loop.partitions,
                limit=self.loop.max_bad,
            ),
        )
        return OwnedPartition(
            partition=partition,
            lease=lease,
            idle=IdleClock(readings, self.loop.idle_after, self._now_s()),
            waiting={name: [] for name in readings},
            rules=self.rules,
        )

    def _reading(self, lease: Lease, name: Log) -> LogReading:
        """Return the reading of *name* from the lake's offset on, 0 for a log new to the lake."""
        offset = lease.offset(name)
        bad = lease.of(name, "bad") or 0
        return LogReading(
            topic=self.topics[name],
            decoder=self._decoders[name],
            error_limit=ErrorLimit(
                self.loop.max_bad, next=offset, bad=bad, accepted_until=self._accepted_until
            ),
            next=offset,
            dead=lease.of(name, "dead") or 0,
            gaps=lease.of(name, "holes") or 0,
        )

    def _join(self, number: int, resume: Resume, state: OpenState) -> PartitionJoin:
        recall = recall_from(self._tables, number, self.rules)
        return PartitionJoin(
            self.rules,
            resume,
            labels=self._labels,
            recall=recall,
            state=state,
            is_misplaced=misplaced_in(number, self.loop.partitions),
        )
