"""What an audit has to look at: stretches of the logs and of event time, a partition at a time.

Values only. How far a log has come is told as a place: the offset, for streams of feedback with
their number above it, as in the raw tables. Times are microseconds since the epoch, because an
event may say that it happened in year 1, and an audit looks back before it.
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
    OFFSET,
    UNMATCHED,
    ProgressName,
    begin,
)
from tidemill.schemas.logs import Log, first_position, position_of
from tidemill.schemas.loop.definition import Loop

_COUNTED = (LATE, DUPLICATE, UNMATCHED)
COUNTERS: tuple[str, ...] = _COUNTED

BEGIN, FOREVER = -(2**62), 2**62
"""Earlier and later than any event; `BEGIN` is the frontier while nothing is closed."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(value: datetime | timedelta) -> int:
    """Return a time since the epoch, or a length of time, in whole microseconds."""
    length = value if isinstance(value, timedelta) else value - _EPOCH
    return length // timedelta(microseconds=1)


def memory(loop: Loop) -> timedelta:
    """Return how long an id is remembered at least, to tell copies."""
    return max(loop.remember, loop.wait + loop.grace + loop.early)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """How far one partition had come at one version of the lake.

    Attributes:
        frontier: decisions earlier than this are closed.
        places: the next place of each log; a log that is not there has not begun.
        counts: feedback that joined nothing, counted from the start of the log on; None if not
            known.
    """

    frontier: int = BEGIN
    places: Mapping[Log, int] = field(default_factory=dict)
    counts: Mapping[str, int] | None = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))

    def place(self, log: Log) -> int:
        """Return the next place of *log*."""
        return self.places.get(log, first_position(log))


NOTHING_READ = PartitionState()
"""The start of a lake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSpan:
    """One partition from one mark to a later one; what is before *start* is not looked at.

    *begin* is where the version of the loop took the partition over: rows before it were judged by
    another version, and keep that verdict.
    """

    partition: int
    start: PartitionState
    end: PartitionState
    begin: PartitionState = NOTHING_READ


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetRange:
    """Places of one log to look at: partition -> (first, behind the last).

    *begins* is by partition where the version of the loop took it over.
    """

    log: Log
    places: Mapping[int, tuple[int, int]]
    begins: Mapping[int, PartitionState]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSlice:
    """A slice of event time to look at, or the records of some of its ids.

    Attributes:
        bounds: partition -> (since, until); its decisions in it are closed.
        begins: partition -> where the version of the loop took it over.
        one_in: look at the ids of one in so many; 1 for all.
        remainder: which of them.
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
    """Whether the feedback counted between two marks is that of the time between them.

    Not if windows or grace have changed: feedback of what one version closed is then counted by the
    rules of the next. And where examples are corrected, late feedback is counted when it is read,
    so only the counts since the beginning can be told.
    """
    if any(loop.corrections for loop, _ in work):
        return len(work) == 1 and all(span.start == NOTHING_READ for span in work[0][1])
    return all(_windows(loop) == _windows(work[0][0]) for loop, _ in work)


def _windows(loop: Loop) -> tuple[timedelta, dict[str, tuple[timedelta, timedelta]]]:
    return loop.grace, {name: (kind.early, kind.within) for name, kind in loop.feedback.items()}


def read_partition_states(
    lake: Lake, loop: Loop, versions: Mapping[str, int]
) -> dict[int, PartitionState]:
    """Return how far each partition of *loop* had come at *versions* of its tables.

    Raises:
        LakeError: the lake cannot be read, or no longer has one of the versions.
    """
    closed = _numbers(lake, loop, EXAMPLES, (FRONTIER, *_COUNTED), versions)
    read = _reached(lake, loop, OFFSET, versions)
    return {
        number: PartitionState(
            frontier=_or(closed[FRONTIER, number], BEGIN),
            places={log: position_of(log, read[log, number] or 0) for log in loop.logs},
            counts={name: closed[name, number] or 0 for name in _COUNTED},
        )
        for number in range(loop.partitions)
    }


def read_spans(
    lake: Lake, definitions: Sequence[Loop], versions: Mapping[str, int]
) -> list[tuple[Loop, list[AuditSpan]]]:
    """Return all that a lake has closed, by the version of the loop that did it, oldest first.

    Workers write down where a version begins. What was closed by one of several versions that an
    older release had not written down is left out: nobody can tell which rules it followed.

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
            marks.insert(0, (earlier[0], NOTHING_READ))  # of a release that wrote nothing down
        elif not earlier:
            marks[0] = (marks[0][0], NOTHING_READ)
        stops = [*(mark for _, mark in marks[1:]), end]
        for (version, mark), stop in zip(marks, stops, strict=False):
            spans[version].append(AuditSpan(partition=number, start=mark, end=stop, begin=mark))
    return [(loop, spans[loop.version]) for loop in definitions if spans[loop.version]]


def _read_begins(
    lake: Lake, definitions: Sequence[Loop], versions: Mapping[str, int]
) -> dict[int, dict[int, PartitionState]]:
    """Return where versions of a loop took partitions over, by version and partition."""
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
                    frontier=frontier, places=known, counts=None
                )
    return begins


def _reached(
    lake: Lake, loop: Loop, name: ProgressName, versions: Mapping[str, int]
) -> dict[tuple[Log, int], int | None]:
    """Return a number of each log of *loop*, by log and partition."""
    found: dict[tuple[Log, int], int | None] = {}
    for log in loop.logs:
        own = name.for_log(log)
        values = _numbers(lake, loop, table_of(log), (own,), versions)
        found |= {(log, number): value for (_, number), value in values.items()}
    return found


def _numbers(
    lake: Lake, loop: Loop, table: str, names: Sequence[ProgressName], versions: Mapping[str, int]
) -> dict[tuple[ProgressName, int], int | None]:
    """Return numbers that commits of *table* carry, by name and partition."""
    numbers = range(loop.partitions)
    ids = [name.key(number) for name in names for number in numbers]
    values = lake.table(loop.loop, table).progress(ids, versions[table])
    return {(name, number): values[name.key(number)] for name in names for number in numbers}


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
