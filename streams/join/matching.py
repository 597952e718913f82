"""Which feedback belongs to which decision, and the outcome of feedback that belongs to none.

Times are in microseconds, ids are keys, rows are numbers of a `RowBuffer`. docs/guide/joins.md has
the rules in words.
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
"""The number of a row's stream, from its log position: feedback ids are unique within a stream."""
OnTime = Callable[[Int64s, Int64s], Bools]
"""Returns which feedback is in time: from the stream time before it and the decision's time."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Feedback *rows*, ascending, and the number of the decision that each belongs to."""

    decision: Int64s
    rows: Int64s

    def filter(self, mask: Bools) -> "Pairs":
        """Return the pairs for which *mask* is true."""
        return self if mask.all() else Pairs(self.decision[mask], self.rows[mask])


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackOutcomes:
    """How much feedback belongs to no decision, by the reason."""

    late: int
    duplicate: int
    unmatched: int
    misplaced: int = 0
    unknown_item: int = 0

    @property
    def total(self) -> int:
        """The sum of all reasons."""
        return self.late + self.duplicate + self.unmatched + self.misplaced + self.unknown_item


def match(
    ids: Keys, at: Int64s, feedback: RowBuffer, index: KeyIndex, spans: Spans, on_time: OnTime
) -> Pairs:
    """Return the waiting feedback of the decisions *ids*, made *at*, with all of its copies.

    Args:
        ids: the decisions; two of one id do not have overlapping windows.
        at: shape as *ids*; when they were made.
        feedback: rows with columns at, before, kind, check, offset, and a frame with *id*.
        index: the rows of *feedback* by the key of their decision id.
        spans: the windows.
        on_time: the test against the stream time of the feedback's own log.
    """
    hits = index.find(ids)
    order = np.argsort(hits.payload)
    pairs = Pairs(hits.query[order], hits.payload[order])
    pairs = pairs.filter(feedback.waiting(pairs.rows))
    check, its_at, before, kind = feedback.columns(pairs.rows, "check", "at", "before", "kind")
    made = at[pairs.decision]
    same = check == ids.check[pairs.decision]
    inside = is_inside(its_at, made, kind, spans)
    return pairs.filter(same & inside & on_time(before, made))


def is_inside(at: Int64s, made: Int64s, kind: Int64s, spans: Spans) -> Bools:
    """Return which feedback is in the window of its decision, both ends included."""
    return (at >= made - spans.early[kind]) & (at <= made + spans.within[kind])


def first_copies(pairs: Pairs, feedback: RowBuffer) -> Pairs:
    """Return *pairs* without feedback whose id the same decision has at a lower offset.

    Copies are of one stream, because two services may both number their events from 1.
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
    first = ~several
    first[several] = frame.select(is_first).to_series().to_numpy()
    return pairs.filter(first)


def feedback_outcomes(
    rows: Int64s,
    feedback: RowBuffer,
    dedup: DedupIndex,
    spans: Spans,
    on_time: OnTime,
) -> FeedbackOutcomes:
    """Count the outcomes of *rows*, which no decision has taken and none can take any more.

    A row that a first decision could have taken is a duplicate of one that it took. Another row is
    late if the dedup index still has its decision id. If not, it is misplaced if its decision
    belongs to another partition, else unmatched.
    """
    if not len(rows):
        return FeedbackOutcomes(late=0, duplicate=0, unmatched=0)
    columns = feedback.columns(rows, "key", "check", "at", "before", "kind", "misplaced")
    key, check, at, before, kind, is_misplaced = columns
    hits = dedup.find(Keys.of(key, check))
    its_at, its_kind = at[hits.query], kind[hits.query]
    inside = is_inside(its_at, hits.at, its_kind, spans)
    taken = hits.is_first & inside & on_time(before[hits.query], hits.at)
    known = (hits.at >= its_at - spans.memory) & (hits.at <= its_at + spans.early[its_kind])
    is_duplicate = np.zeros(len(rows), dtype=np.bool_)
    is_duplicate[hits.query[taken]] = True
    is_known = np.zeros(len(rows), dtype=np.bool_)
    is_known[hits.query[known]] = True
    duplicate = int(np.count_nonzero(is_duplicate))
    late = int(np.count_nonzero(is_known & ~is_duplicate))
    misplaced = int(np.count_nonzero(is_misplaced.astype(np.bool_) & ~is_known & ~is_duplicate))
    return FeedbackOutcomes(
        late=late,
        duplicate=duplicate,
        unmatched=len(rows) - duplicate - late - misplaced,
        misplaced=misplaced,
    )
