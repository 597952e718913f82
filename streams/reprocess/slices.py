"""One slice of a backfill: the decisions of a stretch of event time, joined again by other rules.

It is the join of the worker (`partition_join.py`), over rows of the raw tables instead of records.
Each row has the stream time before it, which depends on its own log alone. So besides its decisions
a slice only needs the rows that can affect them: copies with their ids, and feedback of their ids.
The raw tables come as lazy frames.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from tidemill.schemas.logs import DECISIONS, Log, first_position, is_feedback, number_of
from tidemill.streams.join.checkpoints import conformed
from tidemill.streams.join.labels import Labels
from tidemill.streams.join.matching import STREAM
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.units import micros, within_calendar

_POSITION_COLUMNS = ("partition", "offset", "stream_time")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawLogs:
    """The raw tables of a loop: decisions, and feedback of all logs.

    *ends* has, by log and partition, the offset before which rows count; rows of other logs do not
    count. *frontiers* has, by partition, the time in microseconds before which those rows have the
    whole window of every decision.
    """

    decisions: pl.LazyFrame
    feedback: pl.LazyFrame
    ends: Mapping[Log, Mapping[int, int]]
    frontiers: Mapping[int, int]

    def made(self, since: int, until: int) -> pl.LazyFrame:
        """Return decisions with an event time in [*since*, *until*), in microseconds."""
        return _between(self.decisions, since, until).filter(self._is_before_end(DECISIONS))

    def answers(self, since: int, until: int) -> pl.LazyFrame:
        """Return feedback of all logs with an event time in [*since*, *until*)."""
        logs = [log for log in self.ends if is_feedback(log)]
        counts = pl.any_horizontal(self._is_before_end(log) for log in logs)
        return _between(self.feedback, since, until).filter(counts)

    def _is_before_end(self, log: Log) -> pl.Expr:
        partition = pl.col("partition")
        ends = partition.replace_strict(self.ends[log], default=0, return_dtype=pl.Int64)
        offset = pl.col("offset") - first_position(log)
        return (offset >= 0) & (offset < ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceResult:
    """The examples of a slice, and the number of decisions that became none, by the reason.

    The raw tables do not have the whole window of *open* decisions yet.
    """

    examples: pl.DataFrame
    late: int
    duplicate: int
    open: int


def join_slice(
    rules: JoinRules,
    raw: RawLogs,
    since: datetime,
    until: datetime,
    *,
    labels: Labels | None = None,
) -> SliceResult:
    """Join the decisions made in [*since*, *until*) by *rules*.

    The examples are those that a worker with these rules would have written for the same logs and
    stream times.
    """
    start, end = micros(since), micros(until)
    made = raw.made(start, end).collect()
    labels = labels or Labels(rules.label)
    decisions = pl.concat(
        [
            conformed(made, rules.decisions, *_POSITION_COLUMNS),
            _copies(rules, raw, made, start, end),
        ],
        how="diagonal",
    )
    feedback = conformed(
        _feedback(rules, raw, made, start, end), rules.feedback, *_POSITION_COLUMNS
    )
    of_slice = pl.col("at").is_between(pl.lit(since), pl.lit(until), closed="left")
    examples, counts = [], {"late": 0, "duplicate": 0, "open": 0}
    for partition, its_decisions, its_feedback in _by_partition(decisions, feedback):
        joined = _Joined.of(rules, labels, its_decisions, its_feedback)
        verdicts = joined.decisions.filter(of_slice)["verdict"]
        for verdict in ("late", "duplicate"):
            counts[verdict] += int((verdicts == verdict).sum())
        its_examples = joined.examples.filter(of_slice)
        is_closed = pl.col("at").to_physical() < raw.frontiers.get(partition, start)
        closed = its_examples.filter(is_closed)
        counts["open"] += its_examples["offset"].n_unique() - closed["offset"].n_unique()
        examples.append(closed.with_columns(pl.lit(partition, pl.Int32).alias("partition")))
    return SliceResult(examples=pl.concat(examples) if examples else pl.DataFrame(), **counts)


@dataclass(frozen=True, slots=True)
class _Joined:
    """The decisions of one partition with their verdicts, and their examples."""

    decisions: pl.DataFrame
    examples: pl.DataFrame

    @classmethod
    def of(
        cls, rules: JoinRules, labels: Labels, decisions: pl.DataFrame, feedback: pl.DataFrame
    ) -> "_Joined":
        join = PartitionJoin(rules, labels=labels)
        decisions = join.take_decisions(decisions.sort("offset"))
        for log in rules.logs[1:]:
            of_log = feedback.filter(STREAM.eq(number_of(log)))
            join.take_feedback(of_log.sort("offset"), log)
        last = decisions["at"].max()
        if not isinstance(last, datetime):
            raise ValueError("a partition without decisions")
        for log in rules.logs:
            join.advance(log, rules.closing_time(last))
        closed = join.close()
        if closed is None:
            raise ValueError(f"nothing closes by {rules.closing_time(last)}")
        # A decision with late feedback has its first example and the newest; the newest counts.
        examples = closed.examples.unique(rules.key, keep="last", maintain_order=True)
        return cls(decisions, examples)


def _by_partition(
    decisions: pl.DataFrame, feedback: pl.DataFrame
) -> Iterator[tuple[int, pl.DataFrame, pl.DataFrame]]:
    """Yield each partition that has decisions, with the rows of all its logs."""
    answers = feedback.partition_by("partition", as_dict=True)
    none = feedback.clear()
    for (partition,), rows in sorted(decisions.partition_by("partition", as_dict=True).items()):
        yield int(str(partition)), rows, answers.get((partition,), none)


def _copies(
    rules: JoinRules, raw: RawLogs, made: pl.DataFrame, start: int, end: int
) -> pl.DataFrame:
    """Return the decisions outside of the slice that may make one of its decisions a duplicate.

    Such a copy was on time, is before the decision in the log, and is still remembered. So its
    event time is at most the stream time before the decision, which is at most `grace` after the
    decision; and at least that stream time minus the memory.
    """
    before = made["stream_time"]
    on_time = (before <= made["at"] + rules.grace).fill_null(value=False)
    remembered = before.filter(on_time).to_physical().min()
    if not isinstance(remembered, int):
        remembered = start  # each is the first record of its log, or late
    span = rules.spans()
    since, until = min(start, remembered - span.memory), end + span.grace + 1
    columns = ("id", "at", *_POSITION_COLUMNS)
    copies = [
        raw.made(first, last)
        .select(columns)
        .join(made.lazy().select("partition", "id").unique(), on=["partition", "id"], how="semi")
        .collect(engine="streaming")
        for first, last in ((since, start), (end, until))
        if first < last
    ]
    return pl.concat(copies)


def _feedback(
    rules: JoinRules, raw: RawLogs, made: pl.DataFrame, start: int, end: int
) -> pl.DataFrame:
    """Return the feedback of decisions *made* that happened while it could count."""
    ids = made.lazy().select("partition", pl.col("id").alias("decision_id")).unique()
    since, until = start - micros(rules.ahead), end + micros(rules.wait) + 1
    rows = raw.answers(since, until)
    return rows.join(ids, on=["partition", "decision_id"], how="semi").collect(engine="streaming")


def _between(rows: pl.LazyFrame, since: int, until: int) -> pl.LazyFrame:
    first, end = within_calendar(since), within_calendar(until)
    at, day = pl.col("at"), pl.col("event_date")
    return rows.filter((at >= first) & (at < end) & (day >= first.date()) & (day <= end.date()))
