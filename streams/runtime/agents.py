"""The Faust app of a streams worker: one agent per loop over all its topics, in batches.

Delivery: exactly once. Rows, offsets and frontier are in commits of the lake with compare-and-swap
(`commit/progress_commit.py`); a crash before a commit repeats its batches, a crash after it repeats
nothing. Dead letters are the exception: the broker acknowledges them before the commit that passes
their records, so a crash between the two writes them twice. An agent that fails ends the process:
Faust would acknowledge the batch and continue. Where the lake refuses, only its loop stops.

Partitions are claimed and recovered when a rebalance is complete, before anything is fetched. They
are committed and released before the next rebalance starts.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial

import faust
from faust.types import TP

from tidemill.errors import ContractError, FencedError, LakeError
from tidemill.kafka import KafkaConfig
from tidemill.schemas.logs import Log, is_feedback
from tidemill.streams.consumer.app import GroupConfig, new_app
from tidemill.streams.consumer.transport import BatchSchema
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.rekey.rekeyer import Rekeyer, keep_rekeying
from tidemill.streams.rekey.source_end import SourceEnd
from tidemill.streams.runtime.close_requests import EndOfStreamSource
from tidemill.streams.runtime.commit_schedule import SMALL_ROWS, Cadence, CommitTurns
from tidemill.streams.runtime.flow_control import FlowControl
from tidemill.streams.runtime.loop_runner import LoopRunner

logger = logging.getLogger(__name__)

TICK_S = 0.1  # how often to check whether a commit is due
TOPICS_TICKS = 10  # after how many of these ticks to compare the ids and ends of topics
IDLE_TICK_S = 0.5  # how often to compare quiet logs with their end, with one request to the broker


def complete_partitions(topics: Mapping[Log, str], assigned: Collection[TP]) -> set[int]:
    """Return the partitions with all logs of a loop, read from *topics*, *assigned*.

    When a new version adds a log, workers of the old version do not subscribe to it, so it may be
    assigned alone. Such a partition is left out until these workers have the new version too.

    Raises:
        ContractError: decisions and feedback were assigned to different workers.
    """
    by_log = {
        name: {tp.partition for tp in assigned if tp.topic == topic}
        for name, topic in topics.items()
    }
    common = set.intersection(*by_log.values())
    for name, numbers in by_log.items():
        if numbers == common:
            continue
        problem = f"partitions {sorted(numbers)} of {topics[name]} were assigned, but"
        if len(by_log) == 2:
            raise ContractError(
                f"{problem} {sorted(common)} of both topics",
                hint="all topics of a loop need the same number of partitions, and all workers of "
                "a group the same loops",
            )
        logger.warning("%s only %s of all: are there workers of another version?", problem, common)
    return common


async def _unless_refused(runner: LoopRunner, work: Awaitable[None]) -> None:
    """Do *work* of *runner*; if its tables refuse it, stop that loop: the lake has the others too.

    Raises:
        FencedError: another worker has taken over, which is about all loops of this one.
    """
    try:
        await work
    except FencedError:
        raise
    except LakeError as error:
        runner.refuse(error)


class StreamsApp:
    """The Faust app, connected to the runners of its loops."""

    def __init__(
        self,
        *,
        kafka: KafkaConfig,
        group: GroupConfig,
        runners: Sequence[LoopRunner],
        metrics: StreamMetrics,
        end_of_stream: EndOfStreamSource,
        cadence: Cadence,
        rekeying: Mapping[str, Callable[[Log], Rekeyer]] | None = None,
    ) -> None:
        """Connect *runners*; *rekeying* makes the re-keyer of a log of feedback, by loop name."""
        self._runners = runners
        self._rekeying = rekeying or {}
        self._sources = {
            (runner.loop.loop, name): SourceEnd(kafka, runner.loop, name)
            for runner in runners
            if runner.loop.rekey
            for name in runner.topics
            if is_feedback(name)
        }
        self._end_of_stream = end_of_stream
        self._flow = FlowControl(runners, metrics)
        self._turns = CommitTurns[LoopRunner](cadence)
        self.app = new_app(kafka, group)
        self.app.transport.flow = self._flow
        self.app.on_rebalance_complete.connect(self._claim)
        self.app.on_partitions_revoked.connect(self._release)
        self.app.on_before_shutdown.connect(self._finish)
        for runner in runners:
            self._add_agent(runner)
        self.app.task(self._commit_in_time)
        self.app.task(self._watch_idle)
        for runner in runners:
            if runner.loop.loop in self._rekeying:
                for name in filter(is_feedback, runner.topics):
                    self.app.task(partial(self._rekey, runner, name))

    def _add_agent(self, runner: LoopRunner) -> None:
        topic = self.app.topic(
            *runner.topics.values(),
            schema=BatchSchema(),
            # with a smaller queue, one log that fills it starves the others
            maxsize=3 + len(runner.topics) * runner.loop.partitions,
        )

        async def work(stream: faust.StreamT) -> None:
            async for batch in stream:
                owner = self._flow.log_of(batch)
                if owner is not None:
                    loop_runner, name = owner
                    await _unless_refused(loop_runner, loop_runner.take(name, batch))

        self.app.agent(topic, name=f"tidemill.{runner.loop.loop}")(work)

    async def _claim(self, _sender: object, **_more: object) -> None:
        """Claim the assigned partitions, before anything of them is fetched."""
        assigned = self.app.consumer.assignment()
        by_topic: dict[str, list[TP]] = {}
        for tp in assigned:
            by_topic.setdefault(tp.topic, []).append(tp)
        claims = []
        for runner in self._runners:
            its = [tp for topic in runner.topics.values() for tp in by_topic.get(topic, ())]
            try:
                complete = complete_partitions(runner.topics, its)
            except ContractError as error:
                runner.refuse(error)
                complete = set()
            claims.append(_unless_refused(runner, runner.claim(complete)))
        await asyncio.gather(*claims)

    async def _release(self, _sender: object, _revoked: Collection[TP], **_more: object) -> None:
        """Commit and release all partitions; their owners after the rebalance recover them."""
        await asyncio.gather(*(_unless_refused(each, each.release()) for each in self._runners))

    async def _finish(self, _sender: object, **_more: object) -> None:
        if self.app.crashed:
            return
        running = [each for each in self._runners if not each.failed]
        await asyncio.gather(*(_unless_refused(each, each.commit()) for each in running))
        await self.app.consumer.commit()
        await asyncio.gather(*(_unless_refused(each, each.release()) for each in self._runners))

    async def _commit_in_time(self) -> None:
        while not self.app.should_stop:
            await asyncio.sleep(TICK_S)
            due = [
                runner
                for runner in self._runners
                if runner.is_due(partial(self._flow.is_caught_up, runner))
            ]
            if due:
                await self._commit(self._turns.choose(due))

    async def _commit(self, chosen: Sequence[LoopRunner]) -> None:
        """Commit *chosen* together: they share one question to the broker, and the cores."""
        is_small = all(runner.pending_rows < SMALL_ROWS for runner in chosen)
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        await asyncio.gather(*(_unless_refused(runner, runner.commit()) for runner in chosen))
        took_s, took_cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
        if is_small:  # beside a busy loop it cannot be told what took the time
            self._turns.note_spent(min(took_s, took_cpu_s))

    async def _watch_idle(self) -> None:
        ticks = 0
        while not self.app.should_stop:
            await asyncio.sleep(IDLE_TICK_S)
            if self.app.rebalancing:
                continue
            ticks += 1
            if ticks % TOPICS_TICKS == 0:
                await self._flow.check_topics()
            self._flow.skip_control_batches()
            await self._check_sources()
            await self._advance()

    async def _check_sources(self) -> None:
        """Update which logs have feedback that waits to be re-keyed: they are not at their end."""
        if not self._sources:
            return
        owned = {runner.loop.loop for runner in self._runners if runner.partitions}
        for (loop_name, log), source in self._sources.items():
            if loop_name in owned:
                is_reached = await asyncio.to_thread(source.is_reached)
                self._flow.set_backlog(loop_name, log, not is_reached)

    async def _rekey(self, runner: LoopRunner, name: Log) -> None:
        """Re-key a log of *runner* while this worker owns partition 0, as only one worker does."""

        def superseded() -> None:
            runner.superseded = True

        def is_owner() -> bool:
            is_over = runner.superseded or runner.refusal is not None or self.app.should_stop
            return 0 in runner.partitions and not is_over

        try:
            await keep_rekeying(
                partial(self._rekeying[runner.loop.loop], name), is_owner, superseded
            )
        except ContractError as error:
            runner.refuse(error)  # the worker goes on without this loop

    async def _advance(self) -> None:
        """Advance the time of logs that are at their end, or end them if that was requested."""
        ending: dict[str, datetime] = {}
        logs: dict[str, set[tuple[Log, int]]] = {}
        for runner in self._runners:
            name = runner.loop.loop
            until = self._end_of_stream.wanted(name)
            unfinished = runner.logs_before(until) if until is not None else []
            if until is not None and unfinished:
                ending[name] = until
            wanted = {*runner.quiet_logs(), *unfinished}
            if wanted:
                logs[name] = wanted
        at_end = await self._flow.at_end(logs)
        for runner in self._runners:
            name = runner.loop.loop
            if name in ending:
                runner.end_logs(ending[name], at_end[name])
            if name in at_end:
                runner.advance_idle(at_end[name])
