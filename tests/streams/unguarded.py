"""Workers without one of their guards, which cause damage that the tests have to detect.

Run ``python -m tests.streams.unguarded GUARD LOOP`` for such a worker as a process.
"""

import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from tests.streams.test_windows_properties import TakesEveryCopyOfFeedback
from tests.streams.unfenced import UnfencedTable

from tidemill.features.lake.lake import Lake
from tidemill.schemas.avro.arrow_columns import RecordColumn
from tidemill.schemas.avro.columnar_decoder import _record
from tidemill.schemas.avro.cursors import Cursors, PayloadBytes
from tidemill.schemas.avro.wire import Schema
from tidemill.schemas.events.decoder import EventDecoder, _ReadPlan, _RefusedPrefix
from tidemill.schemas.logs import Log, stream_of
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.commit.closed_lookup import recall_from
from tidemill.streams.commit.commit_cycle import CommitCycle
from tidemill.streams.commit.leases import Lease
from tidemill.streams.commit.progress_table import ProgressTable
from tidemill.streams.commit.snapshot import PartitionSnapshot
from tidemill.streams.join.checkpoints import Resume
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.runtime.loop_runner import LoopRunner
from tidemill.streams.runtime.partitions import LogReading
from tidemill.streams.runtime.prepared_loop import PreparedLoop
from tidemill.streams.runtime.worker import StreamsWorker, StreamsWorkerConfig
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.units import Bools, Int64s


def joined_by(join: type[PartitionJoin]) -> type[LoopRunner]:
    """Return runners whose partitions are joined by *join*."""

    class Runner(LoopRunner):
        def _join(self, number: int, resume: Resume, state: OpenState) -> PartitionJoin:
            recall = recall_from(self._tables, number, self.rules)
            return join(self.rules, resume, labels=self._labels, recall=recall, state=state)

    return Runner


class CarelessDecoder(EventDecoder):
    """Accepts every payload, wherever the decoding of it ended."""

    def _plan(self, writer: Schema, prefix: bytes) -> _ReadPlan | _RefusedPrefix:
        plan = super()._plan(writer, prefix)
        if isinstance(plan, _ReadPlan):
            plan.reader._walk = partial(_walk, _record(writer))
        return plan


def _walk(
    read: Callable[[Cursors], RecordColumn], data: bytes, starts: Int64s, ends: Int64s
) -> tuple[RecordColumn, Bools]:
    return read(Cursors(PayloadBytes(data), starts, ends)), np.ones(len(starts), dtype=np.bool_)


class ReadsOn(LoopRunner):
    """A truncated payload is decoded on into the next one."""

    def __init__(self, *, prepared: PreparedLoop, **more: Any) -> None:  # noqa: ANN401 (of LoopRunner)
        decoders = {
            log: CarelessDecoder(prepared.loop, log, decoder._store)
            for log, decoder in prepared.decoders.items()
        }
        super().__init__(prepared=replace(prepared, decoders=decoders), **more)


class ReadsStreamsAnew(LoopRunner):
    """A restart uses only the offset of the plain log."""

    def _reading(self, lease: Lease, name: Log) -> LogReading:
        reading = super()._reading(lease, name)
        return reading if stream_of(name) is None else replace(reading, next=0)


class _DeadLettersLast(CommitCycle):
    def write(
        self, leases: Mapping[int, Lease], snapshots: Collection[PartitionSnapshot]
    ) -> int | None:
        version = super().write(
            leases, [replace(snapshot, dead_letters=[]) for snapshot in snapshots]
        )
        self._dead_letters.write(
            letter for snapshot in snapshots for letter in snapshot.dead_letters
        )
        return version


class WritesDeadLettersLast(LoopRunner):
    """Dead letters are written after the lake has passed their records."""

    def __init__(self, **parts: Any) -> None:  # noqa: ANN401 (those of LoopRunner)
        super().__init__(**parts)
        cycle = self._cycle
        self._cycle = _DeadLettersLast(
            self.loop.loop, cycle._tables, cycle._dead_letters, cycle._metrics, cycle._patience_s
        )


GUARDS: dict[str, type[LoopRunner]] = {
    "deduplication": joined_by(TakesEveryCopyOfFeedback),
    "guard": ReadsOn,
}


class UnguardedWorker(StreamsWorker):
    """A worker process whose loops run without one guard, or whose tables have no fence."""

    def __init__(self, config: StreamsWorkerConfig, guard: str) -> None:
        super().__init__(config)
        self._guard = guard

    def open_tables(self, lake: Lake, loop: Loop) -> dict[str, ProgressTable]:
        """Return the tables of *loop*, without their fence if that is the guard."""
        tables = super().open_tables(lake, loop)
        if self._guard != "fence":
            return tables
        return {name: UnfencedTable(table) for name, table in tables.items()}

    def new_runner(self, **parts: Any) -> LoopRunner:  # noqa: ANN401 (those of LoopRunner)
        """Return the runner of one loop, without its guard."""
        return GUARDS.get(self._guard, LoopRunner)(**parts)


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    config = StreamsWorkerConfig.from_env(os.environ, sys.argv[2:])
    sys.exit(UnguardedWorker(config, sys.argv[1]).run())
