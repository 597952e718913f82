"""Replay: a worker's work once more, from the first record of the topics, into a lake of its own.

It is the worker itself, in a consumer group of its own, with three differences: it ends where the
topics ended when it began; no clock moves an idle log on, because how long a log was silent is not
told by reading it again; and no letter is written for a record that has one already.

Delivery: as the worker's. What is committed is committed; the same call goes on from there.
"""

import asyncio
import gc
import json
import tempfile
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
from tidemill.streams.consumer.app import GroupConfig, run_app
from tidemill.streams.deadletters.writer import NoDeadLetters
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.runtime.agents import StreamsApp
from tidemill.streams.runtime.commit_schedule import Cadence
from tidemill.streams.runtime.loop_runner import LoopRunner
from tidemill.streams.runtime.prepared import PreparedLoop
from tidemill.streams.runtime.worker import COLLECT, newest_version, open_tables
from tidemill.streams.state.spill_files import SpillFiles

LogPartition = tuple[Log, int]

_MARKER = "replay.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """What to replay, and where to.

    *ends* says, by log and partition, before which offset; *until* ends the logs there as
    `tidemill close` does, after the decision of that time.
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
    """See that *lake* may be filled with a replay of *loop*, and write down that it is.

    Raises:
        RequestError: it has tables of that loop which no replay has begun.
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
    """Write down that the replay is whole: from now on the lake is one as any."""
    with lake_errors(f"end the replay of {loop.loop}", lake.root):
        lake.storage.remove(f"{loop.loop}/{_MARKER}")


def replay(
    config: ReplayConfig, store: SchemaStore, group: str, on_read: Callable[[int], None]
) -> bool:
    """Read the topics up to the ends of *config*; return whether they were reached.

    They are not if a signal came. *on_read* is told how many records before the ends are read.

    Raises:
        RequestError: a newer version of the loop was published meanwhile.
        TidemillError: as for the worker.
    """
    gc.set_threshold(*COLLECT)
    return asyncio.run(_Replay(config, store, on_read).run(group))


def group_of(loop: Loop) -> str:
    """Return the name of a consumer group that nobody else has."""
    return f"tidemill-replay-{loop.loop}-{uuid.uuid4().hex[:8]}"


class _Unclocked(LoopRunner):
    """The work on one loop, but logs that are silent stay where they are."""

    def quiet(self) -> list[LogPartition]:
        return []

    def advance_idle(self, at_end: Collection[LogPartition]) -> None:
        pass


class _NeverAsked:
    """Nobody asks a replay to close anything: its end is known."""

    def wanted(self, loop_name: str) -> datetime | None:
        return None


class _Replay:
    """One replay, from its first poll to its last."""

    def __init__(
        self, config: ReplayConfig, store: SchemaStore, on_read: Callable[[int], None]
    ) -> None:
        self._config, self._on_read = config, on_read
        self._metrics = StreamMetrics()
        loop = config.loop
        self._run = _Unclocked(
            prepared=PreparedLoop.of(loop, store),
            tables=open_tables(Lake(config.lake), loop),
            letters=NoDeadLetters(),
            metrics=self._metrics,
            on_examples=lambda _version: None,
            cadence=config.cadence,
            newest=newest_version(config.kafka, loop.loop),
            spill_files=SpillFiles(config.scratch),
        )

    async def run(self, group: str) -> bool:
        with tempfile.TemporaryDirectory(prefix="tidemill-faust-") as folder:
            named = GroupConfig(
                group=group, data=Path(folder), fetch_records=self._config.fetch_records
            )
            streams = StreamsApp(
                kafka=self._config.kafka,
                group=named,
                runs=[self._run],
                metrics=self._metrics,
                end_of_stream=_NeverAsked(),
            )
            interrupted = await run_app(streams.app, self._is_over)
        if interrupted:
            return False
        if self._run.superseded:
            raise RequestError(
                f"events of a newer version of {self._config.loop.loop} were read",
                hint="it was published meanwhile: replay again, into another folder",
            )
        return True

    def _is_over(self) -> bool:
        self._tell()
        if self._run.superseded:
            return True
        if not self._is_read():
            return False
        if self._config.until is not None:
            self._run.end_logs(self._config.until, list(self._config.ends))
        return not self._run.is_closing

    def _tell(self) -> None:
        ends = self._config.ends
        taken = ((self._run.position(*place).taken or 0, end) for place, end in ends.items())
        self._on_read(sum(min(offset, end) for offset, end in taken))

    def _is_read(self) -> bool:
        """Whether every record before the ends is taken, and every mark of a transaction passed."""
        ends = self._config.ends
        taken = {place: self._run.position(*place).taken for place in ends}
        return all(offset is not None and offset >= ends[at] for at, offset in taken.items())
