"""The open feedback of one partition: it waits until a decision takes it or its time is past."""

from collections.abc import Mapping
from dataclasses import replace

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
    is_inside,
    match,
)
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.join.shown_items import ShownItems, UnknownItems, untaken
from tidemill.streams.placement import IsMisplaced, nothing_misplaced
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.units import NEVER, Bools, Int64s

_COLUMNS = ("id", "kind", "at", "offset", "values")
_ITEM = ("item",)


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
        self._unknown = UnknownItems(self._rows)
        self._recall = recall or _no_recall
        self.corrections = self._new_corrections()
        of_items = _ITEM if rules.has_items else ()
        self._columns = (*_COLUMNS, *of_items, *self.corrections.columns)

    def __len__(self) -> int:
        return len(self._rows) + len(self._unknown)

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

    def pairs(self, ids: Keys, at: Int64s, shown: ShownItems | None = None) -> Pairs:
        """Return the rows that the decisions *ids*, made *at*, take: the first copy of each.

        Rows that none of the items *shown* takes, if decisions have items, are set aside.
        """
        copies = match(ids, at, self._rows, self._index, self._spans, self._lateness.is_in_time)
        if shown is not None:
            is_taken = shown.takes(copies, self._items(copies))
            self._unknown.set_aside(copies.rows[~is_taken])
            copies = copies.filter(is_taken)
        return self._first_copies(copies)

    def of_items(self, pairs: Pairs, shown: ShownItems) -> Pairs:
        """Return *pairs* with the numbers of the rows of *shown* that take them."""
        return shown.spread(pairs, self._items(pairs))

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
        if len(self._unknown):
            ended = replace(ended, unknown_item=self._unknown.close(frontier - self._spans.ahead))
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
        if self._rules.has_items:
            is_unknown = self._is_unknown(frame, at, before, is_open, frontier)
            self._unknown.add(at[is_unknown])
            is_open &= ~is_unknown
        self._add(frame, at, before, is_open, self.misplaced(frame))

    def _is_unknown(
        self, frame: pl.DataFrame, at: Int64s, before: Int64s, is_open: Bools, frontier: int
    ) -> Bools:
        """Return which rows of *frame*, of those that are open, were set aside before a restart.

        Their decision is closed, takes them and has shown no item that does.
        """
        (asked,) = np.nonzero(is_open)
        hits = self._dedup.find(id_keys(frame["decision_id"]).filter(is_open))
        rows = asked[hits.query]
        taken = hits.is_first & (hits.at < frontier)
        taken &= is_inside(at[rows], hits.at, self._kind_codes(frame)[rows], self._spans)
        taken &= self._lateness.is_in_time(before[rows], hits.at)
        rows, made = rows[taken], hits.at[taken]
        unknown = np.zeros(len(frame), dtype=np.bool_)
        if len(rows):
            answers = frame[rows].with_columns(
                pl.Series("made", made).cast(pl.Datetime("us", "UTC")), pl.Series("row", rows)
            )
            wanted = answers.select("decision_id", at="made").unique()
            examples = self._recall(wanted).examples
            unknown[untaken(answers, examples)] = True
        return unknown

    def _items(self, pairs: Pairs) -> pl.Series:
        """Return the items that the feedback of *pairs* names, null for none."""
        frame = self._rows.frame(pairs.rows)
        return pl.Series("item", [], dtype=pl.String) if frame is None else frame["item"]

    def _new_corrections(self) -> Corrections:
        if not self._rules.corrections:
            return NoCorrections()
        return LateTruth(
            rules=self._rules,
            lateness=self._lateness,
            feedback=self._rows,
            dedup=self._dedup,
            recall=self._recall,
            unknown=self._unknown,
        )

    def _first_copies(self, pairs: Pairs) -> Pairs:
        return first_copies(pairs, self._rows)

    def _add(
        self, frame: pl.DataFrame, at: Int64s, before: Int64s, is_open: Bools, misplaced: Bools
    ) -> None:
        ids = id_keys(frame["decision_id"])
        columns = {"at": at, "before": before, "offset": frame["offset"].to_numpy()}
        columns |= {"kind": self._kind_codes(frame)}
        columns |= {"key": ids.key, "check": ids.check, "misplaced": misplaced.astype(np.int64)}
        rows = frame.select(self._columns)
        if not is_open.all():
            rows = rows.filter(pl.Series(is_open))
            columns = {name: values[is_open] for name, values in columns.items()}
        numbers = self._rows.add(rows, columns)
        self.corrections.enqueue(numbers, columns["offset"])
        self._index.add(ids.filter(is_open), columns["at"], numbers)

    def _kind_codes(self, frame: pl.DataFrame) -> Int64s:
        """Return the kind of each row as its number in the loop; one more for unknown kinds."""
        kinds = frame["kind"].cast(self._kinds, strict=False).to_physical()
        return kinds.cast(pl.Int64).fill_null(len(self._kinds.categories)).to_numpy()


def _no_recall(wanted: pl.DataFrame) -> Recalled:
    raise ValueError(f"{len(wanted)} closed decisions are to be revised, and no recall was given")
