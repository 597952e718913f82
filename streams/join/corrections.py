"""Late truth: feedback that comes after the close of its decision, and the example it revises.

Revision n of an example is the example with the first n late feedback of its decision, in the order
of the log. Of those that become known between two commits only the last is written, so the newest
revision, and what each number stands for, are functions of the logs alone; but of several streams
it may depend on reading whose late feedback is the first. Closed decisions are not
kept in memory for it: their ids are, and what else is needed is recalled from the lake.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from tidemill.streams.id_hashes import Keys
from tidemill.streams.join.checkpoints import fitted
from tidemill.streams.join.labels import GROUP
from tidemill.streams.join.matching import STREAM, Pairs, is_inside
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.state.dedup import DedupIndex
from tidemill.streams.state.row_buffer import RowBuffer
from tidemill.streams.units import Bools, Int64s

_JOINED = ("kind", "at", "offset", "values")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """What was written of some closed decisions: the newest revision of each, and its feedback.

    *examples* has the columns of `build_examples`, *feedback* those of the raw table.
    """

    examples: pl.DataFrame
    feedback: pl.DataFrame


Recall = Callable[[pl.DataFrame], Recalled]
"""Reads back what was committed of closed decisions, named by *decision_id* and *at*."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revised:
    """Decisions with late feedback: their rows, all of their feedback, and what took part in it.

    *decisions* has *revision* beside the columns of a decision, *joined* is ordered as labels see
    it, *rows* are the late feedback that is new.
    """

    decisions: pl.DataFrame
    joined: pl.DataFrame
    rows: Int64s


class LateTruth:
    """The feedback of one partition that was not held against closed decisions yet."""

    def __init__(
        self, rules: JoinRules, feedback: RowBuffer, seen: DedupIndex, recall: Recall
    ) -> None:
        self._rules, self._spans = rules, rules.spans()
        self._feedback, self._seen, self._recall = feedback, seen, recall
        self._fresh: list[Int64s] = []

    def note(self, rows: Int64s) -> None:
        """Have *rows* of the waiting feedback examined at the next close."""
        self._fresh.append(rows)

    def revise(self, frontier: int) -> Revised | None:
        """Return the decisions earlier than *frontier* that fresh feedback revises, or None."""
        rows = np.concatenate(self._fresh) if self._fresh else np.empty(0, dtype=np.int64)
        self._fresh = []
        pairs = self._late_for(rows, frontier)
        answers = self._feedback.frame(pairs.rows)
        if answers is None:
            return None
        answers = answers.with_columns(
            pl.Series("made", pairs.decision).cast(pl.Datetime("us", "UTC")),
            pl.Series("row", pairs.rows),
        )
        wanted = answers.select("decision_id", at="made").unique(maintain_order=True)
        return self._put_together(self._recall(wanted), answers)

    def _late_for(self, rows: Int64s, frontier: int) -> Pairs:
        """Return which of *rows* come late to a closed decision, and when it was made."""
        spans = self._spans
        at, before, kind = self._feedback.columns(rows, "at", "before", "kind")
        # Nearly all feedback is on time, and so early in its window that no closed one is meant.
        possible = at - spans.within[kind] < np.minimum(frontier, before - spans.close)
        rows, at, before, kind = rows[possible], at[possible], before[possible], kind[possible]
        key, check = self._feedback.columns(rows, "key", "check")
        found = self._seen.find(Keys.of(key, check))
        its = found.query
        right = found.is_first & (found.at < frontier)
        right &= is_inside(at[its], found.at, kind[its], spans)
        right &= before[its] <= found.at + spans.close + spans.corrections
        order = np.argsort(its[right])
        return Pairs(found.at[right][order], rows[its[right][order]])

    def _put_together(self, recalled: Recalled, answers: pl.DataFrame) -> Revised | None:
        examples = recalled.examples.rename({"decision_id": "id"})
        examples = fitted(
            examples, self._rules.decisions, "offset", "revision", "feedback_offsets"
        ).with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(GROUP))
        known = (
            examples.select(GROUP, pl.col("feedback_offsets").alias("offset"))
            .explode("offset")
            .join(fitted(recalled.feedback, self._rules.feedback, "offset"), on="offset")
            .with_columns(STREAM.alias("stream"))
        )
        places = examples.select(GROUP, decision_id="id", made="at")
        fresh = (
            answers.join(places, on=["decision_id", "made"])
            .with_columns(STREAM.alias("stream"))
            .join(known, on=[GROUP, "id", "stream"], how="anti")
            .sort("offset")
            .unique([GROUP, "id", "stream"], keep="first", maintain_order=True)
        )
        if fresh.is_empty():
            return None
        more = fresh.group_by(GROUP).agg(pl.len().alias("more")).sort(GROUP)
        revision = (pl.col("revision") + pl.col("more")).cast(pl.Int32)
        decisions = examples.join(more, on=GROUP, maintain_order="right").with_columns(revision)
        joined = pl.concat([part.select(GROUP, *_JOINED) for part in (known, fresh)])
        places = decisions.select(GROUP).with_row_index("place")
        return Revised(
            decisions=decisions.drop(GROUP, "more", "feedback_offsets"),
            joined=joined.join(places, on=GROUP)
            .with_columns(pl.col("place").cast(pl.Int64).alias(GROUP))
            .drop("place")
            .sort(GROUP, "at", "offset"),
            rows=fresh["row"].sort().to_numpy(),
        )


def revised_pairs(pairs: Pairs, is_late: Bools) -> tuple[Int64s, Int64s, Pairs]:
    """Return the decisions with late feedback, how much each has, and all pairs of those alone.

    The pairs returned count the decisions anew, from 0.
    """
    which, late = np.unique(pairs.decision[is_late], return_counts=True)
    kept = pairs.only(np.isin(pairs.decision, which))
    return which, late, Pairs(np.searchsorted(which, kept.decision), kept.rows)
