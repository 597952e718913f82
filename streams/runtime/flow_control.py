"""Flow control: where logs continue, which of them wait for others, and which are at their end.

The transport and the agents share one `FlowControl`, so that neither depends on the other. It
combines the fetched positions of the transport with the positions of the loop that owns a log.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from faust.types import TP

from tidemill.schemas.logs import Log
from tidemill.streams.commit.topic_check import ended_early, made_anew
from tidemill.streams.consumer.batches import FetchedBatch
from tidemill.streams.consumer.log_position import LogPosition
from tidemill.streams.consumer.topic_ids import TopicIdentity
from tidemill.streams.consumer.transport import FetchState
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.runtime.commit_schedule import BATCH_RECORDS
from tidemill.streams.runtime.loop_runner import LoopRunner

logger = logging.getLogger(__name__)

SILENT_S = 2.0  # after a question for ids without an answer, none is asked for so long
CHECKED_AT_ONCE = 50  # loops whose topics are compared in one pass, while nothing is committed
IN_FLIGHT = 2 * BATCH_RECORDS  # records of one log that wait in queues, plus one batch at most


@dataclass(frozen=True, slots=True)
class Asking:
    """A question for the ids of *topics* that is not sent yet, and its *answer*."""

    answer: "asyncio.Future[bool]"
    topics: set[str] = field(default_factory=set)


class FlowControl:
    """The positions of all logs of a worker's loops. All methods are called from one event loop."""

    def __init__(self, runners: Sequence[LoopRunner], metrics: StreamMetrics) -> None:
        self._metrics = metrics
        self._runners = runners
        self._identities: dict[str, TopicIdentity] = {}  # of the topics, when they were seen first
        self._silent_until_s = 0.0
        self._asking: Asking | None = None  # the next question for ids
        self._one_at_a_time = asyncio.Lock()  # a question waits for the answer to the one before
        self._checked = 0  # runners, in turns
        self._gone: set[str] = set()  # topics that were missing at the last question
        self._logs: dict[str, tuple[LoopRunner, Log]] = {
            topic: (runner, name) for runner in runners for name, topic in runner.topics.items()
        }
        self._backlogs: set[tuple[str, Log]] = set()  # logs with records that wait to be re-keyed
        self._control_batches: dict[TP, tuple[int, int]] = {}
        self._fetches: FetchState | None = None
        for runner in runners:
            runner.verify = partial(self.verify, runner)

    def attach(self, fetches: FetchState) -> None:
        """Set the transport's consumer, which calls this when it starts."""
        self._fetches = fetches

    async def positions(self, tps: Iterable[TP]) -> Mapping[TP, int | None]:
        """Return the next offset of each owned partition, as the lake had it at the claim."""
        taken = {tp: self._owned(tp).taken for tp in tps}
        return {tp: offset for tp, offset in taken.items() if offset is not None}

    def committed(self, tp: TP) -> int | None:
        """Return the offset that is committed to the lake."""
        return self._owned(tp).committed

    def has_to_wait(self, tp: TP) -> bool:
        """Return whether *tp* has to wait: for its own batches to be taken, or for another log.

        A log that is ahead in event time would only fill memory. It waits while a log that is
        behind has records to catch up with.
        """
        runner, name = self._logs[tp.topic]
        position = self.position(tp)
        if position.taken is None or runner.refusal is not None:
            return True  # not owned: its owner reads it
        if position.queued >= IN_FLIGHT:
            return True
        return any(
            self.position(TP(runner.topics[other], tp.partition)).has_more
            or (runner.loop.loop, other) in self._backlogs
            for other in runner.behind(name, tp.partition)
        )

    def is_refused(self, tp: TP) -> bool:
        """Return whether nothing of *tp* is taken any more."""
        return self._logs[tp.topic][0].refusal is not None

    def identify(self, identities: Mapping[str, TopicIdentity | None]) -> None:
        """Compare *identities* with those that the lake has read from; refuse loops that differ."""
        for topic, identity in identities.items():
            runner, name = self._logs[topic]
            if identity is None:
                continue
            before = self._identities.setdefault(topic, identity)
            if before != identity:  # its partitions may be nobody's, since it was gone
                runner.refuse(made_anew(runner.loop.loop, before, identity))
            runner.identify(name, identity)

    def ends_too_early(self, tp: TP, end: int) -> None:
        """Refuse the loop of *tp*, which ends before the offset that the lake has read up to."""
        runner, _ = self._logs[tp.topic]
        runner.refuse(
            ended_early(runner.loop.loop, tp.topic, tp.partition, end, self.committed(tp))
        )

    async def verify(self, runner: LoopRunner) -> bool:
        """Return whether the topics of *runner* are still those that the lake has read from.

        The broker is asked now, so it holds for everything that was fetched before. Loops that ask
        at the same time share one request, which is sent after the last of them has asked. If the
        broker has just not answered, it is not asked: a stop would take so long for each loop.
        """
        if self._fetches is None or time.monotonic() < self._silent_until_s:
            return False
        if self._asking is None:
            self._asking = Asking(asyncio.ensure_future(self._ask()))
        self._asking.topics.update(runner.topics.values())
        is_answered = await asyncio.shield(self._asking.answer)
        is_there = self._gone.isdisjoint(runner.topics.values())
        return is_answered and is_there and runner.refusal is None

    async def _ask(self) -> bool:
        """Ask for the ids of the topics that were wanted until now; False without an answer."""
        async with self._one_at_a_time:
            asking, self._asking = self._asking, None  # who comes from now on asks again
            if asking is None or self._fetches is None:
                return False
            found = await self._fetches.identities(asking.topics)
        if found is None:
            self._silent_until_s = time.monotonic() + SILENT_S
            return False
        self.identify(found)
        missing = asking.topics - found.keys()
        for topic in missing - self._gone:
            logger.error(
                "there is no topic %s any more: nothing of %s is committed\n"
                "  hint: restore the topic, or stop the worker of this loop",
                *(topic, self._logs[topic][0].loop.loop),
            )
        self._gone = (self._gone - asking.topics) | missing
        return True

    async def check_topics(self) -> None:
        """Refuse the loops whose topics were made anew, or end before what the lake has.

        Large fleets are checked in turns: each commit is preceded by such a check anyway.
        """
        running = [runner for runner in self._runners if runner.refusal is None]
        if not running:
            return
        first = self._checked % len(running)
        turn = running[first : first + CHECKED_AT_ONCE]
        self._checked = first + CHECKED_AT_ONCE
        await asyncio.gather(*(self.verify(runner) for runner in turn))
        await self._check_ends(turn)

    async def _check_ends(self, runners: Sequence[LoopRunner]) -> None:
        """Compare the ends of all logs; brokers without ids tell a new topic only by them."""
        tps = [
            TP(topic, n)
            for runner in runners
            if runner.refusal is None
            for topic in runner.topics.values()
            for n in runner.partitions
        ]
        ends = await self._fetches.ends(tps) if tps and self._fetches is not None else {}
        for tp, (_position, end) in ends.items():
            committed = self.committed(tp)
            if committed is not None and end < committed:
                self.ends_too_early(tp, end)

    def lost(self, tp: TP, records: int) -> None:
        """Count and log *records* that Kafka deleted before they were read."""
        runner, name = self._logs[tp.topic]
        runner.lost(name, tp.partition, records)
        self._metrics.lost.labels(tp.topic).inc(records)
        logger.error(
            "%d records of %s/%d were deleted by Kafka before they were read\n"
            "  hint: lengthen the topic's retention.ms, or run more workers",
            records,
            tp.topic,
            tp.partition,
            extra={"loop": runner.loop.loop, "partition": tp.partition},
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

    def is_caught_up(self, runner: LoopRunner) -> bool:
        """Return whether *runner* has received all records that Kafka has for it."""
        return all(
            self.position(TP(topic, number)).is_received
            for topic in runner.topics.values()
            for number in runner.partitions
        )

    def set_backlog(self, loop_name: str, log: Log, has_backlog: bool) -> None:
        """Record whether feedback of *log* waits to be re-keyed: then the log does not end."""
        change = self._backlogs.add if has_backlog else self._backlogs.discard
        change((loop_name, log))

    def skip_control_batches(self) -> None:
        """Skip control batches at the end of logs if no record has followed since the last call.

        Otherwise the logs would lag by these batches for ever.
        """
        fetches, pending = self._fetches, {}
        if fetches is None:
            return
        for tp in fetches.with_control_batches():
            runner, name = self._logs[tp.topic]
            control = fetches.control_batches(tp) if tp.partition in runner.partitions else None
            if control is None:
                continue
            pending[tp] = control
            is_old = self._control_batches.get(tp) == control
            if is_old and runner.skip_control_batches(name, tp.partition, *control):
                fetches.skip_control_batches(tp, control[1])
        self._control_batches = pending

    async def at_end(
        self, logs: Mapping[str, Collection[tuple[Log, int]]]
    ) -> dict[str, set[tuple[Log, int]]]:
        """Return those of *logs*, by loop, whose records are all taken, by the broker's ends.

        Records that arrive during the request are noticed: the positions are compared after it.
        """
        asked = {
            TP(runner.topics[name], number): (runner.loop.loop, (name, number))
            for runner in self._runners
            for name, number in logs.get(runner.loop.loop, ())
            if (runner.loop.loop, name) not in self._backlogs
        }
        found: dict[str, set[tuple[Log, int]]] = {loop_name: set() for loop_name in logs}
        if not asked or self._fetches is None:
            return found
        before = {tp: self._owned(tp).taken for tp in asked}
        ends = await self._fetches.ends(asked)
        for tp, (loop_name, log) in asked.items():
            if tp in ends and ends[tp][0] >= ends[tp][1] and self._is_unchanged(tp, before[tp]):
                found[loop_name].add(log)
        return found

    def _is_unchanged(self, tp: TP, taken: int | None) -> bool:
        """Return whether *tp* is still taken up to *taken*, and nothing more was handed out."""
        position = self.position(tp)
        return position.handed_out == position.taken == taken

    def _owned(self, tp: TP) -> LogPosition:
        runner, name = self._logs[tp.topic]
        return runner.position(name, tp.partition)
