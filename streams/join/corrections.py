"""Late truth: feedback that comes after the close of its decision, and the example it revises.

Revision n of an example is the example with the first n late feedback of its decision, in the order
of the log. Of those that become known between two commits only the last is written, so the newest
revision, and what each number stands for, are functions of the logs alone; but of several streams
it may depend on reading whose late feedback is the first. Closed decisions are not
kept in memory for it: their ids are, and what else is needed is recalled from the lake.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl

from tidemill.schemas.logs import OFFSETS, Log, first_position, is_feedback, position_of
from tidemill.streams.id_hashes import Keys
from tidemill.streams.join.checkpoints import fitted
from tidemill.streams.join.labels import GROUP
from tidemill.streams.join.lateness import Lateness
from tidemill.streams.join.matching import STREAM, Pairs, is_inside
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.state.dedup import DedupIndex
from tidemill.streams.state.row_buffer import RowBuffer
from tidemill.streams.units import Bools, Int64s

_JOINED = ("kind", "at", "offset", "values")
_DECISION_ID = "decision_id"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LatePairs:
    """Decisions that close with late feedback at once: *decision* says which, *revision* how much.

    *pairs* are all feedback of these decisions alone, which are counted anew, from 0.
    """

    decision: Int64s
    revision: Int64s
    pairs: Pairs


class Corrections(Protocol):
    """What a join does with feedback that comes after the close of its decision."""

    columns: tuple[str, ...]
    """Columns of feedback that are kept beside those that every join keeps."""

    examined: Mapping[Log, int]
    """Up to which offset each log of feedback was compared with closed decisions at the start."""

    @property
    def has_news(self) -> bool:
        """Whether feedback has come that was not compared with closed decisions yet."""

    def restore(self, offsets: Mapping[Log, int], examined: Mapping[Log, int]) -> None:
        """Go on where a commit left it: *offsets* are the next ones of all logs."""

    def is_too_late(self, last_use: Int64s, frontier: int) -> Bools:
        """Tell which feedback no decision takes, because all it could belong to are closed."""

    def note(self, rows: Int64s, positions: Int64s) -> None:
        """Have *rows* of the open feedback compared with closed decisions at the next close."""

    def split(self, at: Int64s, pairs: Pairs) -> tuple[Pairs, LatePairs | None]:
        """Return the pairs that were on time for decisions made *at*, and the late ones."""

    def revise(self, frontier: int) -> Revised | None:
        """Return the decisions earlier than *frontier* that new feedback revises, if any."""


class NoCorrections:
    """What is closed stays as it is: the loop declares no `corrections`."""

    columns: tuple[str, ...] = ()
    has_news = False

    def __init__(self) -> None:
        self.examined: Mapping[Log, int] = {}

    def restore(self, offsets: Mapping[Log, int], examined: Mapping[Log, int]) -> None:
        """Keep what a version of the loop with corrections had examined."""
        self.examined = dict(examined)

    def is_too_late(self, last_use: Int64s, frontier: int) -> Bools:
        """Tell which feedback could belong to closed decisions alone."""
        return last_use < frontier

    def note(self, rows: Int64s, positions: Int64s) -> None:
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
    ) -> None:
        self._rules, self._spans = rules, rules.spans()
        self._lateness = lateness
        self._feedback, self._dedup, self._recall = feedback, dedup, recall
        self._fresh: list[Int64s] = []
        self.examined: Mapping[Log, int] = dict.fromkeys(filter(is_feedback, rules.logs), 0)

    @property
    def has_news(self) -> bool:
        """Whether feedback has come that was not compared with closed decisions yet."""
        return any(len(rows) for rows in self._fresh)

    def restore(self, offsets: Mapping[Log, int], examined: Mapping[Log, int]) -> None:
        """Go on where a commit left it: *offsets* are the next ones of all logs."""
        known = {log: offset for log, offset in offsets.items() if is_feedback(log)}
        self.examined = {**known, **examined}

    def is_too_late(self, last_use: Int64s, frontier: int) -> Bools:
        """Tell that none is: what belongs to a closed decision may revise it."""
        return np.zeros(len(last_use), dtype=np.bool_)

    def note(self, rows: Int64s, positions: Int64s) -> None:
        """Have *rows* of the open feedback compared with closed decisions at the next close."""
        self._fresh.append(rows[is_unexamined(positions, self.examined)])

    def split(self, at: Int64s, pairs: Pairs) -> tuple[Pairs, LatePairs | None]:
        """Return the pairs that were on time for decisions made *at*, and the late ones."""
        (before,) = self._feedback.columns(pairs.rows, "before")
        on_time = self._lateness.is_on_time(before, at[pairs.decision])
        if on_time.all():
            return pairs, None
        return pairs.only(on_time), revised_pairs(pairs, ~on_time)

    def revise(self, frontier: int) -> Revised | None:
        """Return the decisions earlier than *frontier* that new feedback revises, if any."""
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
        found = self._dedup.find(Keys.of(key, check))
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


def is_unexamined(positions: Int64s, examined: Mapping[Log, int]) -> Bools:
    """Tell which feedback was not compared with closed decisions, as of the offsets *examined*."""
    fresh = np.zeros(len(positions), dtype=np.bool_)
    for log, offset in examined.items():
        begin, end = position_of(log, offset), first_position(log) + OFFSETS
        fresh |= (positions >= begin) & (positions < end)
    return fresh


def revised_pairs(pairs: Pairs, is_late: Bools) -> LatePairs:
    """Return the decisions that have late feedback, with all of their pairs."""
    which, late = np.unique(pairs.decision[is_late], return_counts=True)
    its = pairs.only(np.isin(pairs.decision, which))
    return LatePairs(
        decision=which,
        revision=late,
        pairs=Pairs(np.searchsorted(which, its.decision), its.rows),
    )
