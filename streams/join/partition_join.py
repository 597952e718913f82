"""The join of one partition: batches of its logs in, closed decisions with their feedback out.

The result is a function of the logs alone; docs/guide/joins.md has the rules. The order in which
logs are read, the size of batches, a crash or a replay do not change it. Agents, backfill, audit
and tests run this same code.

Longer than 300 lines because taking, closing and recovery share the open rows and the frontier.
"""

from datetime import datetime

import numpy as np
import polars as pl

from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.streams.id_hashes import Keys, id_keys
from tidemill.streams.join.checkpoints import Advance, Closed, Counts, Resume, conformed
from tidemill.streams.join.corrections import Recall
from tidemill.streams.join.examples import build_examples
from tidemill.streams.join.labels import Labels
from tidemill.streams.join.lateness import Lateness, StreamTimes
from tidemill.streams.join.open_feedback import OpenFeedback
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.join.shown_items import ShownItems
from tidemill.streams.join.verdicts import DUPLICATE, with_verdicts
from tidemill.streams.placement import IsMisplaced, nothing_misplaced
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.state.spill_store import SpillHandle
from tidemill.streams.units import FIRST_MOMENT, NEVER, Bools, Int64s, micros, moment

__all__ = ["Advance", "Closed", "Counts", "PartitionJoin", "Resume"]


class PartitionJoin:
    """Carry out `JoinRules` over the logs of one partition: decisions, and all its feedback."""

    def __init__(
        self,
        rules: JoinRules,
        resume: Resume | None = None,
        *,
        labels: Labels | None = None,
        recall: Recall | None = None,
        state: OpenState | None = None,
        is_misplaced: IsMisplaced = nothing_misplaced,
    ) -> None:
        """Begin, or continue from *resume*.

        Args:
            rules: the windows, and how feedback becomes a label.
            resume: the state as of the last commit; None at the first start.
            labels: computes labels; made from *rules* if None.
            recall: reads closed decisions back; needed if *rules* have corrections.
            state: has the open rows, and may spill them; all in memory if None.
            is_misplaced: says which decision ids belong to another partition than this one.
        """
        self._is_misplaced = is_misplaced
        self._rules = rules
        self._spans = rules.spans()
        self._open_columns = rules.open_columns
        self._labels = labels or Labels(rules.label)
        self.state = state or OpenState()
        self._dedup, self._decisions = self.state.dedup, self.state.decisions
        self._times = self._new_times()
        self._lateness = self._new_lateness()
        self._feedback = self._new_feedback(recall)
        self._frontier = NEVER
        self._revised = 0
        self.counts = Counts()
        if resume is not None:
            self._resume(resume)

    def _new_times(self) -> StreamTimes:
        return StreamTimes(self._rules.logs)

    def _new_lateness(self) -> Lateness:
        return Lateness(self._spans)

    def _new_feedback(self, recall: Recall | None) -> OpenFeedback:
        return OpenFeedback(
            rules=self._rules,
            lateness=self._lateness,
            state=self.state,
            recall=recall,
            is_misplaced=self._is_misplaced,
        )

    @property
    def frontier(self) -> datetime | None:
        """The time before which every decision is closed; None before the first close."""
        return None if self._frontier == NEVER else moment(self._frontier)

    @property
    def open_decisions(self) -> int:
        """How many decisions are open: on time, the first of their id, not closed yet."""
        return len(self._decisions)

    @property
    def open_feedback(self) -> int:
        """How much feedback is open: neither joined nor counted yet."""
        return len(self._feedback)

    def stream_time(self, log: Log) -> datetime | None:
        """Return the largest event time of *log* so far, idle advances included; None if none."""
        return self._times.of(log)

    def take_decisions(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Judge a batch of decisions, and add the first copies on time to the open ones.

        Args:
            frame: the decoded columns and *offset*, in the order of the log. Rows read back from
                the lake have *stream_time*: they are judged by it, and offsets may be missing.

        Returns:
            The same rows with *stream_time* (before the row) and *verdict* ('late', 'duplicate',
            or null for a decision that will become an example).

        Raises:
            ValueError: the batch is out of order, or begins before the end of the last one.
        """
        at, before = self._times.follow(DECISIONS, frame)
        # A record on time is never before the frontier, unless a new version of the loop has longer
        # windows than the version that closed so far. What is closed stays closed.
        late = self._lateness.is_late_decision(at, before) | (at < self._frontier)
        ids = id_keys(frame["id"])
        duplicate = self._is_duplicate(ids, at, before, ~late)
        first = ~(late | duplicate)
        self._dedup.add(ids, at, on_time=~late, is_first=first)
        self._add_open_decisions(frame, ids, at, first)
        return with_verdicts(frame, before, late, duplicate)

    def misplaced(self, frame: pl.DataFrame) -> Bools:
        """Return which feedback of *frame* is of decisions that belong to another partition."""
        return self._feedback.misplaced(frame)

    def take_feedback(
        self, frame: pl.DataFrame, log: Log = FEEDBACK, misplaced: Bools | None = None
    ) -> pl.DataFrame:
        """Judge a batch of feedback, and add what a decision may still take to the open feedback.

        Args:
            frame: as for `take_decisions`, but *offset* has the log positions of the records.
            log: the log of feedback that the batch is from.
            misplaced: what `misplaced` says of *frame*; it is asked if None.

        Returns:
            The same rows with *stream_time* (before the row) and *verdict*: 'late' if no decision
            could take the row any more, else null.

        Raises:
            ValueError: the batch is out of order, or begins before the end of the last one.
        """
        at, before = self._times.follow(log, frame)
        if misplaced is None:
            misplaced = self.misplaced(frame)
        late = self._feedback.take(frame, at, before, self._frontier, misplaced)
        return with_verdicts(frame, before, late, np.zeros_like(late))

    def advance(self, log: Log, to: datetime) -> None:
        """Advance the stream time of an idle *log* to *to*; an earlier time changes nothing.

        Records read from now on are judged by it, so it has to be committed with them.
        """
        self._times.advance(log, to)

    def next_frontier(self, rows: int) -> int:
        """Return the frontier that the next close should reach, in microseconds.

        That close makes about *rows* examples at most; the rest is due at the close after it.
        """
        frontier = self._due_frontier()
        if frontier == self._frontier:
            return frontier
        return self.state.limit_frontier(frontier, self._spans.bucket, rows)

    def close(self, limit: int | None = None) -> Closed | None:
        """Return every example that no on-time record can change any more; None if none is due.

        Buckets close whole: all that end before the stream time of every log minus the largest
        window and the grace. Late feedback that came since the last close revises examples of
        earlier closes. With *limit*, in microseconds, no bucket closes that ends later.

        Raises:
            TidemillError: closed examples could not be recalled.
        """
        frontier = self._due_frontier()
        if limit is not None:
            frontier = min(frontier, max(limit, self._frontier))
        if frontier == NEVER or (
            frontier == self._frontier and not self._feedback.corrections.has_pending
        ):
            return None
        parts = self._revise()
        if frontier > self._frontier:
            parts = [*self._close_decisions(frontier), *parts]
        ended = self._feedback.close(frontier)
        if not parts and not ended.total:
            return None
        self._revised += sum(len(part) for part in parts if part["revision"].max())
        self.counts = self.counts.plus(ended)
        self._frontier = frontier
        self._dedup.forget(frontier - self._spans.remembered)
        self._feedback.forget(frontier)
        return Closed(
            examples=pl.concat(parts) if parts else self._examples(self._no_decisions(), None),
            frontier=moment(frontier),
            counts=self.counts,
            stream_times=self._times.known(),
            advances=self._times.take_advances(),
            examined={log: self._times.offsets[log] for log in self._feedback.corrections.examined},
            revised=self._revised,
        )

    def _due_frontier(self) -> int:
        """Return the frontier that stream time allows now, never before the last frontier."""
        time, spans = self._times.reached(), self._spans
        if time == NEVER:
            return self._frontier
        frontier = (time - spans.close - 1) // spans.bucket * spans.bucket
        return self._frontier if frontier < FIRST_MOMENT else max(frontier, self._frontier)

    def _is_duplicate(self, ids: Keys, at: Int64s, before: Int64s, on_time: Bools) -> Bools:
        return self._dedup.repeated(ids, at, before - self._spans.memory, on_time)

    def _add_open_decisions(
        self, frame: pl.DataFrame, ids: Keys, at: Int64s, is_open: Bools
    ) -> None:
        columns = {"at": at, "key": ids.key, "check": ids.check}
        rows = frame.select(self._open_columns)
        if not is_open.all():
            rows = rows.filter(pl.Series(is_open))
            columns = {name: values[is_open] for name, values in columns.items()}
        self._decisions.add(rows, columns)

    def _close_decisions(self, frontier: int) -> list[pl.DataFrame]:
        """Return the examples of all decisions earlier than *frontier*, and remove their rows."""
        rows = self._decisions.due(frontier)
        frame = self._decisions.frame(rows)
        if frame is None:
            return [self._examples(self._no_decisions(), None)]
        at, key, check = self._decisions.columns(rows, "at", "key", "check")
        self._decisions.remove(rows)
        shown = ShownItems.of(frame) if self._rules.has_items else None
        pairs = self._feedback.pairs(Keys.of(key, check), at, shown)
        its = pairs
        if shown is not None:
            frame, at, its = shown.rows, at[shown.decision], self._feedback.of_items(pairs, shown)
        on_time, late = self._feedback.corrections.split(at, its)
        parts = [self._examples(frame, self._feedback.joined(on_time))]
        if late is not None:
            revision = pl.Series("revision", late.revision, dtype=pl.Int32)
            decisions = frame[late.decision].with_columns(revision)
            parts.append(self._examples(decisions, self._feedback.joined(late.pairs)))
        self._feedback.remove(pairs.rows)
        return parts

    def _revise(self) -> list[pl.DataFrame]:
        """Return new revisions of closed examples, and remove the feedback that made them."""
        revised = self._feedback.corrections.revise(self._frontier)
        if revised is None:
            return []
        self._feedback.remove(revised.rows)
        return [self._examples(revised.decisions, revised.joined)]

    def _no_decisions(self) -> pl.DataFrame:
        return pl.DataFrame(schema={**self._rules.of_decision, "offset": pl.Int64()})

    def _examples(self, decisions: pl.DataFrame, joined: pl.DataFrame | None) -> pl.DataFrame:
        rules = self._rules
        return build_examples(decisions, joined, self._labels, rules.missing, rules.activation)

    def _resume(self, resume: Resume) -> None:
        """Restore the state that *resume* describes."""
        self._times.restore(resume.stream_times, resume.offsets)
        self._feedback.restore(self._times.offsets, resume.examined)
        self._frontier = NEVER if resume.frontier is None else micros(resume.frontier)
        self.counts, self._revised = resume.counts, resume.revised
        if resume.decisions is not None:
            rows = conformed(resume.decisions, self._rules.decisions, "offset", "verdict")
            self._resume_decisions(rows.sort("offset"))
        if resume.remembered is not None:
            self.recall_ids(resume.remembered)
        if resume.feedback is not None:
            joined = None if resume.joined is None else np.sort(resume.joined.to_numpy())
            self.recall_feedback(resume.feedback.sort("offset"), joined)

    def _resume_decisions(self, frame: pl.DataFrame) -> None:
        at, ids, is_first = self.recall_ids(frame)
        self._add_open_decisions(frame, ids, at, is_first & (at >= self._frontier))

    def recall_ids(self, frame: pl.DataFrame) -> tuple[Int64s, Keys, Bools]:
        """Add raw decisions, with *id*, *at* and *verdict*, to the dedup index.

        Returns:
            Their times, their keys, and which are the first of their id.
        """
        at, ids = frame["at"].to_physical().to_numpy(), id_keys(frame["id"])
        is_first = frame["verdict"].is_null().to_numpy()
        on_time = is_first | (frame["verdict"] == DUPLICATE).fill_null(value=False).to_numpy()
        self._dedup.add(ids, at, on_time=on_time, is_first=is_first)
        return at, ids, is_first

    def recall_spilled(self, handle: SpillHandle, *, rows: int, earliest: datetime) -> None:
        """Add *rows* open decisions that are in a store already, the first made at *earliest*."""
        self._decisions.add_spilled(
            handle, self._open_columns, rows=rows, earliest=micros(earliest)
        )

    def recall_feedback(self, raw: pl.DataFrame, joined: Int64s | None = None) -> None:
        """Add the rows of *raw* that are still open to the open feedback.

        *joined* has the sorted log positions of feedback that examples have taken already.
        """
        self._feedback.recall(raw, self._frontier, joined)
