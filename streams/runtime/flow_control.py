"""Flow control: where logs go on, which of them wait for others, and which are at their end.

The transport and the agents are both given the same `FlowControl`, so that neither asks the other.
It combines what the transport knows of a log with what the loop that owns it knows.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from faust.types import TP

from tidemill.schemas.logs import Log
from tidemill.streams.consumer.batches import FetchedBatch
from tidemill.streams.consumer.log_position import LogPosition
from tidemill.streams.consumer.transport import FetchState
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.runtime.commit_schedule import TOGETHER
from tidemill.streams.runtime.loop_runner import LoopRunner

logger = logging.getLogger(__name__)

IN_FLIGHT = 2 * TOGETHER  # records of one log that wait in queues at most, and one batch more


class FlowControl:
    """The positions of all logs of a worker's loops. Called from one event loop."""

    def __init__(self, runs: Sequence[LoopRunner], metrics: StreamMetrics) -> None:
        self._metrics = metrics
        self._logs: dict[str, tuple[LoopRunner, Log]] = {
            topic: (run, name) for run in runs for name, topic in run.topics.items()
        }
        self._backlogs: set[tuple[str, Log]] = set()  # logs of which records wait to be re-keyed
        self._control_batches: dict[TP, tuple[int, int]] = {}
        self._fetches: FetchState | None = None

    def attach(self, fetches: FetchState) -> None:
        """Learn from the transport's consumer what was fetched; it calls this when it starts."""
        self._fetches = fetches

    async def positions(self, tps: Iterable[TP]) -> Mapping[TP, int | None]:
        """Return where each partition goes on: what the lake said when it was claimed."""
        taken = {tp: self._owned(tp).taken for tp in tps}
        return {tp: offset for tp, offset in taken.items() if offset is not None}

    def committed(self, tp: TP) -> int | None:
        """Return the offset that is committed to the lake."""
        return self._owned(tp).committed

    def has_to_wait(self, tp: TP) -> bool:
        """Return whether *tp* should wait: for its own batches to be taken, or for another log.

        A log that is ahead in event time would only fill memory: its rows wait for one that is
        behind, as long as that has records to catch up with.
        """
        run, name = self._logs[tp.topic]
        position = self.position(tp)
        if position.taken is None:
            return True  # not owned: its owner reads it
        if position.queued >= IN_FLIGHT:
            return True
        return any(
            self.position(TP(run.topics[other], tp.partition)).has_more
            or (run.loop.loop, other) in self._backlogs
            for other in run.behind(name, tp.partition)
        )

    def lost(self, tp: TP, records: int) -> None:
        """Tell operators that retention was shorter than the backlog."""
        run, name = self._logs[tp.topic]
        run.lost(name, tp.partition, records)
        self._metrics.lost.labels(tp.topic).inc(records)
        logger.error(
            "%d records of %s/%d were deleted by Kafka before they were read\n"
            "  hint: lengthen the topic's retention.ms, or run more workers",
            records,
            tp.topic,
            tp.partition,
        )

    def position(self, tp: TP) -> LogPosition:
        """Return how far *tp* has come, from the broker to the lake."""
        owned = self._owned(tp)
        if self._fetches is None:
            return owned
        return replace(
            self._fetches.position_of(tp),
            received=owned.received,
            taken=owned.taken,
            committed=owned.committed,
        )

    def log_of(self, batch: FetchedBatch) -> tuple[LoopRunner, Log] | None:
        """Return the loop and the log of *batch*; None if it was fetched before the last seek."""
        if self._fetches is None or batch.session != self._fetches.session:
            return None
        return self._logs[batch.topic]

    def is_caught_up(self, run: LoopRunner) -> bool:
        """Return whether *run* has received all records that Kafka has for it."""
        return all(
            self.position(TP(topic, number)).is_received
            for topic in run.topics.values()
            for number in run.partitions
        )

    def set_backlog(self, loop_name: str, log: Log, has_backlog: bool) -> None:
        """Record whether feedback of *log* waits to be re-keyed: then the log does not end."""
        change = self._backlogs.add if has_backlog else self._backlogs.discard
        change((loop_name, log))

    def skip_control_batches(self) -> None:
        """Move past control batches that no record has followed since the last call.

        Else the log would look unread by them for ever.
        """
        fetches, found = self._fetches, {}
        if fetches is None:
            return
        for topic, (run, name) in self._logs.items():
            for number in run.partitions:
                tp = TP(topic, number)
                control = fetches.control_batches(tp)
                if control is None:
                    continue
                found[tp] = control
                is_old = self._control_batches.get(tp) == control
                if is_old and run.skip_control_batches(name, number, *control):
                    fetches.skip_control_batches(tp, control[1])
        self._control_batches = found

    async def at_end(
        self, run: LoopRunner, logs: Iterable[tuple[Log, int]]
    ) -> set[tuple[Log, int]]:
        """Return those of *logs* of which everything there is was taken; the broker is asked.

        Whatever comes in while it answers is seen: it moves the offset that is looked at last.
        """
        asked = {
            TP(run.topics[name], number): (name, number)
            for name, number in logs
            if (run.loop.loop, name) not in self._backlogs
        }
        if not asked or self._fetches is None:
            return set()
        before = {tp: self._owned(tp).taken for tp in asked}
        ends = await self._fetches.ends(asked)
        return {
            log
            for tp, log in asked.items()
            if tp in ends and ends[tp][0] >= ends[tp][1] and self._stands(tp, before[tp])
        }

    def _stands(self, tp: TP, taken: int | None) -> bool:
        """Whether all that was handed out of *tp* is taken, and that is still up to *taken*."""
        position = self.position(tp)
        return position.handed_out == position.taken == taken

    def _owned(self, tp: TP) -> LogPosition:
        run, name = self._logs[tp.topic]
        return run.position(name, tp.partition)
