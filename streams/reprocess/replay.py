"""Replay: reads the topics again from their first record, into a lake of its own.

It runs the worker's code in a consumer group of its own, with three differences. It ends where the
topics ended when it began. No idle log is advanced by the clock, because a replay does not take as
long as the log was silent. No dead letters are written, because these records have theirs already.

Delivery: exactly once, like the worker. The same call after an interruption continues from the last
commit.
"""

import asyncio
import gc
import json
import tempfile
import threading
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tidemill.errors import RequestError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.storage import lake_errors
from tidemill.kafka import KafkaConfig
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.choose import SchemaStore
from tidemill.stop_signals import StopSignals
from tidemill.streams.consumer.app import GroupConfig, run_app
from tidemill.streams.deadletters.writer import NoDeadLetters
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.runtime.agents import StreamsApp
from tidemill.streams.runtime.commit_schedule import Cadence
from tidemill.streams.runtime.loop_runner import LoopRunner
from tidemill.streams.runtime.prepared_loop import PreparedLoop
from tidemill.streams.runtime.worker import COLLECT, newest_version, open_tables
from tidemill.streams.state.spill_files import SpillFiles

LogPartition = tuple[Log, int]

_MARKER = "replay.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """What to replay, and into which lake.

    *ends* has the offset to stop before, by log and partition; other partitions are not read. With
    *until* the logs end there, as `tidemill close` does it: every decision up to that time is
    closed.
    """

    kafka: KafkaConfig
    lake: LakeConfig
    loop: Loop
    ends: Mapping[LogPartition, int]
    until: datetime | None = None
    fetch_records: int
    cadence: Cadence
    scratch: Path


def begin_replay(lake: Lake, loop: Loop) -> None:
    """Mark *lake* as the target of a replay of *loop*, if it may be one.

    Raises:
        RequestError: it has tables of that loop that are not from a replay.
        LakeError: the storage refuses.
    """
    marker = json.dumps({"loop": loop.loop, "version": loop.version, "digest": loop.digest})
    with lake_errors(f"begin a replay of {loop.loop}", lake.root):
        if _MARKER in lake.storage.names(loop.loop):
            if lake.storage.read(f"{loop.loop}/{_MARKER}").decode() != marker:
                raise RequestError(
                    f"a replay of another version of {loop.loop} was begun in {lake.root}",
                    hint="name an empty folder with --into",
                )
        elif loop.loop in lake.loops():
            raise RequestError(
                f"{lake.root} has tables of {loop.loop} already",
                hint="name an empty folder with --into: a replay never writes beside a worker",
            )
        else:
            lake.storage.write(f"{loop.loop}/{_MARKER}", marker.encode())


def end_replay(lake: Lake, loop: Loop) -> None:
    """Remove the mark, because the replay is complete: the lake may be used like any other."""
    with lake_errors(f"end the replay of {loop.loop}", lake.root):
        lake.storage.remove(f"{loop.loop}/{_MARKER}")


def replay(
    config: ReplayConfig, store: SchemaStore, group: str, on_read: Callable[[int], None]
) -> bool:
    """Read the topics up to the ends of *config*; return whether they were reached.

    They are not if a signal ended it. *on_read* gets the number of records read before the ends.

    Raises:
        RequestError: a newer version of the loop was published meanwhile.
        TidemillError: as for the worker.
    """
    gc.set_threshold(*COLLECT)
    return asyncio.run(_Replay(config, store, on_read).run(group))


def group_of(loop: Loop) -> str:
    """Return the name of a new consumer group."""
    return f"tidemill-replay-{loop.loop}-{uuid.uuid4().hex[:8]}"


class _ReplayRunner(LoopRunner):
    """A loop runner without idle advances, for some partitions."""

    wanted: Collection[int] = ()

    async def claim(self, partitions: Collection[int]) -> None:
        await super().claim([number for number in partitions if number in self.wanted])

    def quiet_logs(self) -> list[LogPartition]:
        return []

    def advance_idle(self, at_end: Collection[LogPartition]) -> None:
        pass


class _NoEndOfStream:
    """A source without requests: the ends of a replay are known."""

    def wanted(self, loop_name: str) -> datetime | None:
        return None


class _Replay:
    """One replay, from its first poll to its last."""

    def __init__(
        self, config: ReplayConfig, store: SchemaStore, on_read: Callable[[int], None]
    ) -> None:
        self._config, self._on_read = config, on_read
        self._metrics = StreamMetrics()
        self._stop = threading.Event()
        loop = config.loop
        self._runner = _ReplayRunner(
            prepared=PreparedLoop.of(loop, store),
            tables=open_tables(Lake(config.lake), loop),
            dead_letters=NoDeadLetters(),
            metrics=self._metrics,
            on_examples=lambda _version: None,
            cadence=config.cadence,
            newest=newest_version(config.kafka, loop.loop),
            spill_files=SpillFiles(config.scratch),
        )
        self._runner.wanted = {partition for _, partition in config.ends}

    async def run(self, group: str) -> bool:
        with tempfile.TemporaryDirectory(prefix="tidemill-faust-") as folder:
            named = GroupConfig(
                group=group, data=Path(folder), fetch_records=self._config.fetch_records
            )
            streams = StreamsApp(
                kafka=self._config.kafka,
                group=named,
                runners=[self._runner],
                metrics=self._metrics,
                end_of_stream=_NoEndOfStream(),
                cadence=self._config.cadence,
            )
            with StopSignals(self._stop):
                await run_app(streams.app, self._is_over)
        if self._stop.is_set():
            return False
        if self._runner.refusal is not None:
            raise self._runner.refusal
        if self._runner.superseded:
            raise RequestError(
                f"events of a newer version of {self._config.loop.loop} were read",
                hint="it was published meanwhile: replay again, into another folder",
            )
        return True

    def _is_over(self) -> bool:
        self._report_progress()
        if self._stop.is_set() or self._runner.superseded or self._runner.refusal is not None:
            return True
        if not self._is_read():
            return False
        if self._config.until is not None:
            self._runner.end_logs(self._config.until, list(self._config.ends))
        return not self._runner.is_closing

    def _report_progress(self) -> None:
        ends = self._config.ends
        taken = ((self._runner.position(*log).taken or 0, end) for log, end in ends.items())
        self._on_read(sum(min(offset, end) for offset, end in taken))

    def _is_read(self) -> bool:
        """Return whether everything before the ends is taken, control batches included."""
        ends = self._config.ends
        taken = {log: self._runner.position(*log).taken for log in ends}
        return all(offset is not None and offset >= ends[log] for log, offset in taken.items())
