"""Read back from the lake what the open windows of newly owned partitions need.

Restart, rebalance and recovery are this one act. It knows which rows matter (`rules.read_back`),
not what the join does with them.
"""

from collections.abc import Callable, Mapping
from datetime import datetime

import polars as pl

from tidemill.streams.batches import LOGS
from tidemill.streams.commits import Holding, Table
from tidemill.streams.progress import Counts, Resume
from tidemill.streams.rules import JoinRules, Log, ReadBack, moment, read_back

_NOT_ROWS_OF_THE_JOIN = ("topic", "partition", "ingested_at", "event_date")


def read_resumes(
    rules: JoinRules, tables: Mapping[str, Table], holdings: Mapping[int, Holding]
) -> dict[int, Resume]:
    """Return, for each partition, what its join goes on from; one read a table for all of them.

    Raises:
        LakeError: the lake cannot be read.
    """
    started = {
        number: held for number, held in holdings.items() if _frontier(held) or _has_rows(held)
    }
    resumes = {number: Resume() for number in holdings}
    if not started:
        return resumes
    rows = _rows(tables, started, [read_back(rules, _frontier(held)) for held in started.values()])
    for number, held in started.items():
        decisions, feedback, joined = (
            frame.filter(pl.col("partition") == number) for frame in rows
        )
        resumes[number] = Resume(
            frontier=_frontier(held),
            stream_times={log: _stream_time(held, log) for log in LOGS},
            offsets={log: held.numbers[log]["offset"] or 0 for log in LOGS},
            counts=_counts(held),
            decisions=decisions.drop(_NOT_ROWS_OF_THE_JOIN, strict=False),
            feedback=feedback.drop(_NOT_ROWS_OF_THE_JOIN, strict=False),
            joined=joined["feedback_offsets"].explode().drop_nulls().cast(pl.Int64),
        )
    return resumes


def _rows(
    tables: Mapping[str, Table], holdings: Mapping[int, Holding], needs: list[ReadBack]
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Read decisions, feedback and examples far enough back for every one of *holdings*."""
    ours = pl.col("partition").is_in(list(holdings))

    def since(bound: Callable[[ReadBack], datetime | None]) -> pl.Expr:
        bounds = [bound(need) for need in needs]
        known = [each for each in bounds if each is not None]
        return ours & (pl.col("at") >= min(known)) if len(known) == len(bounds) else ours

    verdict = pl.col("verdict")
    decisions = tables["decisions"].read(
        where=since(lambda need: need.decisions) & (verdict.is_null() | (verdict == "duplicate"))
    )
    feedback = tables["feedback"].read(where=since(lambda need: need.feedback) & verdict.is_null())
    examples = tables["examples"].read(
        ["partition", "feedback_offsets"], where=since(lambda need: need.examples)
    )
    return decisions, feedback, examples


def _frontier(held: Holding) -> datetime | None:
    return _moment(held.numbers["examples"]["frontier"])


def _has_rows(held: Holding) -> bool:
    return any(held.numbers[log]["offset"] for log in LOGS)


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
