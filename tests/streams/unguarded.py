"""Workers without one of their guards: the damage that proofs have to notice.

Run as ``python -m tests.streams.unguarded GUARD LOOP``, it is such a worker as a process.
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

from tidemill.schemas.avro.arrow_columns import RecordColumn
from tidemill.schemas.avro.columnar_decoder import Cursors, PayloadBytes, _record
from tidemill.schemas.avro.wire import Schema
from tidemill.schemas.events.decoder import EventDecoder, _ReadPlan, _RefusedPrefix
from tidemill.schemas.logs import Log, stream_of
from tidemill.streams.commit.commit_cycle import CommitCycle
from tidemill.streams.commit.transactions import Lease
from tidemill.streams.join.checkpoints import Resume
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.runtime.loop_runner import LoopRunner
from tidemill.streams.runtime.partitions import LogReading, PartitionSnapshot
from tidemill.streams.runtime.prepared import PreparedLoop
from tidemill.streams.runtime.worker import StreamsWorkerConfig, run_worker
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.units import Bools, Int64s


def joined_by(join: type[PartitionJoin]) -> type[LoopRunner]:
    """Return workers whose partitions are joined by *join*."""

    class Run(LoopRunner):
        def _join(self, number: int, resume: Resume, state: OpenState) -> PartitionJoin:
            return join(self.rules, resume, labels=self._labels, state=state)

    return Run


class CarelessDecoder(EventDecoder):
    """Takes every payload for sound, wherever the reading of it ended."""

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
    """A payload that is cut short is read on into the next one."""

    def __init__(self, prepared: PreparedLoop, *more: Any) -> None:  # noqa: ANN401 (of LoopRun)
        decoders = {
            log: CarelessDecoder(prepared.loop, log, decoder._store)
            for log, decoder in prepared.decoders.items()
        }
        super().__init__(replace(prepared, decoders=decoders), *more)


class ReadsStreamsAnew(LoopRunner):
    """A restart goes by the offset of the plain log alone."""

    def _reading(self, lease: Lease, name: Log) -> LogReading:
        reading = super()._reading(lease, name)
        return reading if stream_of(name) is None else replace(reading, next=0)


class _LettersLast(CommitCycle):
    def write(self, leases: Mapping[int, Lease], cuts: Collection[PartitionSnapshot]) -> int | None:
        version = super().write(leases, [replace(cut, letters=[]) for cut in cuts])
        self._letters.write(letter for cut in cuts for letter in cut.letters)
        return version


class WritesLettersLast(LoopRunner):
    """Dead letters are written once the lake has moved past their records."""

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 (those of LoopRun)
        super().__init__(*args)
        made = self._rounds
        self._rounds = _LettersLast(
            self.loop.loop, made._tables, made._letters, made._metrics, made._patience_s
        )


GUARDS: dict[str, type[LoopRunner]] = {
    "deduplication": joined_by(TakesEveryCopyOfFeedback),
    "guard": ReadsOn,
}


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    config = StreamsWorkerConfig.from_env(os.environ, sys.argv[2:])
    sys.exit(run_worker(config, GUARDS[sys.argv[1]]))
