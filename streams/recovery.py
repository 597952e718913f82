"""Read back from the lake what the open windows of newly owned partitions need.

Restart, rebalance and recovery are this one act. It knows which rows matter (`rules.read_back`),
not what the join does with them.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import polars as pl

from tidemill.streams.batches import LOGS
from tidemill.streams.commits import Holding, Table
from tidemill.streams.progress import Counts, Resume
from tidemill.streams.rules import JoinRules, Log, moment, read_back

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_ROWS_OF_THE_JOIN = ("topic", "partition", "ingested_at", "event_date")


def read_resumes(
    rules: JoinRules, tables: Mapping[str, Table], holdings: Mapping[int, Holding]
) -> dict[int, Resume]:
    """Return, for each partition, what its join goes on from; one read a table for all of them.

    Raises:
        LakeError: the lake cannot be read.
    """
    started = {
        number: held for number, held in holdings.items() if _frontier(held) or _has_begun(held)
    }
    resumes = {number: Resume() for number in holdings}
    if not started:
        return resumes
    rows = _rows(rules, tables, started)
    for number, held in started.items():
        decisions, seen, feedback, joined = (
            frame.filter(pl.col("partition") == number) for frame in rows
        )
        frontier = _frontier(held)
        resumes[number] = Resume(
            frontier=frontier,
            stream_times={log: _stream_time(held, log) for log in LOGS},
            offsets={log: held.numbers[log]["offset"] or 0 for log in LOGS},
            counts=_counts(held),
            decisions=_since(frontier, decisions).drop(_NOT_ROWS_OF_THE_JOIN, strict=False),
            seen=None if frontier is None else seen.filter(pl.col("at") < frontier),
            feedback=feedback.drop(_NOT_ROWS_OF_THE_JOIN, strict=False),
            joined=joined["feedback_offsets"].explode().drop_nulls().cast(pl.Int64),
            examined=held.numbers["examples"]["examined"],
            revised=held.numbers["examples"]["revised"] or 0,
        )
    return resumes


def _rows(
    rules: JoinRules, tables: Mapping[str, Table], holdings: Mapping[int, Holding]
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Read open and seen decisions, feedback, examples, as far back as any of *holdings* needs.

    Decisions that are closed are read for their ids alone: an hour of ids is many rows, and their
    features would be most of the bytes.
    """
    frontiers = [_frontier(held) for held in holdings.values()]
    needs = [read_back(rules, frontier) for frontier in frontiers]
    ours, at, verdict = (pl.col(name) for name in ("partition", "at", "verdict"))
    ours = ours.is_in(list(holdings))

    def since(bounds: list[datetime | None]) -> pl.Expr:
        known = [bound for bound in bounds if bound is not None]
        return ours & (at >= min(known)) if len(known) == len(bounds) else ours

    on_time = verdict.is_null() | (verdict == "duplicate")
    decisions = tables["decisions"].read(where=since(frontiers) & on_time)
    closed = max((each for each in frontiers if each is not None), default=_EPOCH)
    seen = tables["decisions"].read(
        ["partition", "id", "at", "verdict"],
        where=since([need.decisions for need in needs]) & (at < closed) & on_time,
    )
    recent = since([need.feedback for need in needs]) | (ours & _unexamined(holdings))
    feedback = tables["feedback"].read(where=recent & verdict.is_null())
    examples = tables["examples"].read(
        ["partition", "feedback_offsets"], where=since([need.examples for need in needs])
    )
    return decisions, seen, feedback, examples


def _unexamined(holdings: Mapping[int, Holding]) -> pl.Expr:
    """Return which feedback may not have been held against closed decisions yet."""
    found = [held.numbers["examples"]["examined"] for held in holdings.values()]
    known = [offset for offset in found if offset is not None]
    return pl.col("offset") >= min(known) if known else pl.lit(value=False)


def _since(frontier: datetime | None, frame: pl.DataFrame) -> pl.DataFrame:
    return frame if frontier is None else frame.filter(pl.col("at") >= frontier)


def _frontier(held: Holding) -> datetime | None:
    return _moment(held.numbers["examples"]["frontier"])


def _has_begun(held: Holding) -> bool:
    """Whether anything was read, or an empty log was moved on: the rest is judged by that time."""
    logs = [held.numbers[log] for log in LOGS]
    return any(numbers["offset"] or numbers["time"] is not None for numbers in logs)


def _stream_time(held: Holding, log: Log) -> datetime | None:
    """Return the larger of what the raw table and the examples recorded."""
    found = (held.numbers[log]["time"], held.numbers["examples"][f"time/{log}"])
    known = [time for time in found if time is not None]
    return _moment(max(known)) if known else None


def _counts(held: Holding) -> Counts:
    numbers = held.numbers["examples"]
    return Counts(
        late=numbers["late"] or 0,
        duplicate=numbers["duplicate"] or 0,
        unmatched=numbers["unmatched"] or 0,
    )


def _moment(at: int | None) -> datetime | None:
    return None if at is None else moment(at)
