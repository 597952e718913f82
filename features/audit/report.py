"""The result of an audit: values to print, to count and to compare."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

_HINTS = {
    "stream_time": "the raw row was changed, or its log was not read in order",
    "verdict": "the record was judged by other rules than the loop's, or its row was changed",
    "source_order": "re-keying wrote it behind records that were appended after it: please report "
    "this; the clocks of several brokers may also differ",
    "counts": "feedback was settled twice or not at all: compare with `tidemill ledger`",
}
_HINT = "only workers may write to the lake; examples can be made again: `tidemill lake backfill`"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One record for which the lake contradicts its logs.

    Attributes:
        log: ``decisions`` or ``feedback``; ``counts`` for feedback that was counted, not written.
        stream: the stream of the feedback, if its kind has one.
        position: of the item that was shown there, if decisions have items.
        columns: by name, the value of the stream and that of the audit, as text; None is null.
            ``rows`` is the number of rows of the record; ``verdict`` and ``stream_time`` are
            columns of the raw table.
    """

    log: str
    partition: int
    offset: int | None = None
    id: str | None = None
    at: datetime | None = None
    stream: str | None = None
    position: int | None = None
    columns: Mapping[str, tuple[str | None, str | None]]

    @property
    def column(self) -> str:
        """The first column that differs."""
        return next(iter(self.columns))

    @property
    def record(self) -> str:
        """The record, as text."""
        if self.offset is None:
            return f"partition {self.partition}"
        what = "decision" if self.log == "decisions" else "feedback"
        by = "" if self.stream is None else f" of stream {self.stream}"
        at = "" if self.position is None else f", position {self.position}"
        return f"{what} {self.id}{by}, partition {self.partition}, offset {self.offset}{at}"

    @property
    def hint(self) -> str:
        """What to do about it."""
        hint = _HINTS.get("counts" if self.log == "counts" else self.column, _HINT)
        return f"{hint}; see `tidemill trace {self.id}`" if self.log == "decisions" else hint

    def __str__(self) -> str:
        stream, audit = self.columns[self.column]
        more = len(self.columns) - 1
        rest = f" (and {more} more column{'s' if more > 1 else ''})" if more else ""
        return f"{self.record}: {self.column} is {stream}, the audit says {audit}{rest}"

    def to_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return {
            "log": self.log,
            "partition": self.partition,
            "offset": self.offset,
            "stream": self.stream,
            **({} if self.position is None else {"position": self.position}),
            "id": self.id,
            "at": None if self.at is None else self.at.isoformat(),
            "columns": {
                name: {"stream": stream, "audit": audit}
                for name, (stream, audit) in self.columns.items()
            },
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Rows that were committed and are gone: *what* they were, and how to get them back."""

    what: str
    hint: str

    def to_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return {"what": self.what, "hint": self.hint}


def by_time(found: Difference) -> tuple[bool, datetime, int, int, int]:
    """Return the sort key of differences: time, then record and item; counts come last."""
    at = _EPOCH if found.at is None else found.at
    return found.at is None, at, found.partition, found.offset or 0, found.position or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What was checked, and the differences.

    Attributes:
        versions: of the tables, by name.
        records: how many raw rows had their stream time and verdict checked.
        decisions: how many closed or judged decisions were compared with the examples.
        feedback: how much settled feedback was compared with the counts, or with the examples.
        differences: how many records differ.
        first: the earliest of them.
        is_whole: whether all ids were checked, or a share of them.
        seconds: how long it took.
        unchecked: what was not looked at, and why.
        losses: rows that were committed and are gone.
    """

    loop: str
    versions: Mapping[str, int]
    records: int
    decisions: int
    feedback: int
    differences: int
    first: tuple[Difference, ...]
    is_whole: bool
    seconds: float
    unchecked: tuple[str, ...] = ()
    losses: tuple[Loss, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether no difference was found, and nothing is gone."""
        return self.differences == 0 and not self.losses

    def to_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return {
            "loop": self.loop,
            "agrees": self.agrees,
            "versions": dict(self.versions),
            "records": self.records,
            "decisions": self.decisions,
            "feedback": self.feedback,
            "differences": self.differences,
            "first": [difference.to_json() for difference in self.first],
            "whole": self.is_whole,
            "seconds": round(self.seconds, 3),
            "unchecked": list(self.unchecked),
            "losses": [loss.to_json() for loss in self.losses],
        }
