"""The spans of an audit: ranges of positions and of event time, by partition.

How far a log has been read is a position (`schemas/logs.py`), as in the raw tables. Times are
microseconds since the epoch, because an event may have the year 1, and an audit reads back before
it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES, table_of
from tidemill.features.lake.progress_keys import (
    DUPLICATE,
    FRONTIER,
    LATE,
    MISPLACED,
    OFFSET,
    UNKNOWN_ITEM,
    UNMATCHED,
    ProgressName,
    begin,
)
from tidemill.schemas.logs import Log, first_position, position_of
from tidemill.schemas.loop.definition import Loop

_COUNTED = (
    LATE,
    DUPLICATE,
    UNMATCHED,
    UNKNOWN_ITEM,
)  # misplaced with unmatched, as earlier releases counted
COUNTERS: tuple[str, ...] = _COUNTED

BEGIN, FOREVER = -(2**62), 2**62
"""Earlier and later than any event; `BEGIN` is the frontier before anything is closed."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(value: datetime | timedelta) -> int:
    """Return a time (since the epoch) or a duration in whole microseconds."""
    length = value if isinstance(value, timedelta) else value - _EPOCH
    return length // timedelta(microseconds=1)


def bounds_of(since: datetime | None, until: datetime | None) -> tuple[int, int]:
    """Return the bounds of event time in microseconds; None is no bound."""
    return BEGIN if since is None else micros(since), FOREVER if until is None else micros(until)


def memory(loop: Loop) -> timedelta:
    """Return how long the join remembers an id at least, to recognise duplicates."""
    return max(loop.remember, loop.wait + loop.grace + loop.early)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """How far one partition had been read and closed at one version of the lake.

    Attributes:
        frontier: decisions earlier than this are closed.
        positions: the next position of each log; a log that is missing has not been read.
        counts: feedback that joined nothing, since the start of the log; None if unknown.
    """

    frontier: int = BEGIN
    positions: Mapping[Log, int] = field(default_factory=dict)
    counts: Mapping[str, int] | None = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))

    def position(self, log: Log) -> int:
        """Return the next position of *log*."""
        return self.positions.get(log, first_position(log))


NOTHING_READ = PartitionState()
"""The state before anything was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSpan:
    """One partition from the state *start* to the later state *end*.

    *begin* is the state at which the version of the loop took the partition over: rows before it
    were judged by an earlier version, and keep its verdict.
    """

    partition: int
    start: PartitionState
    end: PartitionState
    begin: PartitionState = NOTHING_READ


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetRange:
    """Ranges of positions of one log: partition -> (first, behind the last).

    *begins* is, by partition, the state at which the version of the loop took it over.
    """

    log: Log
    ranges: Mapping[int, tuple[int, int]]
    begins: Mapping[int, PartitionState]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSlice:
    """A slice of event time, or the records of a share of its ids.

    Attributes:
        bounds: partition -> (since, until); decisions within are closed.
        begins: partition -> the state at which the version of the loop took it over.
        one_in: the share of ids is one in so many; 1 for all.
        remainder: which of these shares.
    """

    bounds: Mapping[int, tuple[int, int]]
    begins: Mapping[int, PartitionState]
    one_in: int = 1
    remainder: int = 0

    @property
    def since(self) -> int:
        """The earliest of the bounds."""
        return min(since for since, _ in self.bounds.values())

    @property
    def until(self) -> int:
        """The latest of the bounds."""
        return max(until for _, until in self.bounds.values())


def can_be_counted(work: Sequence[tuple[Loop, Sequence[AuditSpan]]]) -> bool:
    """Return whether the counts between two states belong to the event time between them.

    They do not if windows or grace have changed: the next version then counts, by its own rules,
    feedback on what the earlier version closed. With corrections, late feedback is counted when it
    is read, so only the counts since the beginning can be compared.
    """
    if any(loop.corrections for loop, _ in work):
        return len(work) == 1 and all(span.start == NOTHING_READ for span in work[0][1])
    return all(_windows(loop) == _windows(work[0][0]) for loop, _ in work)


def _windows(loop: Loop) -> tuple[timedelta, dict[str, tuple[timedelta, timedelta]]]:
    return loop.grace, {name: (kind.early, kind.within) for name, kind in loop.feedback.items()}


def read_partition_states(
    lake: Lake, loop: Loop, versions: Mapping[str, int]
) -> dict[int, PartitionState]:
    """Return the state of each partition of *loop* at *versions* of its tables.

    Raises:
        LakeError: the lake cannot be read, or no longer has one of the versions.
    """
    closed = _numbers(lake, loop, EXAMPLES, (FRONTIER, *_COUNTED, MISPLACED), versions)
    read = _reached(lake, loop, OFFSET, versions)
    return {
        number: PartitionState(
            frontier=_or(closed[FRONTIER, number], BEGIN),
            positions={log: position_of(log, read[log, number] or 0) for log in loop.logs},
            counts=_counts(closed, number),
        )
        for number in range(loop.partitions)
    }


def _counts(
    closed: Mapping[tuple[ProgressName, int], int | None], partition: int
) -> dict[str, int]:
    counts: dict[str, int] = {name: closed[name, partition] or 0 for name in _COUNTED}
    counts[UNMATCHED] += closed[MISPLACED, partition] or 0
    return counts


def read_spans(
    lake: Lake, definitions: Sequence[Loop], versions: Mapping[str, int]
) -> list[tuple[Loop, list[AuditSpan]]]:
    """Return all that a lake has closed, by the version of the loop that closed it, oldest first.

    Workers record where a version begins. An older release did not: what it closed is left out if
    it may have followed any of several versions, because the rules are then unknown.

    Raises:
        LakeError: the lake cannot be read, or no longer has one of the versions.
    """
    newest = definitions[-1]
    ends = read_partition_states(lake, newest, versions)
    begins = _read_begins(lake, definitions, versions)
    spans: dict[int, list[AuditSpan]] = {loop.version: [] for loop in definitions}
    for number, end in ends.items():
        known = {loop.version: begins[loop.version].get(number) for loop in definitions}
        marks = [(version, mark) for version, mark in known.items() if mark is not None]
        earlier = [loop.version for loop in definitions if not marks or loop.version < marks[0][0]]
        if len(earlier) == 1:
            marks.insert(0, (earlier[0], NOTHING_READ))  # of a release that recorded nothing
        elif not earlier:
            marks[0] = (marks[0][0], NOTHING_READ)
        stops = [*(mark for _, mark in marks[1:]), end]
        for (version, mark), stop in zip(marks, stops, strict=False):
            spans[version].append(AuditSpan(partition=number, start=mark, end=stop, begin=mark))
    return [(loop, spans[loop.version]) for loop in definitions if spans[loop.version]]


def _read_begins(
    lake: Lake, definitions: Sequence[Loop], versions: Mapping[str, int]
) -> dict[int, dict[int, PartitionState]]:
    """Return the state at which each version took each partition over."""
    begins: dict[int, dict[int, PartitionState]] = {loop.version: {} for loop in definitions}
    for loop in definitions:
        name = begin(loop.version)
        frontiers = _numbers(lake, loop, EXAMPLES, (name,), versions)
        offsets = _reached(lake, loop, name, versions)
        for number in range(loop.partitions):
            frontier = frontiers[name, number]
            known = {
                log: position_of(log, offset)
                for log in loop.logs
                if (offset := offsets[log, number]) is not None
            }
            if frontier is not None and len(known) == len(loop.logs):
                begins[loop.version][number] = PartitionState(
                    frontier=frontier, positions=known, counts=None
                )
    return begins


def _reached(
    lake: Lake, loop: Loop, name: ProgressName, versions: Mapping[str, int]
) -> dict[tuple[Log, int], int | None]:
    """Return the progress number *name* of each log of *loop*, by log and partition."""
    found: dict[tuple[Log, int], int | None] = {}
    for log in loop.logs:
        own = name.for_log(log)
        values = _numbers(lake, loop, table_of(log), (own,), versions)
        found |= {(log, number): value for (_, number), value in values.items()}
    return found


def _numbers(
    lake: Lake, loop: Loop, table: str, names: Sequence[ProgressName], versions: Mapping[str, int]
) -> dict[tuple[ProgressName, int], int | None]:
    """Return progress numbers of *table*, by name and partition."""
    numbers = range(loop.partitions)
    ids = [name.key(number) for name in names for number in numbers]
    values = lake.table(loop.loop, table).progress(ids, versions[table])
    return {(name, number): values[name.key(number)] for name in names for number in numbers}


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
