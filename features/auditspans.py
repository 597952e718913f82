"""What an audit has to look at: stretches of the logs and of event time, a partition at a time.

Values only. Times are microseconds since the epoch, because an event may say that it happened in
year 1, and an audit looks back before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from tidemill.features.lake import Lake
from tidemill.features.layouts import EXAMPLES
from tidemill.schemas.loop import Loop

Log = Literal["decisions", "feedback"]
LOGS: tuple[Log, Log] = ("decisions", "feedback")
COUNTERS = ("late", "duplicate", "unmatched")

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
class Mark:
    """How far one partition had come at one version of the lake.

    Attributes:
        frontier: decisions earlier than this are closed.
        offsets: the next offset of each log.
        counts: feedback that joined nothing, counted from the start of the log on.
    """

    frontier: int = BEGIN
    offsets: Mapping[Log, int] = field(default_factory=lambda: dict.fromkeys(LOGS, 0))
    counts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One partition from one mark to a later one; what is before *start* is looked at already."""

    partition: int
    start: Mark
    end: Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Offsets of one log to look at: partition -> (first, behind the last)."""

    log: Log
    offsets: Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A slice of event time to look at, or the records of some of its ids.

    Attributes:
        bounds: partition -> (since, until); its decisions in it are closed.
        one_in: look at the ids of one in so many; 1 for all.
        remainder: which of them.
    """

    bounds: Mapping[int, tuple[int, int]]
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


def read_marks(lake: Lake, loop: Loop, versions: Mapping[str, int]) -> dict[int, Mark]:
    """Return how far each partition of *loop* had come at *versions* of its tables.

    Raises:
        LakeError: the lake cannot be read, or no longer has one of the versions.
    """
    numbers = range(loop.partitions)

    def progress(table: str, *names: str) -> dict[str, int | None]:
        ids = [f"{name}/{number}" for name in names for number in numbers]
        return lake.table(loop.loop, table).progress(ids, versions[table])

    closed = progress(EXAMPLES, "frontier", *COUNTERS)
    read = {log: progress(log, "offset") for log in LOGS}
    marks = {}
    for number in numbers:
        frontier = closed[f"frontier/{number}"]
        marks[number] = Mark(
            frontier=BEGIN if frontier is None else frontier,
            offsets={log: read[log][f"offset/{number}"] or 0 for log in LOGS},
            counts={name: closed[f"{name}/{number}"] or 0 for name in COUNTERS},
        )
    return marks
