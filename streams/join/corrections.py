"""Corrections: feedback that comes after the close of its decision revises the example.

Revision n of an example is the example with the first n late feedback of its decision, in the order
of the log. If several become known between two commits, only the last one is written. So the newest
revision, and what each number stands for, are functions of the logs alone; with several streams,
which late feedback is the first may depend on the order of reading. Of closed decisions only the
ids stay in memory; everything else is recalled from the lake.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl

from tidemill.schemas.logs import OFFSETS, Log, first_position, is_feedback, position_of
from tidemill.streams.id_hashes import Keys
from tidemill.streams.join.checkpoints import conformed
from tidemill.streams.join.labels import GROUP
from tidemill.streams.join.lateness import Lateness
from tidemill.streams.join.matching import STREAM, Pairs, is_inside
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.join.shown_items import IS_TAKEN, UnknownItems, untaken
from tidemill.streams.state.dedup import DedupIndex
from tidemill.streams.state.row_buffer import RowBuffer
from tidemill.streams.units import Bools, Int64s

_JOINED = ("kind", "at", "offset", "values")
_DECISION_ID = "decision_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """Some closed decisions as the lake has them: the newest revision of each, and its feedback.

    *examples* has the columns of `build_examples`, *feedback* those of the raw table.
    """

    examples: pl.DataFrame
    feedback: pl.DataFrame


Recall = Callable[[pl.DataFrame], Recalled]
"""Reads closed decisions, given by *decision_id* and *at*, back from the lake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revised:
    """Closed decisions with new late feedback: their rows, and all of their feedback.

    *decisions* has the columns of a decision and *revision*. *joined* is ordered as labels read it.
    *rows* are the numbers of the new late feedback.
    """

    decisions: pl.DataFrame
    joined: pl.DataFrame
    rows: Int64s


@dataclass(frozen=True, slots=True, kw_only=True)
class LatePairs:
    """Decisions that have late feedback already when they close.

    *decision* is the number of each, *revision* how many late feedback it has. *pairs* are all
    feedback of these decisions, which are numbered from 0 in it.
    """

    decision: Int64s
    revision: Int64s
    pairs: Pairs


class Corrections(Protocol):
    """The part of a join that handles feedback after the close of its decision."""

    columns: tuple[str, ...]
    """Columns of open feedback that only corrections need."""

    examined: Mapping[Log, int]
    """The offset up to which each log of feedback was compared with closed decisions at the start.
    """

    @property
    def has_pending(self) -> bool:
        """Whether there is feedback that was not compared with closed decisions yet."""

    def restore(self, offsets: Mapping[Log, int], examined: Mapping[Log, int]) -> None:
        """Continue where a commit ended: *offsets* are the next offsets of all logs."""

    def is_too_late(self, last_use: Int64s, frontier: int) -> Bools:
        """Return which feedback no decision takes, because all it could belong to are closed."""

    def enqueue(self, rows: Int64s, positions: Int64s) -> None:
        """Have *rows* of the open feedback compared with closed decisions at the next close."""

    def split(self, at: Int64s, pairs: Pairs) -> tuple[Pairs, LatePairs | None]:
        """Return the pairs that were on time for decisions made *at*, and the late ones."""

    def revise(self, frontier: int) -> Revised | None:
        """Return the decisions earlier than *frontier* that new feedback revises, if any."""


class NoCorrections:
    """The loop declares no `corrections`: a closed example never changes."""

    columns: tuple[str, ...] = ()
    has_pending = False

    def __init__(self) -> None:
        self.examined: Mapping[Log, int] = {}

    def restore(self, offsets: Mapping[Log, int], examined: Mapping[Log, int]) -> None:
        """Preserve what a version of the loop with corrections has examined."""
        self.examined = dict(examined)

    def is_too_late(self, last_use: Int64s, frontier: int) -> Bools:
        """Return which feedback could belong only to closed decisions."""
        return last_use < frontier

    def enqueue(self, rows: Int64s, positions: Int64s) -> None:
        """Do nothing."""

    def split(self, at: Int64s, pairs: Pairs) -> tuple[Pairs, LatePairs | None]:
        """Return *pairs*: without corrections none of them is late."""
        return pairs, None

    def revise(self, frontier: int) -> Revised | None:
        """Return None."""
        return None


class LateTruth:
    """Late feedback of one partition revises the examples of closed decisions."""

    columns: tuple[str, ...] = (_DECISION_ID,)

    def __init__(
        self,
        *,
        rules: JoinRules,
        lateness: Lateness,
        feedback: RowBuffer,
        dedup: DedupIndex,
        recall: Recall,
        unknown: UnknownItems,
    ) -> None:
        self._rules, self._spans = rules, rules.spans()
        self._lateness = lateness
        self._feedback, self._dedup, self._recall = feedback, dedup, recall
        self._unknown = unknown
        self._pending: list[Int64s] = []
        self.examined: Mapping[Log, int] = dict.fromkeys(filter(is_feedback, rules.logs), 0)

    @property
    def has_pending(self) -> bool:
        """Whether there is feedback that was not compared with closed decisions yet."""
        return any(len(rows) for rows in self._pending)

    def restore(self, offsets: Mapping[Log, int], examined: Mapping[Log, int]) -> None:
        """Continue where a commit ended: *offsets* are the next offsets of all logs."""
        known = {log: offset for log, offset in offsets.items() if is_feedback(log)}
        self.examined = {**known, **examined}

    def is_too_late(self, last_use: Int64s, frontier: int) -> Bools:
        """Return False for all: feedback of a closed decision may revise its example."""
        return np.zeros(len(last_use), dtype=np.bool_)

    def enqueue(self, rows: Int64s, positions: Int64s) -> None:
        """Have *rows* of the open feedback compared with closed decisions at the next close."""
        self._pending.append(rows[is_unexamined(positions, self.examined)])

    def split(self, at: Int64s, pairs: Pairs) -> tuple[Pairs, LatePairs | None]:
        """Return the pairs that were on time for decisions made *at*, and the late ones."""
        (before,) = self._feedback.columns(pairs.rows, "before")
        on_time = self._lateness.is_on_time(before, at[pairs.decision])
        if on_time.all():
            return pairs, None
        return pairs.filter(on_time), revised_pairs(pairs, ~on_time)

    def revise(self, frontier: int) -> Revised | None:
        """Return the decisions earlier than *frontier* that new feedback revises, if any."""
        rows = np.concatenate(self._pending) if self._pending else np.empty(0, dtype=np.int64)
        self._pending = []
        pairs = self._late_for(rows, frontier)
        answers = self._feedback.frame(pairs.rows)
        if answers is None:
            return None
        answers = answers.with_columns(
            pl.Series("made", pairs.decision).cast(pl.Datetime("us", "UTC")),
            pl.Series("row", pairs.rows),
        )
        wanted = answers.select("decision_id", at="made").unique(maintain_order=True)
        recalled = self._recall(wanted)
        if self._rules.has_items:
            self._unknown.set_aside(untaken(answers, recalled.examples))
        return self._merged(recalled, answers)

    def _late_for(self, rows: Int64s, frontier: int) -> Pairs:
        """Return those of *rows* that are late for a closed decision, with the time of each."""
        spans = self._spans
        at, before, kind = self._feedback.columns(rows, "at", "before", "kind")
        # Nearly all feedback is on time, and too recent to belong to a closed decision.
        possible = at - spans.within[kind] < np.minimum(frontier, before - spans.close)
        rows, at, before, kind = rows[possible], at[possible], before[possible], kind[possible]
        key, check = self._feedback.columns(rows, "key", "check")
        hits = self._dedup.find(Keys.of(key, check))
        its = hits.query
        right = hits.is_first & (hits.at < frontier)
        right &= is_inside(at[its], hits.at, kind[its], spans)
        right &= before[its] <= hits.at + spans.close + spans.corrections
        order = np.argsort(its[right])
        return Pairs(hits.at[right][order], rows[its[right][order]])

    def _merged(self, recalled: Recalled, answers: pl.DataFrame) -> Revised | None:
        """Return the *recalled* decisions that *answers* revise, each with all of its feedback."""
        examples = recalled.examples.rename({"decision_id": "id"})
        examples = conformed(
            examples, self._rules.of_decision, "offset", "revision", "feedback_offsets"
        ).with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(GROUP))
        known = (
            examples.select(GROUP, "feedback_offsets", decision="offset")
            .explode("feedback_offsets")
            .rename({"feedback_offsets": "offset"})
            .join(conformed(recalled.feedback, self._rules.feedback, "offset"), on="offset")
            .with_columns(STREAM.alias("stream"))
        )
        # A decision with items has several examples; its feedback is one, whatever takes it.
        of_decision = ["decision", "id", "stream"]
        fresh = (
            self._taken(answers, examples)
            .with_columns(STREAM.alias("stream"))
            .join(known, on=of_decision, how="anti")
            .filter(pl.col("offset") == pl.col("offset").min().over(of_decision))
            .sort("offset", GROUP)
        )
        if fresh.is_empty():
            return None
        more = fresh.group_by(GROUP).agg(pl.len().alias("more")).sort(GROUP)
        revision = (pl.col("revision") + pl.col("more")).cast(pl.Int32)
        decisions = examples.join(more, on=GROUP, maintain_order="right").with_columns(revision)
        joined = pl.concat([part.select(GROUP, *_JOINED) for part in (known, fresh)])
        numbers = decisions.select(GROUP).with_row_index("number")
        return Revised(
            decisions=decisions.drop(GROUP, "more", "feedback_offsets"),
            joined=joined.join(numbers, on=GROUP)
            .with_columns(pl.col("number").cast(pl.Int64).alias(GROUP))
            .drop("number")
            .sort(GROUP, "at", "offset"),
            rows=fresh["row"].unique().sort().to_numpy(),
        )

    def _taken(self, answers: pl.DataFrame, examples: pl.DataFrame) -> pl.DataFrame:
        """Return *answers* once for each of *examples* that takes them, with its number."""
        its = {"decision": "offset", "decision_id": "id", "made": "at"}
        if not self._rules.has_items:
            return answers.join(examples.select(GROUP, **its), on=["decision_id", "made"])
        shown = examples.select(GROUP, shown="item", **its)
        return answers.join(shown, on=["decision_id", "made"]).filter(IS_TAKEN)


def is_unexamined(positions: Int64s, examined: Mapping[Log, int]) -> Bools:
    """Return which feedback is at or behind the offset *examined* of its log."""
    fresh = np.zeros(len(positions), dtype=np.bool_)
    for log, offset in examined.items():
        begin, end = position_of(log, offset), first_position(log) + OFFSETS
        fresh |= (positions >= begin) & (positions < end)
    return fresh


def revised_pairs(pairs: Pairs, is_late: Bools) -> LatePairs:
    """Return the decisions that have late feedback, with all of their pairs."""
    which, late = np.unique(pairs.decision[is_late], return_counts=True)
    its = pairs.filter(np.isin(pairs.decision, which))
    return LatePairs(
        decision=which,
        revision=late,
        pairs=Pairs(np.searchsorted(which, its.decision), its.rows),
    )
