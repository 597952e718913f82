"""Workers of one loop over logs and tables in memory, which may be stopped at any step of theirs.

The code that runs is the one of production, from `LoopRunner` down: claims, decoding, the join,
rounds of commits, recovery. Only Kafka and the lake are the fakes that ship with the package, and
the label is computed without DuckDB, which would take most of the time.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from io import BytesIO
from typing import TypeVar

import fastavro
import numpy as np
import numpy.typing as npt
import polars as pl
from tests.streams.join_logs import LOOP, SECOND, START
from tests.streams.schedule_oracle import SKEW, Event, Jump

from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.layouts import TABLES, table_of
from tidemill.features.lake.memory_tables import MemoryLake, MemoryTable
from tidemill.features.lake.progress_keys import OWNER, STREAM_TIME
from tidemill.schemas.avro.wire import single_object_prefix
from tidemill.schemas.events.schemas import decision_schema, event_schemas, feedback_schema
from tidemill.schemas.logs import Log, is_feedback
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import joined_topics
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.streams.commit.progress_table import ProgressTable
from tidemill.streams.consumer.memory_log import MemoryLog
from tidemill.streams.deadletters.writer import DeadLetter, MemoryDeadLetters
from tidemill.streams.join.labels import GROUP, Labels
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.runtime.commit_schedule import Cadence
from tidemill.streams.runtime.loop_runner import LoopRunner
from tidemill.streams.runtime.prepared import PreparedLoop
from tidemill.streams.state.spill import MemorySpillStore
from tidemill.streams.units import micros

Result = TypeVar("Result")

PARTITIONS = 2
NO_TIME = -(10**18)
METRICS = StreamMetrics()
STORE = MemorySchemaStore()
RUNNER = asyncio.new_event_loop()


class QuickLabels(Labels):
    """The label of `join_logs.LOOP` without DuckDB."""

    def __init__(self) -> None:
        self.failed = 0

    def of(self, joined: pl.DataFrame, decisions: int) -> npt.NDArray[np.float64]:
        """Return the sum of all values, and a thousand times the first."""
        labels = np.full(decisions, np.nan)
        for group, weight, amount in joined.select(GROUP, "weight", "amount").iter_rows():
            value = amount if weight is None else weight
            is_first = np.isnan(labels[group])
            labels[group] = 1001 * value if is_first else labels[group] + value
        return labels


@cache
def prepared(missing: str, corrections: int, stream: str | None) -> PreparedLoop:
    """Return the loop of the schedules, its schemas known to everyone.

    With a *stream*, purchases have it.
    """
    dumped = LOOP.model_dump(mode="json") | {"max_skew": f"{SKEW}s", "partitions": PARTITIONS}
    dumped |= {"idle_after": "3s", "corrections": f"{corrections}s"}
    dumped["feedback"]["buy"]["stream"] = stream
    loop = Loop.model_validate(dumped | {"label": {**dumped["label"], "missing": missing}})
    for subject, schema in event_schemas(loop).items():
        STORE.register(subject, schema)
    return replace(PreparedLoop.of(loop, STORE), labels=QuickLabels())


@cache
def _writer(kind: str) -> tuple[bytes, dict[str, object]]:
    schema = dict(feedback_schema(LOOP, kind) if kind else decision_schema(LOOP))
    return single_object_prefix(schema), dict(schema)


@cache
def payload(event: Event) -> bytes:
    """Return *event* as a service would write it."""
    told: dict[str, object] = {"id": event.id, "at": START + event.at * SECOND}
    if is_feedback(event.log):
        name = "weight" if event.kind == "click" else "amount"
        told |= {"id": event.own, "decision_id": event.id, "values": {name: event.value}}
    else:
        told |= dict.fromkeys(("entity", "score", "propensity", "model_version"))
        told |= {"action": False, "source": "default", "policy_version": 1, "loop_version": 1}
        told |= {"features": {"price": 1.0}}
    prefix, schema = _writer(event.kind if is_feedback(event.log) else "")
    out = BytesIO()
    fastavro.schemaless_writer(out, schema, told)
    whole = prefix + out.getvalue()
    return whole[:-2] if event.is_broken else whole


class CrashError(Exception):
    """The process ends here, without another word."""


@dataclass
class Plan:
    """What happens to a worker *before* or after its *step*-th call of a port from now on."""

    step: int
    before: bool
    happens: Callable[[], None]


class Port:
    """Counts the calls of one worker to the lake and to the dead letters, and carries out plans."""

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._step = 0

    def plan(self, plan: Plan | None) -> None:
        """Let *plan* happen within what the worker does next."""
        self._plan, self._step = plan, 0

    def call(self, act: Callable[[], Result]) -> Result:
        """Return the result of *act*, unless something is planned against it."""
        here = self._plan if self._plan is not None and self._plan.step == self._step else None
        self._step += 1
        if here is not None:
            self._plan = None
            if here.before:
                here.happens()
        result = act()
        if here is not None and not here.before:
            here.happens()
        return result


@dataclass
class WatchedTable:
    """A table of one worker, with whatever is planned against its calls."""

    name: str
    table: ProgressTable
    port: Port
    landed: Callable[[str, Sequence[CompareAndSwap]], None]

    def progress(self, app_ids: Iterable[str]) -> dict[str, int | None]:
        """See `ProgressTable`."""
        return self.port.call(lambda: self.table.progress(app_ids))

    def append(
        self,
        frame: pl.DataFrame | None,
        *,
        swaps: Sequence[CompareAndSwap],
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """See `ProgressTable`."""
        return self.port.call(lambda: self._append(frame, swaps, metadata))

    def _append(
        self,
        frame: pl.DataFrame | None,
        swaps: Sequence[CompareAndSwap],
        metadata: Mapping[str, str] | None,
    ) -> int:
        version = self.table.append(frame, swaps=swaps, metadata=metadata)
        self.landed(self.name, swaps)
        return version

    def read(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> pl.DataFrame:
        """See `ProgressTable`."""
        return self.port.call(lambda: self.table.read(columns, where))

    def batches(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> Iterator[pl.DataFrame]:
        """See `ProgressTable`."""
        return self.port.call(lambda: self.table.batches(columns, where))


@dataclass
class WatchedLetters:
    """The dead letters of one worker, with whatever is planned against its calls."""

    letters: MemoryDeadLetters
    port: Port

    def write(self, letters: Iterable[DeadLetter]) -> None:
        """See `Letters`."""
        self.port.call(lambda: self.letters.write(letters))


@dataclass
class World:
    """Logs, lake and clock, and the knobs all workers share."""

    missing: str = "negative"
    corrections: int = 0  # seconds
    stream: str | None = None  # that purchases are in
    commit_rows: int = 10**9
    together: int = 10**9
    opened: Callable[[MemoryTable], ProgressTable] = lambda table: table
    made: type[LoopRunner] = LoopRunner
    now_s: float = 0.0
    lake: MemoryLake = field(default_factory=MemoryLake)
    letters: MemoryDeadLetters = field(default_factory=MemoryDeadLetters)
    jumps: dict[int, list[Jump]] = field(default_factory=lambda: {n: [] for n in range(PARTITIONS)})

    def __post_init__(self) -> None:
        self.prepared = prepared(self.missing, self.corrections, self.stream)
        self.loop, self.rules = self.prepared.loop, self.prepared.rules
        self.lake.create(self.loop)
        names = joined_topics(self.loop)
        places = [(log, number) for log in names for number in range(PARTITIONS)]
        self.logs = {(log, number): MemoryLog(names[log], number) for log, number in places}
        self.events: dict[tuple[Log, int], list[Event]] = {place: [] for place in places}
        self._rows: dict[str, tuple[dict[int, list[tuple[object, ...]]], int]] = {}

    def produce(self, event: Event) -> None:
        """Append *event* to the partition of its decision, and to the log of its kind."""
        if is_feedback(event.log):
            event = event._replace(log=self.loop.feedback[event.kind].log)
        place = event.log, ord(event.id) % PARTITIONS
        arrived_ms = (micros(START) // 1_000_000 + event.arrived) * 1000
        self.logs[place].append(event.id.encode(), payload(event), timestamp_ms=arrived_ms)
        self.events[place].append(event)

    def table(self, name: str) -> MemoryTable:
        """Return a table of the lake."""
        return self.lake.table(self.loop.loop, name)

    def rows(self, name: str, columns: Sequence[str]) -> dict[int, list[tuple[object, ...]]]:
        """Return the rows of a table by partition; what was read before is not read again."""
        found, known = self._rows.setdefault(name, ({n: [] for n in range(PARTITIONS)}, 0))
        commits = self.table(name).commits
        for commit in commits[known:]:
            for number, *row in commit.rows.select("partition", *columns).rows():
                found[number].append(tuple(row))
        self._rows[name] = found, len(commits)
        return found

    def versions(self) -> tuple[int, ...]:
        """Return the versions of all tables; they are the same as long as nothing is committed."""
        return tuple(self.table(name).version() for name in TABLES)


class Process:
    """One worker: what it holds, how far it has read, and the advances it has not yet committed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.port = Port()
        self.held: list[int] = []
        self._next: dict[tuple[Log, int], int] = {}
        self._moved: list[tuple[int, Jump]] = []
        tables: dict[str, ProgressTable] = {
            name: WatchedTable(name, world.opened(world.table(name)), self.port, self._landed)
            for name in TABLES
        }
        self.run = world.made(
            prepared=world.prepared,
            tables=tables,
            letters=WatchedLetters(world.letters, self.port),
            metrics=METRICS,
            on_examples=lambda _version: None,
            cadence=Cadence(
                rows=world.commit_rows,
                together=world.together,
                patience_s=-1.0,
                clock=lambda: self.world.now_s,
            ),
            newest=lambda: 1,
            spill_files=MemorySpillStore(),
        )

    async def claim(self, partitions: Sequence[int]) -> None:
        """Own *partitions* and go to where the lake says."""
        await self.run.claim(partitions)
        self.held, self._moved = list(partitions), []
        self._owners = self._owners_now()
        for log in self.world.rules.logs:
            for number in partitions:
                self._next[log, number] = self.run.position(log, number).taken or 0

    def is_stolen_from(self) -> bool:
        """Return whether another worker has claimed a partition of this one."""
        return self._owners != self._owners_now()

    def _owners_now(self) -> list[dict[str, int | None]]:
        keys = [OWNER.key(number) for number in self.held]
        return [self.world.table(name).progress(keys) for name in TABLES]

    async def poll(self, log: Log, most: int) -> None:
        """Take at most so many records of *log* from each partition held."""
        for number in self.held:
            batch = self.world.logs[log, number].fetch(self._next[log, number], most)
            if batch is not None:
                self._next[log, number] = batch.next
                await self.run.take(log, batch)

    async def round(self, most: int) -> None:
        """Take at most so many records of each log, and commit."""
        for log in self.world.rules.logs:
            await self.poll(log, most)
        await self.run.commit()

    def idle(self) -> None:
        """Let time go on in the logs that are at their ends."""
        at_end = self._at_end(self.run.quiet())
        with self._noting():
            self.run.advance_idle(at_end)

    def end_logs(self, until: int) -> None:
        """Close every decision up to *until* seconds, where everything is read."""
        time = START + until * SECOND
        at_end = self._at_end(self.run.going_on(time))
        with self._noting():
            self.run.end_logs(time, at_end)

    def _at_end(self, places: Iterable[tuple[Log, int]]) -> set[tuple[Log, int]]:
        return {
            place
            for place in places
            if self.world.logs[place].end == self._next[place] == self.run.position(*place).taken
        }

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Remember which logs are moved on while the block lasts, and to where."""
        before = self._times()
        yield
        for (log, number), time in self._times().items():
            if time is not None and time != before[log, number]:
                to = (time - START) / SECOND
                self._moved.append((number, Jump(log, self._next[log, number], to)))

    def _times(self) -> dict[tuple[Log, int], datetime | None]:
        held = self.run._owned
        logs = self.world.rules.logs
        joins = {number: held[number].partition.join for number in self.held if number in held}
        return {(log, n): join.stream_time(log) for n, join in joins.items() for log in logs}

    def _landed(self, table: str, swaps: Sequence[CompareAndSwap]) -> None:
        """Take note of those advances that are in the lake now."""
        times = {swap.app_id: swap.new for swap in swaps if swap.app_id.startswith(STREAM_TIME)}
        for number, jump in list(self._moved):
            reached = times.get(STREAM_TIME.for_log(jump.log).key(number), NO_TIME)
            if table_of(jump.log) == table and reached >= micros(START + jump.to * SECOND):
                self.world.jumps[number].append(jump)
                self._moved.remove((number, jump))
