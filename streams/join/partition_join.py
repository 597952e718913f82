"""The join of one partition: batches of its logs in, closed decisions with their feedback out.

The result is a function of the logs alone (docs/guide/joins.md has the rules): which log is
read first, how large the batches are, a crash or a replay change nothing. It knows no Kafka, no
clock and no file, so agents, backfill, audit and tests run the same code.
"""

from datetime import datetime

import numpy as np
import polars as pl

from tidemill.schemas.logs import (
    DECISIONS,
    FEEDBACK,
    OFFSETS,
    Log,
    first_position,
    is_feedback,
    position_of,
)
from tidemill.streams.id_hashes import Keys, id_keys
from tidemill.streams.join.checkpoints import Advance, Closed, Counts, Resume, fitted
from tidemill.streams.join.corrections import LateTruth, Recall, Recalled, revised_pairs
from tidemill.streams.join.examples import build_examples
from tidemill.streams.join.labels import GROUP, Labels
from tidemill.streams.join.matching import (
    FeedbackOutcomes,
    Pairs,
    feedback_outcomes,
    first_copies,
    match,
)
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.join.verdicts import DUPLICATE, judged
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.state.spill import SpillHandle
from tidemill.streams.units import FIRST_MOMENT, NEVER, Bools, Int64s, micros, moment

__all__ = ["Advance", "Closed", "Counts", "PartitionJoin", "Resume"]


DECISION_COLUMNS = (
    *("id", "at", "entity", "features", "action", "score", "propensity", "source"),
    *("model_version", "policy_version", "loop_version", "offset"),
)
_FEEDBACK_COLUMNS = ("id", "kind", "at", "offset", "values")
DECISION = "decision_id"


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
    ) -> None:
        """Begin, or go on from *resume*; open rows are kept in *state*, which may let them leave.

        *recall* is needed where feedback may come after a close and the rules want corrections.
        """
        self._rules = rules
        self._spans = rules.spans()
        self._labels = labels or Labels(rules.label_sql, label_type=rules.label_type)
        self._kinds = pl.Enum(list(rules.within))
        self.state = state or OpenState()
        self._seen, self._decisions = self.state.seen, self.state.decisions
        self._feedback, self._feedback_of = self.state.feedback, self.state.feedback_of
        self._advances: list[Advance] = []
        self._time: dict[Log, int] = dict.fromkeys(rules.logs, NEVER)
        self._offset: dict[Log, int] = dict.fromkeys(rules.logs, 0)
        self._frontier = NEVER
        self._examined: dict[Log, int] = {}
        self._late_truth: LateTruth | None = None
        if rules.corrections:
            self._examined = dict.fromkeys(filter(is_feedback, rules.logs), 0)
            self._late_truth = LateTruth(rules, self._feedback, self._seen, recall or _no_recall)
        self._revised = 0
        self.counts = Counts()
        if resume is not None:
            self._resume(resume)

    @property
    def frontier(self) -> datetime | None:
        """The time before which every decision is closed; None before the first close."""
        return None if self._frontier == NEVER else moment(self._frontier)

    @property
    def open_decisions(self) -> int:
        """How many on-time first decisions are not closed yet."""
        return len(self._decisions)

    @property
    def open_feedback(self) -> int:
        """How much feedback is neither joined nor counted yet."""
        return len(self._feedback)

    def stream_time(self, log: Log) -> datetime | None:
        """Return the largest event time of *log* so far, idle advances included; None if none."""
        return None if self._time[log] == NEVER else moment(self._time[log])

    def take_decisions(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Judge and keep a batch of decisions.

        Args:
            frame: the decoded columns and *offset*, in the order of the log. Rows that were read
                before may bring *stream_time*: then they are judged by it, and rows may be missing.

        Returns:
            The same rows with *stream_time* (before the row) and *verdict* ('late', 'duplicate',
            or null for a decision that will become an example).

        Raises:
            ValueError: the batch is out of order or goes back before the last one.
        """
        at, before = self._follow(DECISIONS, frame)
        # No record that is on time is before the frontier, unless a new version of the loop waits
        # longer than the one that closed so far. What is closed stays closed.
        late = self._is_late_decision(at, before) | (at < self._frontier)
        ids = id_keys(frame["id"])
        duplicate = self._is_duplicate(ids, at, before, ~late)
        first = ~(late | duplicate)
        self._seen.add(ids, at, on_time=~late, is_first=first)
        self._keep_decisions(frame, ids, at, first)
        return judged(frame, before, late, duplicate)

    def take_feedback(self, frame: pl.DataFrame, log: Log = FEEDBACK) -> pl.DataFrame:
        """Judge and keep a batch of feedback.

        Args:
            frame: as for `take_decisions`, but *offset* has the places of the records.
            log: which log of feedback it is from.

        Returns:
            The same rows with *stream_time* (before the row) and *verdict*: 'late' if no decision
            could take the row any more, else null.

        Raises:
            ValueError: the batch is out of order or goes back before the last one.
        """
        at, before = self._follow(log, frame)
        spans, last_use = self._spans, at + self._spans.ahead
        late = before > last_use + spans.close + spans.corrections
        if self._late_truth is None:
            late |= last_use < self._frontier
        self._keep_feedback(frame, at, before, ~late)
        return judged(frame, before, late, np.zeros_like(late))

    def advance(self, log: Log, to: datetime) -> None:
        """Move the stream time of an idle *log* on to *to*; an earlier time changes nothing.

        The records read from now on are judged by it, so it has to be committed with them.
        """
        if micros(to) > self._time[log]:
            self._time[log] = micros(to)
            self._advances.append(Advance(log, self._offset[log], to))

    def next_frontier(self, rows: int) -> int:
        """Return up to when the next close should go, in microseconds.

        Not further than about *rows* open decisions: what is left is due at once.
        """
        frontier = self._due_frontier()
        if frontier == self._frontier:
            return frontier
        return self.state.reach(frontier, self._spans.bucket, rows)

    def close(self, limit: int | None = None) -> Closed | None:
        """Return every example that no on-time record can change any more; None if none is due.

        Buckets close whole: all that end before the stream time of every log, less the largest
        window and the grace. What closed before is revised by the late feedback that came since.
        With *limit*, in microseconds, no bucket closes that ends later.

        Raises:
            TidemillError: closed examples could not be recalled.
        """
        frontier = self._due_frontier()
        if limit is not None:
            frontier = min(frontier, max(limit, self._frontier))
        if frontier == NEVER or (frontier == self._frontier and self._late_truth is None):
            return None
        parts = self._revise()
        if frontier > self._frontier:
            parts = [*self._close_decisions(frontier), *parts]
        ended = self._close_feedback(frontier)
        if not parts and not ended.total:
            return None
        self._revised += sum(len(part) for part in parts if part["revision"].max())
        self.counts = self.counts.plus(ended)
        self._frontier = frontier
        self._seen.forget(frontier - self._spans.remembered)
        self._feedback_of.forget(frontier - self._spans.ahead)
        advances, self._advances = tuple(self._advances), []
        return Closed(
            examples=pl.concat(parts) if parts else self._examples(self._no_decisions(), None),
            frontier=moment(frontier),
            counts=self.counts,
            stream_times={log: moment(at) for log, at in self._time.items() if at != NEVER},
            advances=advances,
            examined={log: self._offset[log] for log in self._examined},
            revised=self._revised,
        )

    def _due_frontier(self) -> int:
        """Return how far time has come: the last frontier, if it has not come further."""
        time, spans = self._closing_time(), self._spans
        if time == NEVER:
            return self._frontier
        frontier = (time - spans.close - 1) // spans.bucket * spans.bucket
        return self._frontier if frontier < FIRST_MOMENT else max(frontier, self._frontier)

    def _closing_time(self) -> int:
        """Return the stream time that every log has reached."""
        return min(self._time.values())

    def _is_late_decision(self, at: Int64s, before: Int64s) -> Bools:
        return before > at + self._spans.grace

    def _is_duplicate(self, ids: Keys, at: Int64s, before: Int64s, on_time: Bools) -> Bools:
        return self._seen.repeated(ids, at, before - self._spans.memory, on_time)

    def _is_on_time(self, before: Int64s, decision_at: Int64s) -> Bools:
        """Tell which feedback was read while its decision could still take it."""
        return before <= decision_at + self._spans.close

    def _is_in_time(self, before: Int64s, decision_at: Int64s) -> Bools:
        """Tell which feedback its decision takes: on time, or late but soon enough to correct."""
        return self._is_on_time(before - self._spans.corrections, decision_at)

    def _first_copies(self, pairs: Pairs) -> Pairs:
        return first_copies(pairs, self._feedback)

    def _follow(self, log: Log, frame: pl.DataFrame) -> tuple[Int64s, Int64s]:
        """Let the stream time of *log* follow *frame*; return the event times and those before."""
        at = frame["at"].to_physical().to_numpy()
        offsets = frame["offset"].to_numpy() - first_position(log)
        if not len(offsets):
            return at, at
        if offsets[0] < self._offset[log] or not (np.diff(offsets) > 0).all():
            raise ValueError(
                f"{log} from offset {offsets[0]} to {offsets[-1]} are not in order after "
                f"{self._offset[log]}"
            )
        reached = np.maximum.accumulate(np.concatenate(([self._time[log]], at)))
        before, after = reached[:-1], reached[-1]
        if "stream_time" in frame.columns:  # rows of the lake say what they were judged by
            told = frame["stream_time"].to_physical().fill_null(NEVER).to_numpy()
            before = np.maximum(before, np.maximum.accumulate(told))
            after = max(after, before[-1])
        self._time[log], self._offset[log] = int(after), int(offsets[-1]) + 1
        return at, before

    def _keep_decisions(self, frame: pl.DataFrame, ids: Keys, at: Int64s, kept: Bools) -> None:
        rows = frame.select(DECISION_COLUMNS)
        columns = {"at": at, "key": ids.key, "check": ids.check}
        self._decisions.add(*_only(kept, rows, columns))

    def _keep_feedback(self, frame: pl.DataFrame, at: Int64s, before: Int64s, kept: Bools) -> None:
        ids = id_keys(frame["decision_id"])
        kinds = frame["kind"].cast(self._kinds, strict=False).to_physical()
        unknown = len(self._kinds.categories)
        columns = {"at": at, "before": before, "offset": frame["offset"].to_numpy()}
        columns |= {"kind": kinds.cast(pl.Int64).fill_null(unknown).to_numpy()}
        columns |= {"key": ids.key, "check": ids.check}
        names = _FEEDBACK_COLUMNS if self._late_truth is None else (*_FEEDBACK_COLUMNS, DECISION)
        rows, columns = _only(kept, frame.select(names), columns)
        numbers = self._feedback.add(rows, columns)
        if self._late_truth is not None:
            self._late_truth.note(numbers[self._is_unexamined(columns["offset"])])
        self._feedback_of.add(ids.only(kept), columns["at"], numbers)

    def _is_unexamined(self, places: Int64s) -> Bools:
        """Tell which feedback was not held against closed decisions yet."""
        fresh = np.zeros(len(places), dtype=np.bool_)
        for log, offset in self._examined.items():
            fresh |= (places >= position_of(log, offset)) & (places < first_position(log) + OFFSETS)
        return fresh

    def _close_decisions(self, frontier: int) -> list[pl.DataFrame]:
        """Return the examples of all decisions earlier than *frontier*, and forget their rows."""
        rows = self._decisions.due(frontier)
        frame = self._decisions.frame(rows)
        if frame is None:
            return [self._examples(self._no_decisions(), None)]
        at, key, check = self._decisions.columns(rows, "at", "key", "check")
        self._decisions.remove(rows)
        pairs = match(
            Keys.of(key, check),
            at,
            self._feedback,
            self._feedback_of,
            self._spans,
            self._is_in_time,
        )
        pairs = self._first_copies(pairs)
        if self._late_truth is None:
            parts = [self._examples(frame, self._joined(pairs))]
        else:
            parts = self._examples_and_revisions(frame, at, pairs)
        self._feedback.remove(pairs.rows)
        return parts

    def _examples_and_revisions(
        self, frame: pl.DataFrame, at: Int64s, pairs: Pairs
    ) -> list[pl.DataFrame]:
        """Return the examples of *frame*, and what late feedback makes of them at once."""
        (before,) = self._feedback.columns(pairs.rows, "before")
        on_time = self._is_on_time(before, at[pairs.decision])
        parts = [self._examples(frame, self._joined(pairs.only(on_time)))]
        if not on_time.all():
            which, late, pairs = revised_pairs(pairs, ~on_time)
            revision = pl.Series("revision", late, dtype=pl.Int32)
            parts.append(self._examples(frame[which].with_columns(revision), self._joined(pairs)))
        return parts

    def _revise(self) -> list[pl.DataFrame]:
        """Return new revisions of what is closed, and forget the feedback that made them."""
        if self._late_truth is None:
            return []
        revised = self._late_truth.revise(self._frontier)
        if revised is None:
            return []
        self._feedback.remove(revised.rows)
        return [self._examples(revised.decisions, revised.joined)]

    def _no_decisions(self) -> pl.DataFrame:
        return pl.DataFrame(schema={**self._rules.decisions, "offset": pl.Int64()})

    def _examples(self, decisions: pl.DataFrame, joined: pl.DataFrame | None) -> pl.DataFrame:
        rules = self._rules
        return build_examples(decisions, joined, self._labels, rules.missing, rules.activation)

    def _joined(self, pairs: Pairs) -> pl.DataFrame | None:
        """Return the feedback of *pairs* in the order in which labels see it."""
        frame = self._feedback.frame(pairs.rows)
        if frame is None:
            return None
        at, offset = self._feedback.columns(pairs.rows, "at", "offset")
        order = np.lexsort((offset, at, pairs.decision))
        columns = (*("kind", "at", "offset", "values"), pl.Series(GROUP, pairs.decision))
        return frame.select(columns)[order]

    def _close_feedback(self, frontier: int) -> FeedbackOutcomes:
        """Count the feedback that no decision can take any more, and forget its rows."""
        rows = self._feedback.due(frontier - self._spans.ahead)
        ended = feedback_outcomes(rows, self._feedback, self._seen, self._spans, self._is_in_time)
        self._feedback.remove(rows)
        return ended

    def _resume(self, resume: Resume) -> None:
        """Take up the state that *resume* describes."""
        for log, time in resume.stream_times.items():
            self._time[log] = NEVER if time is None else micros(time)
        self._offset.update(resume.offsets)
        self._frontier = NEVER if resume.frontier is None else micros(resume.frontier)
        self.counts, self._revised = resume.counts, resume.revised
        known = self._offset if self._late_truth is not None else {}
        known = {log: offset for log, offset in known.items() if is_feedback(log)}
        self._examined = {**known, **resume.examined}
        if resume.decisions is not None:
            rows = fitted(resume.decisions, self._rules.decisions, "offset", "verdict")
            self._resume_decisions(rows.sort("offset"))
        if resume.seen is not None:
            self.recall_ids(resume.seen)
        if resume.feedback is not None:
            joined = None if resume.joined is None else np.sort(resume.joined.to_numpy())
            self.recall_feedback(resume.feedback.sort("offset"), joined)

    def _resume_decisions(self, frame: pl.DataFrame) -> None:
        at, ids, is_first = self.recall_ids(frame)
        self._keep_decisions(frame, ids, at, is_first & (at >= self._frontier))

    def recall_ids(self, frame: pl.DataFrame) -> tuple[Int64s, Keys, Bools]:
        """Remember the *id*, *at* and *verdict* of raw decisions; return times, keys, firsts."""
        at, ids = frame["at"].to_physical().to_numpy(), id_keys(frame["id"])
        is_first = frame["verdict"].is_null().to_numpy()
        on_time = is_first | (frame["verdict"] == DUPLICATE).fill_null(value=False).to_numpy()
        self._seen.add(ids, at, on_time=on_time, is_first=is_first)
        return at, ids, is_first

    def recall_spilled(self, kept: SpillHandle, *, rows: int, earliest: datetime) -> None:
        """Take up open decisions, *earliest* the first of them, that are in a store already."""
        self._decisions.add_spilled(kept, DECISION_COLUMNS, rows=rows, earliest=micros(earliest))

    def recall_feedback(self, raw: pl.DataFrame, joined: Int64s | None = None) -> None:
        """Keep those of raw feedback that are open; not places among *joined*, which is sorted."""
        frame = fitted(raw, self._rules.feedback, "offset", "verdict", "stream_time")
        at, offset = frame["at"].to_physical().to_numpy(), frame["offset"].to_numpy()
        before = frame["stream_time"].to_physical().fill_null(NEVER).to_numpy()
        kept = at + self._spans.ahead >= self._frontier
        kept |= self._is_unexamined(offset)
        kept &= frame["verdict"].is_null().to_numpy()
        if joined is not None and len(joined):
            kept &= joined[np.minimum(np.searchsorted(joined, offset), len(joined) - 1)] != offset
        self._keep_feedback(frame, at, before, kept)


def _no_recall(wanted: pl.DataFrame) -> Recalled:
    raise ValueError(f"{len(wanted)} closed decisions are to be revised, and nothing recalls them")


def _only(
    kept: Bools, frame: pl.DataFrame, columns: dict[str, Int64s]
) -> tuple[pl.DataFrame, dict[str, Int64s]]:
    """Return the rows of *frame* and *columns* for which *kept* is true."""
    if kept.all():
        return frame, columns
    return frame.filter(pl.Series(kept)), {name: values[kept] for name, values in columns.items()}
