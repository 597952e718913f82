"""Which feedback belongs to which decision, and what becomes of feedback that belongs to none.

Numbers in, numbers out: times in microseconds, ids as keys, rows as numbers of `RowBuffer`. The
rules in words are in docs/guide/joins.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from tidemill.schemas.logs import OFFSETS
from tidemill.streams.id_hashes import Keys
from tidemill.streams.join.rules import Spans
from tidemill.streams.state.dedup import DedupIndex
from tidemill.streams.state.key_index import KeyIndex
from tidemill.streams.state.row_buffer import RowBuffer
from tidemill.streams.units import Bools, Int64s

STREAM = pl.col("offset") // OFFSETS
"""The number of the stream that a place lies in: feedback ids are those of their stream."""
OnTime = Callable[[Int64s, Int64s], Bools]
"""Tells from stream times before the feedback and times of the decisions what came on time."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Feedback *rows*, ascending, and the place of the decision that each belongs to."""

    decision: Int64s
    rows: Int64s

    def only(self, kept: Bools) -> "Pairs":
        """Return the pairs for which *kept* is true."""
        return self if kept.all() else Pairs(self.decision[kept], self.rows[kept])


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackOutcomes:
    """How much feedback turned out to belong to no decision, by the reason."""

    late: int
    duplicate: int
    unmatched: int

    @property
    def total(self) -> int:
        """How much in all."""
        return self.late + self.duplicate + self.unmatched


def match(
    ids: Keys, at: Int64s, feedback: RowBuffer, index: KeyIndex, spans: Spans, on_time: OnTime
) -> Pairs:
    """Return the waiting feedback of the decisions *ids*, made *at*, all copies of it.

    Args:
        ids: the decisions, no id twice with overlapping windows.
        at: shape as *ids*; when they were made.
        feedback: rows with columns at, before, kind, check, offset and a frame with *id*.
        index: finds the rows of *feedback* by the key of their decision id.
        spans: the windows.
        on_time: the test against the stream time of the feedback's own log.
    """
    hits = index.find(ids)
    order = np.argsort(hits.payload)
    pairs = Pairs(hits.query[order], hits.payload[order])
    pairs = pairs.only(feedback.waiting(pairs.rows))
    check, its_at, before, kind = feedback.columns(pairs.rows, "check", "at", "before", "kind")
    made = at[pairs.decision]
    same = check == ids.check[pairs.decision]
    inside = is_inside(its_at, made, kind, spans)
    return pairs.only(same & inside & on_time(before, made))


def is_inside(at: Int64s, made: Int64s, kind: Int64s, spans: Spans) -> Bools:
    """Tell which feedback is in the window of its decision, both ends included."""
    return (at >= made - spans.early[kind]) & (at <= made + spans.within[kind])


def first_copies(pairs: Pairs, feedback: RowBuffer) -> Pairs:
    """Return *pairs* without those whose feedback id the same decision has at a lower offset.

    Copies are of one stream: two services may well count their events from 1.
    """
    if not len(pairs.rows):
        return pairs
    several = np.bincount(pairs.decision)[pairs.decision] > 1
    rows = pairs.rows[several]
    ids = feedback.frame(rows)
    if ids is None:
        return pairs
    frame = ids.select("id", "offset").with_columns(decision=pairs.decision[several])
    is_first = pl.col("offset") == pl.col("offset").min().over("decision", "id", STREAM)
    kept = ~several
    kept[several] = frame.select(is_first).to_series().to_numpy()
    return pairs.only(kept)


def feedback_outcomes(
    rows: Int64s,
    feedback: RowBuffer,
    seen: DedupIndex,
    spans: Spans,
    on_time: OnTime,
) -> FeedbackOutcomes:
    """Say what became of *rows*, which no decision has taken and none can take any more.

    A row that a first decision would have taken is a duplicate of one it did take. Else it is late
    if its id was seen no longer ago than ids are remembered, and unmatched if not.
    """
    if not len(rows):
        return FeedbackOutcomes(late=0, duplicate=0, unmatched=0)
    columns = feedback.columns(rows, "key", "check", "at", "before", "kind")
    key, check, at, before, kind = columns
    found = seen.find(Keys.of(key, check))
    its_at, its_kind = at[found.query], kind[found.query]
    inside = is_inside(its_at, found.at, its_kind, spans)
    taken = found.is_first & inside & on_time(before[found.query], found.at)
    known = (found.at >= its_at - spans.memory) & (found.at <= its_at + spans.early[its_kind])
    is_duplicate = np.zeros(len(rows), dtype=np.bool_)
    is_duplicate[found.query[taken]] = True
    is_known = np.zeros(len(rows), dtype=np.bool_)
    is_known[found.query[known]] = True
    duplicate = int(np.count_nonzero(is_duplicate))
    late = int(np.count_nonzero(is_known & ~is_duplicate))
    return FeedbackOutcomes(late=late, duplicate=duplicate, unmatched=len(rows) - duplicate - late)
