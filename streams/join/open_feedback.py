"""The open feedback of one partition: it waits until a decision takes it or its time is past."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from tidemill.schemas.logs import Log
from tidemill.streams.id_hashes import Keys, id_keys
from tidemill.streams.join.checkpoints import conformed
from tidemill.streams.join.corrections import (
    Corrections,
    LateTruth,
    NoCorrections,
    Recall,
    Recalled,
    is_unexamined,
)
from tidemill.streams.join.labels import GROUP
from tidemill.streams.join.lateness import Lateness
from tidemill.streams.join.matching import (
    FeedbackOutcomes,
    Pairs,
    feedback_outcomes,
    first_copies,
    match,
)
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.placement import IsMisplaced, nothing_misplaced
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.units import NEVER, Bools, Int64s

_COLUMNS = ("id", "kind", "at", "offset", "values")


class OpenFeedback:
    """Feedback that is neither joined nor counted yet, indexed by the id of its decision."""

    def __init__(
        self,
        *,
        rules: JoinRules,
        lateness: Lateness,
        state: OpenState,
        recall: Recall | None = None,
        is_misplaced: IsMisplaced = nothing_misplaced,
    ) -> None:
        """Store rows in *state*; *recall* is needed where the rules have corrections."""
        self._is_misplaced = is_misplaced
        self._rules, self._spans = rules, rules.spans()
        self._lateness = lateness
        self._rows, self._index, self._dedup = state.feedback, state.feedback_of, state.dedup
        self._kinds = pl.Enum(list(rules.within))
        self.corrections = self._new_corrections(recall or _no_recall)

    def __len__(self) -> int:
        return len(self._rows)

    def misplaced(self, frame: pl.DataFrame) -> Bools:
        """Return which rows of *frame* are of decisions that belong to another partition."""
        return self._is_misplaced(frame["decision_id"])

    def take(
        self, frame: pl.DataFrame, at: Int64s, before: Int64s, frontier: int, misplaced: Bools
    ) -> Bools:
        """Add the rows of *frame* that a decision may still take; return which rows are too late.

        Args:
            frame: feedback with the columns of its schema and *offset*, which has log positions.
            at: shape (n,); event times.
            before: shape (n,); the stream time before each row.
            frontier: decisions earlier than this are closed.
            misplaced: shape (n,); what `misplaced` says of the rows.
        """
        late = self._lateness.is_past_every_window(at, before)
        late |= self.corrections.is_too_late(at + self._spans.ahead, frontier)
        self._add(frame, at, before, ~late, misplaced)
        return late

    def pairs(self, ids: Keys, at: Int64s) -> Pairs:
        """Return the rows that the decisions *ids*, made *at*, take: the first copy of each."""
        copies = match(ids, at, self._rows, self._index, self._spans, self._lateness.is_in_time)
        return self._first_copies(copies)

    def joined(self, pairs: Pairs) -> pl.DataFrame | None:
        """Return the rows of *pairs* by decision, time and offset, as labels read them; or None."""
        frame = self._rows.frame(pairs.rows)
        if frame is None:
            return None
        at, offset = self._rows.columns(pairs.rows, "at", "offset")
        order = np.lexsort((offset, at, pairs.decision))
        columns = (*("kind", "at", "offset", "values"), pl.Series(GROUP, pairs.decision))
        return frame.select(columns)[order]

    def remove(self, rows: Int64s) -> None:
        """Remove *rows*, which decisions have taken."""
        self._rows.remove(rows)

    def close(self, frontier: int) -> FeedbackOutcomes:
        """Remove and count the rows that no decision from *frontier* on can take."""
        rows = self._rows.due(frontier - self._spans.ahead)
        ended = feedback_outcomes(
            rows, self._rows, self._dedup, self._spans, self._lateness.is_in_time
        )
        self._rows.remove(rows)
        return ended

    def forget(self, frontier: int) -> None:
        """Drop index entries that no decision from *frontier* on can ask for."""
        self._index.forget(frontier - self._spans.ahead)

    def restore(self, offsets: Mapping[Log, int], examined: Mapping[Log, int]) -> None:
        """Continue where a commit ended: *offsets* are the next offsets of all logs."""
        self.corrections.restore(offsets, examined)

    def recall(self, raw: pl.DataFrame, frontier: int, joined: Int64s | None = None) -> None:
        """Add the rows of *raw* that are still open.

        Args:
            raw: rows of the raw table, with *verdict* and *stream_time*.
            frontier: decisions earlier than this are closed.
            joined: sorted log positions of feedback that examples have taken already.
        """
        frame = conformed(raw, self._rules.feedback, "offset", "verdict", "stream_time")
        at, offset = frame["at"].to_physical().to_numpy(), frame["offset"].to_numpy()
        before = frame["stream_time"].to_physical().fill_null(NEVER).to_numpy()
        is_open = at + self._spans.ahead >= frontier
        is_open |= is_unexamined(offset, self.corrections.examined)
        is_open &= frame["verdict"].is_null().to_numpy()
        if joined is not None and len(joined):
            nearest = np.minimum(np.searchsorted(joined, offset), len(joined) - 1)
            is_open &= joined[nearest] != offset
        self._add(frame, at, before, is_open, self.misplaced(frame))

    def _new_corrections(self, recall: Recall) -> Corrections:
        if not self._rules.corrections:
            return NoCorrections()
        return LateTruth(
            rules=self._rules,
            lateness=self._lateness,
            feedback=self._rows,
            dedup=self._dedup,
            recall=recall,
        )

    def _first_copies(self, pairs: Pairs) -> Pairs:
        return first_copies(pairs, self._rows)

    def _add(
        self, frame: pl.DataFrame, at: Int64s, before: Int64s, is_open: Bools, misplaced: Bools
    ) -> None:
        ids = id_keys(frame["decision_id"])
        kinds = frame["kind"].cast(self._kinds, strict=False).to_physical()
        unknown = len(self._kinds.categories)
        columns = {"at": at, "before": before, "offset": frame["offset"].to_numpy()}
        columns |= {"kind": kinds.cast(pl.Int64).fill_null(unknown).to_numpy()}
        columns |= {"key": ids.key, "check": ids.check, "misplaced": misplaced.astype(np.int64)}
        rows = frame.select(*_COLUMNS, *self.corrections.columns)
        if not is_open.all():
            rows = rows.filter(pl.Series(is_open))
            columns = {name: values[is_open] for name, values in columns.items()}
        numbers = self._rows.add(rows, columns)
        self.corrections.enqueue(numbers, columns["offset"])
        self._index.add(ids.filter(is_open), columns["at"], numbers)


def _no_recall(wanted: pl.DataFrame) -> Recalled:
    raise ValueError(f"{len(wanted)} closed decisions are to be revised, and no recall was given")
