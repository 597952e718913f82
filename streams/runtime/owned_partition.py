"""One partition that this worker owns: its lease, its queued batches, and its idle advances."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from tidemill.schemas.logs import Log
from tidemill.streams.commit.leases import Lease
from tidemill.streams.consumer.batches import FetchedBatch
from tidemill.streams.consumer.log_position import LogPosition
from tidemill.streams.join.idleness import IdleClock, frontier_at
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.runtime.partitions import Partition
from tidemill.streams.units import micros


@dataclass(slots=True, kw_only=True)
class OwnedPartition:
    """A partition with its lease, the batches *waiting* to be taken, and the clock of idle logs."""

    partition: Partition
    lease: Lease
    idle: IdleClock
    waiting: dict[Log, list[FetchedBatch]]
    rules: JoinRules
    due_since_s: float | None = None  # when a close became due that is not committed yet

    @property
    def is_open(self) -> bool:
        """Whether decisions or feedback wait for their windows to close."""
        join = self.partition.join
        return bool(join.open_decisions or join.open_feedback)

    @property
    def pending_rows(self) -> int:
        """How many records wait or are taken, and are not committed."""
        return self.partition.pending_rows + sum(map(self.waiting_rows, self.waiting))

    def waiting_rows(self, log: Log) -> int:
        """Return how many records of *log* wait to be taken."""
        return sum(len(batch) for batch in self.waiting[log])

    def position(self, log: Log) -> LogPosition:
        """Return how far *log* was received, taken and committed."""
        taken = self.partition.readings[log].next
        waiting = self.waiting[log]
        return LogPosition(
            received=waiting[-1].next if waiting else taken,
            taken=taken,
            committed=self.lease.of(log, "offset"),
        )

    def skip_control_batches(self, log: Log, start: int, next: int) -> bool:
        """Skip control batches of *log* from *start* on, if it is taken up to there."""
        if self.waiting[log] or self.partition.readings[log].next != start:
            return False
        self.partition.skip_control_batches(log, start, next)
        return True

    def stream_times(self) -> dict[Log, datetime | None]:
        """Return the stream time of each log."""
        return {log: self.partition.stream_time(log) for log in self.waiting}

    def behind(self, log: Log) -> list[Log]:
        """Return the logs that *log* is more than `grace` ahead of in event time.

        Windows close only when these logs catch up; rows read now would wait in memory for them.
        """
        times = self.stream_times()
        mine, grace = times.pop(log), self.rules.grace
        if mine is None:
            return []
        return [other for other, time in times.items() if time is None or mine - time > grace]

    def advance_idle(self, at_end: Collection[Log], now_s: float) -> None:
        """Advance the time of idle logs that are *at_end*, if that closes a window.

        An advance that closes nothing is left out, because each advance has to be committed.
        """
        idle = self.idle.quiet(now_s) & set(at_end)
        times = self.stream_times()
        targets = self.idle.targets(times, idle, now_s)
        after = [targets.get(name) or time for name, time in times.items()]
        if not targets or not self._closes(after):
            return
        for name, to in targets.items():
            self.partition.join.advance(name, to)
        if len(idle) == len(times):
            self.idle.advanced(now_s)
        self.note_due(now_s)

    def is_before(self, to: datetime) -> bool:
        """Return whether a log has not reached the stream time *to*."""
        return any(time is None or time < to for time in self.stream_times().values())

    def end_logs(self, to: datetime, now_s: float) -> None:
        """Advance the time of all logs to *to*."""
        for name in self.waiting:
            self.partition.join.advance(name, to)
        self.note_due(now_s)

    def note_due(self, now_s: float) -> None:
        """Record the time if a window has become due."""
        if self.due_since_s is None and self._closes(self.stream_times().values()):
            self.due_since_s = now_s

    def note_closed(self) -> bool:
        """Record that due windows were closed; return whether some are left for the next cycle."""
        is_behind = self.due_since_s is not None and self._closes(self.stream_times().values())
        if not is_behind:
            self.due_since_s = None
        return is_behind

    def _closes(self, times: Collection[datetime | None]) -> bool:
        """Return whether the stream times *times* close a window or end the wait of feedback."""
        if not self.is_open:
            return False
        known = [time for time in times if time is not None]
        if len(known) < len(times):
            return False
        closed = self.partition.join.frontier
        return closed is None or frontier_at(self.rules, min(known)) > micros(closed)
