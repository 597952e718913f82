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
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import faust
from faust.types import TP

from tidemill.errors import ContractError
from tidemill.kafka import KafkaConfig
from tidemill.schemas.logs import Log, is_feedback
from tidemill.streams.consumer.app import GroupConfig, new_app
from tidemill.streams.consumer.transport import BatchSchema
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.rekey.rekeyer import Rekeyer, SourceEnd, keep_rekeying
from tidemill.streams.runtime.close_requests import EndOfStreamSource
from tidemill.streams.runtime.flow_control import FlowControl
from tidemill.streams.runtime.loop_runner import LoopRunner

logger = logging.getLogger(__name__)

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
        logger.warning("%s only %s of all: are there workers of another version?", told, common)
    return common


class StreamsApp:
    """The Faust app, and what connects it to the runs of its loops."""

    def __init__(
        self,
        *,
        kafka: KafkaConfig,
        group: GroupConfig,
        runs: Sequence[LoopRunner],
        metrics: StreamMetrics,
        end_of_stream: EndOfStreamSource,
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
        self._end_of_stream = end_of_stream
        self._flow = FlowControl(runs, metrics)
        self.app = new_app(kafka, group)
        self.app.transport.flow = self._flow
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

    def _add_agent(self, run: LoopRunner) -> None:
        topic = self.app.topic(
            *run.topics.values(),
            schema=BatchSchema(),
            # fewer, and one full queue starves the other logs
            maxsize=3 + len(run.topics) * run.loop.partitions,
        )

        async def work(stream: faust.StreamT) -> None:
            async for batch in stream:
                owner = self._flow.log_of(batch)
                if owner is not None:
                    taker, name = owner
                    await taker.take(name, batch)

        self.app.agent(topic, name=f"tidemill.{run.loop.loop}")(work)

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
                if run.is_due(partial(self._flow.is_caught_up, run)):
                    await run.commit()

    async def _watch_idle(self) -> None:
        while not self.app.should_stop:
            await asyncio.sleep(IDLE_TICK_S)
            if self.app.rebalancing:
                continue
            self._flow.skip_control_batches()
            await self._look_at_sources()
            for run in self._runs:
                await self._advance(run)

    async def _look_at_sources(self) -> None:
        """Find out which logs have feedback that waits to be re-keyed: they do not end."""
        owned = {run.loop.loop for run in self._runs if run.partitions}
        for (loop_name, log), source in self._sources.items():
            if loop_name in owned:
                is_reached = await asyncio.to_thread(source.is_reached)
                self._flow.set_backlog(loop_name, log, not is_reached)

    async def _rekey(self, run: LoopRunner, name: Log) -> None:
        """Re-key a log of *run* while partition 0 is held, which one worker does."""

        def superseded() -> None:
            run.superseded = True

        await keep_rekeying(
            partial(self._rekeying[run.loop.loop], name),
            lambda: 0 in run.partitions and not run.superseded and not self.app.should_stop,
            superseded,
        )

    async def _advance(self, run: LoopRunner) -> None:
        """Let time go on in logs that are at their end, or end them if someone asked for it."""
        until = self._end_of_stream.wanted(run.loop.loop)
        going_on = run.going_on(until) if until is not None else []
        at_end = await self._flow.at_end(run, {*run.quiet(), *going_on})
        if until is not None and going_on:
            run.end_logs(until, at_end)
        run.advance_idle(at_end)
