"""Workers of one loop over logs and tables in memory, which may be stopped at any of their steps.

They run the code of production from `LoopRunner` down: claims, decoding, the join, commit cycles,
recovery. Kafka and the lake are the fakes that ship with the package. The label is computed without
DuckDB, which would take most of the time.
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
import polars as pl
from tests.streams.join_logs import LOOP, SECOND, START, WITH_ITEMS
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
from tidemill.streams.join.labels import GROUP, ComputedLabels, Labels
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.runtime.commit_schedule import Cadence
from tidemill.streams.runtime.loop_runner import LoopRunner
from tidemill.streams.runtime.prepared_loop import PreparedLoop
from tidemill.streams.state.spill_store import MemorySpillStore
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

    def of(self, joined: pl.DataFrame, ids: pl.Series) -> ComputedLabels:
        """Return the sum of all values, and a thousand times the first."""
        computed = ComputedLabels.none(len(ids))
        labels = computed.values
        for group, weight, amount in joined.select(GROUP, "weight", "amount").iter_rows():
            value = amount if weight is None else weight
            is_first = np.isnan(labels[group])
            labels[group] = 1001 * value if is_first else labels[group] + value
        return computed


@cache
def prepared(
    missing: str, corrections: int, stream: str | None, *, items: bool = False
) -> PreparedLoop:
    """Return the loop of the schedules, its schemas known to everyone.

    With a *stream*, purchases have it. With *items*, decisions bring some.
    """
    dumped = (WITH_ITEMS if items else LOOP).model_dump(mode="json") | {
        "max_skew": f"{SKEW}s",
        "partitions": PARTITIONS,
    }
    dumped |= {"idle_after": "3s", "corrections": f"{corrections}s"}
    dumped["feedback"]["buy"]["stream"] = stream
    loop = Loop.model_validate(dumped | {"label": {**dumped["label"], "missing": missing}})
    for subject, schema in event_schemas(loop).items():
        STORE.register(subject, schema)
    return replace(PreparedLoop.of(loop, STORE), labels=QuickLabels())


@cache
def _writer(kind: str, items: bool) -> tuple[bytes, dict[str, object]]:
    loop = WITH_ITEMS if items else LOOP
    schema = dict(feedback_schema(loop, kind) if kind else decision_schema(loop))
    return single_object_prefix(schema), dict(schema)


@cache
def payload(event: Event, *, items: bool = False) -> bytes:
    """Return *event* as a service would write it, with its *items* if the loop has some."""
    fields: dict[str, object] = {"id": event.id, "at": START + event.at * SECOND}
    if is_feedback(event.log):
        name = "weight" if event.kind == "click" else "amount"
        fields |= {"id": event.own, "decision_id": event.id, "values": {name: event.value}}
    else:
        fields |= dict.fromkeys(("entity", "score", "propensity", "model_version"))
        fields |= {"action": False, "source": "default", "policy_version": 1, "loop_version": 1}
        fields |= {"features": {"price": 1.0}}
    if items and is_feedback(event.log):
        fields["item"] = event.item
    elif items:
        fields["action"] = []
        fields["items"] = [
            {"id": name, "propensity": 0.5, "position": position, "features": {"size": 1.0}}
            for name, position in event.items
        ]
    prefix, schema = _writer(event.kind if is_feedback(event.log) else "", items)
    out = BytesIO()
    fastavro.schemaless_writer(out, schema, fields)
    whole = prefix + out.getvalue()
    return whole[:-2] if event.is_broken else whole


class CrashError(Exception):
    """The process ends here, as after SIGKILL."""


@dataclass
class Plan:
    """An event *before* or after a worker's *step*-th call of a port from now on."""

    step: int
    before: bool
    happens: Callable[[], None]


class Port:
    """Counts the calls of one worker to the lake and to the dead letters, and runs plans."""

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._step = 0

    def plan(self, plan: Plan | None) -> None:
        """Let *plan* happen during the worker's next action."""
        self._plan, self._step = plan, 0

    def call(self, act: Callable[[], Result]) -> Result:
        """Return the result of *act*, unless the plan prevents it."""
        due = self._plan if self._plan is not None and self._plan.step == self._step else None
        self._step += 1
        if due is not None:
            self._plan = None
            if due.before:
                due.happens()
        result = act()
        if due is not None and not due.before:
            due.happens()
        return result


@dataclass
class WatchedTable:
    """A table of one worker, whose calls go through its port."""

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
class WatchedDeadLetters:
    """The dead letters of one worker, whose calls go through its port."""

    dead_letters: MemoryDeadLetters
    port: Port

    def write(self, dead_letters: Iterable[DeadLetter]) -> None:
        """See `DeadLetterSink`."""
        self.port.call(lambda: self.dead_letters.write(dead_letters))


@dataclass
class World:
    """Logs, lake and clock, and the settings that all workers share."""

    missing: str = "negative"
    corrections: int = 0  # seconds
    stream: str | None = None  # that purchases are in
    items: bool = False  # whether decisions bring some
    commit_rows: int = 10**9
    batch_records: int = 10**9
    opened: Callable[[MemoryTable], ProgressTable] = lambda table: table
    runner_type: type[LoopRunner] = LoopRunner
    now_s: float = 0.0
    lake: MemoryLake = field(default_factory=MemoryLake)
    dead_letters: MemoryDeadLetters = field(default_factory=MemoryDeadLetters)
    jumps: dict[int, list[Jump]] = field(default_factory=lambda: {n: [] for n in range(PARTITIONS)})

    def __post_init__(self) -> None:
        self.prepared = prepared(self.missing, self.corrections, self.stream, items=self.items)
        self.loop, self.rules = self.prepared.loop, self.prepared.rules
        self.lake.create(self.loop)
        names = joined_topics(self.loop)
        tps = [(log, number) for log in names for number in range(PARTITIONS)]
        self.logs = {(log, number): MemoryLog(names[log], number) for log, number in tps}
        self.events: dict[tuple[Log, int], list[Event]] = {tp: [] for tp in tps}
        self._rows: dict[str, tuple[dict[int, list[tuple[object, ...]]], int]] = {}

    def produce(self, event: Event) -> None:
        """Append *event* to the partition of its decision, and to the log of its kind."""
        if is_feedback(event.log):
            event = event._replace(log=self.loop.feedback[event.kind].log)
        tp = event.log, ord(event.id) % PARTITIONS
        arrived_ms = (micros(START) // 1_000_000 + event.arrived) * 1000
        self.logs[tp].append(
            event.id.encode(), payload(event, items=self.items), timestamp_ms=arrived_ms
        )
        self.events[tp].append(event)

    def table(self, name: str) -> MemoryTable:
        """Return a table of the lake."""
        return self.lake.table(self.loop.loop, name)

    def rows(self, name: str, columns: Sequence[str]) -> dict[int, list[tuple[object, ...]]]:
        """Return the rows of a table by partition; rows read before are cached."""
        rows, known = self._rows.setdefault(name, ({n: [] for n in range(PARTITIONS)}, 0))
        commits = self.table(name).commits
        for commit in commits[known:]:
            for number, *row in commit.rows.select("partition", *columns).rows():
                rows[number].append(tuple(row))
        self._rows[name] = rows, len(commits)
        return rows

    def versions(self) -> tuple[int, ...]:
        """Return the versions of all tables, which change with each commit."""
        return tuple(self.table(name).version() for name in TABLES)


class Process:
    """One worker: its partitions, its offsets, and the advances that it has not committed yet."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.port = Port()
        self.owned: list[int] = []
        self._next: dict[tuple[Log, int], int] = {}
        self._advances: list[tuple[int, Jump]] = []
        tables: dict[str, ProgressTable] = {
            name: WatchedTable(name, world.opened(world.table(name)), self.port, self._landed)
            for name in TABLES
        }
        self.run = world.runner_type(
            prepared=world.prepared,
            tables=tables,
            dead_letters=WatchedDeadLetters(world.dead_letters, self.port),
            metrics=METRICS,
            on_examples=lambda _version: None,
            cadence=Cadence(
                rows=world.commit_rows,
                batch_records=world.batch_records,
                patience_s=-1.0,
                clock=lambda: self.world.now_s,
            ),
            newest=lambda: 1,
            spill_files=MemorySpillStore(),
        )

    async def claim(self, partitions: Sequence[int]) -> None:
        """Claim *partitions* and continue from the offsets of the lake."""
        await self.run.claim(partitions)
        self.owned, self._advances = list(partitions), []
        self._owners = self._owners_now()
        for log in self.world.rules.logs:
            for number in partitions:
                self._next[log, number] = self.run.position(log, number).taken or 0

    def is_stolen_from(self) -> bool:
        """Return whether another worker has claimed a partition of this one."""
        return self._owners != self._owners_now()

    def _owners_now(self) -> list[dict[str, int | None]]:
        keys = [OWNER.key(number) for number in self.owned]
        return [self.world.table(name).progress(keys) for name in TABLES]

    async def poll(self, log: Log, most: int) -> None:
        """Take at most so many records of *log* from each owned partition."""
        for number in self.owned:
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
        """Advance the time of logs that are at their ends."""
        at_end = self._at_end(self.run.quiet_logs())
        with self._recording():
            self.run.advance_idle(at_end)

    def end_logs(self, until: int) -> None:
        """Close every decision up to *until* seconds, where everything is read."""
        time = START + until * SECOND
        at_end = self._at_end(self.run.logs_before(time))
        with self._recording():
            self.run.end_logs(time, at_end)

    def _at_end(self, tps: Iterable[tuple[Log, int]]) -> set[tuple[Log, int]]:
        return {
            tp
            for tp in tps
            if self.world.logs[tp].end == self._next[tp] == self.run.position(*tp).taken
        }

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Record the advances of logs during the block."""
        before = self._times()
        yield
        for (log, number), time in self._times().items():
            if time is not None and time != before[log, number]:
                to = (time - START) / SECOND
                self._advances.append((number, Jump(log, self._next[log, number], to)))

    def _times(self) -> dict[tuple[Log, int], datetime | None]:
        owned = self.run._owned
        logs = self.world.rules.logs
        joins = {number: owned[number].partition.join for number in self.owned if number in owned}
        return {(log, n): join.stream_time(log) for n, join in joins.items() for log in logs}

    def _landed(self, table: str, swaps: Sequence[CompareAndSwap]) -> None:
        """Record those advances that are in the lake now."""
        times = {swap.app_id: swap.new for swap in swaps if swap.app_id.startswith(STREAM_TIME)}
        for number, jump in list(self._advances):
            reached = times.get(STREAM_TIME.for_log(jump.log).key(number), NO_TIME)
            if table_of(jump.log) == table and reached >= micros(START + jump.to * SECOND):
                self.world.jumps[number].append(jump)
                self._advances.remove((number, jump))
