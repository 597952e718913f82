"""The join against an oracle of dictionaries: any logs, any polls, any crashes, any idleness.

Each guard of the join is also switched off here, and then the same comparison has to fail: a test
that cannot fail proves nothing.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.deep import deep, examples_now
from tests.streams.join_logs import (
    ITEM_RULES,
    LOGS,
    ORDERS,
    RULES,
    SECOND,
    THREE,
    D,
    F,
    Logs,
    Shell,
    as_bytes,
    assert_agrees,
    assert_conserved,
    item_rules,
    play,
    random_logs,
    rules,
    seconds,
    shared_labels,
)

from tidemill.schemas import logs
from tidemill.schemas.logs import Log, is_feedback
from tidemill.streams.id_hashes import Keys
from tidemill.streams.join.corrections import Corrections, LateTruth, Recall
from tidemill.streams.join.lateness import Lateness, StreamTimes
from tidemill.streams.join.matching import FeedbackOutcomes, Pairs
from tidemill.streams.join.open_feedback import OpenFeedback
from tidemill.streams.join.partition_join import PartitionJoin, Resume
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.units import NEVER, Bools, Int64s

ITEMS = st.lists(
    st.tuples(st.sampled_from("pqrs"), st.sampled_from([None, 0, 1, 2])), max_size=4
).map(tuple)
"""Items of a decision, of which loops with actions know nothing: none shown, or several at once."""
DECISIONS = st.builds(D, st.sampled_from("abcde"), st.integers(0, 30), ITEMS)
FEEDBACK = st.builds(
    F,
    st.sampled_from("uvwxyz"),
    st.sampled_from("abcde-"),
    st.integers(-3, 45),
    st.sampled_from(["click", "buy"]),
    st.integers(-5, 9).map(float),
    st.sampled_from([None, None, *"pqrs"]),
)
CORRECTED = rules(corrections=20 * SECOND)
STREAMS = rules(logs=THREE)
CORRECTED_STREAMS = rules(logs=THREE, corrections=20 * SECOND)
CORRECTED_ITEMS = item_rules(corrections=20 * SECOND)
ANY_LOG = st.sampled_from(LOGS)
COUNTS = st.integers(1, 12)
STEPS = st.lists(st.tuples(st.sampled_from([*LOGS, "commit"]), COUNTS), max_size=30)


class Worker(RuleBasedStateMachine):
    """Events, polls, commits, crashes and idle advances in any order."""

    @initialize(
        bucket=st.sampled_from([1, 3, 7]),
        missing=st.sampled_from(["negative", "censored", "dropped"]),
        remember=st.sampled_from([0, 15, 40]),
        corrections=st.sampled_from([0, 5, 30]),
        activation=st.sampled_from([None, "click", "buy"]),
        items=st.booleans(),
    )
    def start(
        self,
        bucket: int,
        missing: str,
        remember: int,
        corrections: int,
        activation: str | None,
        items: bool,
    ) -> None:
        """Begin with empty logs and one of several rules."""
        self.decisions: list[D] = []
        self.feedback: list[F] = []
        chosen = (item_rules if items else rules)(
            bucket=bucket * SECOND,
            missing=missing,
            remember=remember * SECOND,
            corrections=corrections * SECOND,
            activation=activation,
        )
        self.shell = Shell(Logs(self.decisions, self.feedback), chosen)

    @rule(more=st.lists(DECISIONS, min_size=1, max_size=4))
    def decide(self, more: list[D]) -> None:
        """Produce decisions."""
        self.decisions += more

    @rule(more=st.lists(FEEDBACK, min_size=1, max_size=4))
    def answer(self, more: list[F]) -> None:
        """Produce feedback."""
        self.feedback += more

    @rule(log=ANY_LOG, count=COUNTS)
    def poll(self, log: Log, count: int) -> None:
        """Read some records of one log."""
        self.shell.poll(log, count)

    @rule(log=ANY_LOG, by=st.integers(0, 20))
    def idle(self, log: Log, by: int) -> None:
        """Advance the time of one log."""
        time = self.shell.join.stream_time(log)
        self.shell.advance(log, by + (seconds(time) if time else 0))

    @rule()
    def commit(self) -> None:
        """Commit, and compare."""
        self.shell.commit()
        assert_agrees(self.shell)

    @rule(step=st.integers(0, 2))
    def crash(self, step: int) -> None:
        """Crash within a commit cycle, and start again."""
        self.shell.commit(crash_after=step)

    @invariant()
    def nothing_is_lost(self) -> None:
        """Check the ledger at any time."""
        if hasattr(self, "shell"):
            assert_conserved(self.shell)

    def teardown(self) -> None:
        """Read everything, close everything, compare."""
        if hasattr(self, "shell"):
            self.shell.finish()
            assert_agrees(self.shell)
            assert_conserved(self.shell)
            assert (self.shell.join.open_decisions, self.shell.join.open_feedback) == (0, 0)


TestWorker = pytest.mark.deep(Worker.TestCase)
TestWorker.settings = settings(max_examples=examples_now(120), stateful_step_count=30)


@deep(150)
@given(
    st.lists(DECISIONS, max_size=25),
    st.lists(FEEDBACK, max_size=25),
    STEPS,
    st.sampled_from([RULES, ITEM_RULES]),
)
def test_how_the_logs_are_polled_does_not_matter(
    decisions: list[D], feedback: list[F], steps: list[tuple[Log, int]], chosen: JoinRules
) -> None:
    """Batch sizes and interleaving are the network's choice; the result is the logs'."""
    at_once, step_by_step = (Shell(Logs(decisions, feedback), chosen) for _ in range(2))
    for what, count in steps:
        if what in LOGS:
            step_by_step.poll(what, count)
        else:
            step_by_step.commit()
    for shell in (at_once, step_by_step):
        shell.finish()
        assert_agrees(shell)
    assert as_bytes(at_once) == as_bytes(step_by_step)
    assert at_once.closed[-1].counts == step_by_step.closed[-1].counts


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [RULES, ITEM_RULES], ids=["actions", "items"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_examples_are_the_same_bytes_for_any_batch_size(size: int, chosen: JoinRules) -> None:
    """A dataset has to be reproducible from the topics, down to the last bit."""
    logs = random_logs(random.Random(7), 300, items=chosen.has_items)
    results = []
    for rows in (size, 10**6):
        shell = Shell(logs, chosen)
        for _ in range(0, 300, rows):
            for log in LOGS:
                shell.poll(log, rows)
            shell.commit()
        shell.finish()
        results.append(as_bytes(shell))
    assert results[0] == results[1]


class _ByDecisionsAlone(StreamTimes):
    def reached(self) -> int:
        return self.at[logs.DECISIONS] if self.at[logs.FEEDBACK] != NEVER else NEVER


class ClosesByDecisionsAlone(PartitionJoin):
    """Rule 3 without the feedback log."""

    def _new_times(self) -> StreamTimes:
        return _ByDecisionsAlone(self._rules.logs)


class _WithoutTheThirdLog(StreamTimes):
    def reached(self) -> int:
        times = [time for log, time in self.at.items() if log != ORDERS]
        return NEVER if NEVER in self.at.values() else min(times)


class ForgetsTheThirdLog(PartitionJoin):
    """Rule 3 for decisions and one log of feedback, once all have begun."""

    def _new_times(self) -> StreamTimes:
        return _WithoutTheThirdLog(self._rules.logs)


class _IdsOfOneStream(OpenFeedback):
    def _first_copies(self, pairs: Pairs) -> Pairs:
        rows = self._rows.frame(pairs.rows)
        if rows is None:
            return pairs
        frame = rows.select("id", "offset", decision=pl.Series(pairs.decision))
        is_first = pl.col("offset") == pl.col("offset").min().over("decision", "id")
        return pairs.filter(frame.select(is_first).to_series().to_numpy())


class TakesIdsForThoseOfOneStream(PartitionJoin):
    """Rule 6 across streams."""

    def _new_feedback(self, recall: Recall | None) -> OpenFeedback:
        return _IdsOfOneStream(
            rules=self._rules, lateness=self._lateness, state=self.state, recall=recall
        )


class _TheQuickestLog(StreamTimes):
    def follow(self, log: Log, frame: pl.DataFrame) -> tuple[Int64s, Int64s]:
        at, before = super().follow(log, frame)
        if log == "decisions":
            return at, before
        return at, np.maximum(before, max(self.at[other] for other in THREE[1:] if other != log))


class JudgesByTheQuickestLog(PartitionJoin):
    """One stream time for all feedback."""

    def _new_times(self) -> StreamTimes:
        return _TheQuickestLog(self._rules.logs)


class _NeverLateFeedback(Lateness):
    def is_on_time(self, before: Int64s, decision_at: Int64s) -> Bools:
        return np.ones(len(before), dtype=np.bool_)


class TakesFeedbackWheneverItComes(PartitionJoin):
    """Rule 1 without the test for being on time."""

    def _new_lateness(self) -> Lateness:
        return _NeverLateFeedback(self._spans)


class ForgetsFeedbackAtItsTime(PartitionJoin):
    """Feedback is dropped once stream time has passed it, although windows are still open."""

    def _new_feedback(self, recall: Recall | None) -> OpenFeedback:
        times = self._times

        class Impatient(OpenFeedback):
            def close(self, frontier: int) -> FeedbackOutcomes:
                return super().close(max(frontier, times.reached()))

        return Impatient(
            rules=self._rules, lateness=self._lateness, state=self.state, recall=recall
        )


class _NeverLateDecisions(Lateness):
    def is_late_decision(self, at: Int64s, before: Int64s) -> Bools:
        return np.zeros(len(at), dtype=np.bool_)


class TakesDecisionsWheneverTheyCome(PartitionJoin):
    """Rule 2 switched off."""

    def _new_lateness(self) -> Lateness:
        return _NeverLateDecisions(self._spans)


class TakesEveryCopyOfADecision(PartitionJoin):
    """Rule 6 switched off for decisions."""

    def _is_duplicate(self, ids: Keys, at: Int64s, before: Int64s, on_time: Bools) -> Bools:
        return np.zeros(len(at), dtype=np.bool_)


class _EveryCopy(OpenFeedback):
    def _first_copies(self, pairs: Pairs) -> Pairs:
        return pairs


class TakesEveryCopyOfFeedback(PartitionJoin):
    """Rule 6 switched off for feedback."""

    def _new_feedback(self, recall: Recall | None) -> OpenFeedback:
        return _EveryCopy(
            rules=self._rules, lateness=self._lateness, state=self.state, recall=recall
        )


class ForgetsWhatIsJoined(PartitionJoin):
    """A restart that does not read which feedback examples have already."""

    def recall_feedback(self, raw: pl.DataFrame, joined: Int64s | None = None) -> None:
        """Add feedback that is joined already too."""
        super().recall_feedback(raw)


class ForgetsDuplicatesAtARestart(PartitionJoin):
    """A restart that reads back open decisions only, not the remembered ids."""

    def _resume(self, resume: Resume) -> None:
        super()._resume(replace(resume, remembered=None))


class ForgetsStreamTimeAtARestart(PartitionJoin):
    """A restart that judges later records without the stream time before them."""

    def _resume(self, resume: Resume) -> None:
        super()._resume(replace(resume, stream_times={}))


class ForgetsIdleAdvances(PartitionJoin):
    """A restart that has only the event times of the log."""

    def _resume(self, resume: Resume) -> None:
        times = {}
        for log, frame in (("decisions", resume.decisions), ("feedback", resume.feedback)):
            times[log] = None if frame is None else frame["at"].max()
        super()._resume(replace(resume, stream_times=times))  # type: ignore[arg-type]


class ForgetsWhatWasNotExamined(PartitionJoin):
    """A restart that treats all feedback as compared with closed decisions."""

    def _resume(self, resume: Resume) -> None:
        super()._resume(replace(resume, examined=_of_feedback(resume.offsets)))


def _of_feedback(offsets: Mapping[Log, int]) -> dict[Log, int]:
    return {log: offset for log, offset in offsets.items() if is_feedback(log)}


class _AlwaysInTime(Lateness):
    def is_in_time(self, before: Int64s, decision_at: Int64s) -> Bools:
        return np.ones(len(before), dtype=np.bool_)


class CorrectsForEver(PartitionJoin):
    """Corrections without an end."""

    def _new_lateness(self) -> Lateness:
        return _AlwaysInTime(self._spans)


class _OnTimeAsLongAsCorrected(Lateness):
    def is_on_time(self, before: Int64s, decision_at: Int64s) -> Bools:
        return super().is_on_time(before - self._spans.corrections, decision_at)


class CorrectsBeforeTheClose(PartitionJoin):
    """Late feedback is treated as if it had been on time."""

    def _new_lateness(self) -> Lateness:
        return _OnTimeAsLongAsCorrected(self._spans)


class CountsRevisionsAnew(PartitionJoin):
    """A restart that does not read which revisions exist."""

    def _revise(self) -> list[pl.DataFrame]:
        first = pl.lit(1, dtype=pl.Int32).alias("revision")
        return [part.with_columns(first) for part in super()._revise()]


class ForgetsWhatWasSetAside(PartitionJoin):
    """A restart that takes feedback of unknown items for copies."""

    def _new_feedback(self, recall: Recall | None) -> OpenFeedback:
        class Forgetful(OpenFeedback):
            def _is_unknown(
                self, frame: pl.DataFrame, at: Int64s, before: Int64s, is_open: Bools, frontier: int
            ) -> Bools:
                return np.zeros(len(frame), dtype=np.bool_)

        return Forgetful(
            rules=self._rules, lateness=self._lateness, state=self.state, recall=recall
        )


class _AsIfNoneWereNamed(OpenFeedback):
    def _items(self, pairs: Pairs) -> pl.Series:
        return super()._items(pairs).clear(len(pairs.rows))


class TakesFeedbackForAllItems(PartitionJoin):
    """Feedback counts for every item that was shown, whichever it names."""

    def _new_feedback(self, recall: Recall | None) -> OpenFeedback:
        return _AsIfNoneWereNamed(
            rules=self._rules, lateness=self._lateness, state=self.state, recall=recall
        )


class _CountsAtOnce(OpenFeedback):
    def close(self, frontier: int) -> FeedbackOutcomes:
        ended = super().close(frontier)
        at_once = self._unknown.close(-NEVER)
        return replace(ended, unknown_item=ended.unknown_item + at_once)


class CountsUnknownItemsAtTheClose(PartitionJoin):
    """Feedback of unknown items is counted before its time is past, so again after a restart."""

    def _new_feedback(self, recall: Recall | None) -> OpenFeedback:
        return _CountsAtOnce(
            rules=self._rules, lateness=self._lateness, state=self.state, recall=recall
        )


class CorrectsEveryItem(PartitionJoin):
    """Late feedback revises all examples of its decision."""

    def _new_feedback(self, recall: Recall | None) -> OpenFeedback:
        class Truth(LateTruth):
            def _taken(self, answers: pl.DataFrame, examples: pl.DataFrame) -> pl.DataFrame:
                return super()._taken(answers.with_columns(item=pl.lit(None, pl.String)), examples)

        class Corrected(OpenFeedback):
            def _new_corrections(self) -> Corrections:
                return Truth(
                    rules=self._rules,
                    lateness=self._lateness,
                    feedback=self._rows,
                    dedup=self._dedup,
                    recall=self._recall,
                    unknown=self._unknown,
                )

        return Corrected(
            rules=self._rules, lateness=self._lateness, state=self.state, recall=recall
        )


def agrees(
    join: Callable[..., PartitionJoin], *, schedules: int = 150, chosen: JoinRules = RULES
) -> bool:
    """Return whether *join* agrees with the oracle on *schedules* random schedules."""

    def new_join(chosen: JoinRules, resume: Resume | None, recall: Recall) -> PartitionJoin:
        return join(chosen, resume, labels=shared_labels(chosen), recall=recall)

    for seed in range(schedules):
        rng = random.Random(seed)
        streams, items = ORDERS in chosen.logs, chosen.has_items
        logs = random_logs(rng, 40, streams=streams, items=items)
        shell = Shell(logs, chosen, new_join)
        try:
            play(shell, rng)
            assert_agrees(shell)
        except AssertionError:
            return False
    return True


@pytest.mark.slow
def test_the_join_agrees_with_the_oracle() -> None:
    """The comparison that every control below has to fail."""
    assert agrees(PartitionJoin)


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [
        ClosesByDecisionsAlone,
        TakesFeedbackWheneverItComes,
        ForgetsFeedbackAtItsTime,
        TakesDecisionsWheneverTheyCome,
        TakesEveryCopyOfADecision,
        TakesEveryCopyOfFeedback,
        ForgetsWhatIsJoined,
        ForgetsDuplicatesAtARestart,
        ForgetsStreamTimeAtARestart,
        ForgetsIdleAdvances,
    ],
)
def test_without_a_guard_the_comparison_goes_red(broken: type[PartitionJoin]) -> None:
    """Each rule has a reason, and the tests detect when it is missing."""
    assert not agrees(broken)


@pytest.mark.slow
def test_the_join_with_corrections_agrees_with_the_oracle() -> None:
    """The comparison that every control below has to fail."""
    assert agrees(PartitionJoin, chosen=CORRECTED)


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [
        ForgetsWhatWasNotExamined,
        CorrectsForEver,
        CorrectsBeforeTheClose,
        CountsRevisionsAnew,
        ForgetsDuplicatesAtARestart,
        ForgetsWhatIsJoined,
    ],
)
def test_without_a_guard_of_corrections_the_comparison_goes_red(
    broken: type[PartitionJoin],
) -> None:
    """Corrections have rules of their own, and the tests detect when one is missing."""
    assert not agrees(broken, chosen=CORRECTED)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [STREAMS, CORRECTED_STREAMS])
def test_the_join_of_three_logs_agrees_with_the_oracle(chosen: JoinRules) -> None:
    """The comparison that every control below has to fail."""
    assert agrees(PartitionJoin, schedules=25, chosen=chosen)


@pytest.mark.parametrize(
    "broken",
    [
        ForgetsTheThirdLog,
        TakesIdsForThoseOfOneStream,
        JudgesByTheQuickestLog,
        TakesEveryCopyOfFeedback,
        ForgetsWhatIsJoined,
        ForgetsIdleAdvances,
    ],
)
def test_without_a_guard_of_streams_the_comparison_goes_red(broken: type[PartitionJoin]) -> None:
    """The rules for each log have to hold for a third one too."""
    assert not agrees(broken, schedules=60, chosen=STREAMS)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [ITEM_RULES, CORRECTED_ITEMS], ids=["items", "corrected"])
def test_the_join_of_items_agrees_with_the_oracle(chosen: JoinRules) -> None:
    """The comparison that every control below has to fail."""
    assert agrees(PartitionJoin, schedules=60, chosen=chosen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "chosen"),
    [
        (ForgetsWhatWasSetAside, ITEM_RULES),
        (TakesFeedbackForAllItems, ITEM_RULES),
        (CountsUnknownItemsAtTheClose, ITEM_RULES),
        (TakesEveryCopyOfFeedback, ITEM_RULES),
        (ForgetsWhatIsJoined, ITEM_RULES),
        (CorrectsEveryItem, CORRECTED_ITEMS),
        (ForgetsWhatWasSetAside, CORRECTED_ITEMS),
    ],
)
def test_without_a_guard_of_items_the_comparison_goes_red(
    broken: type[PartitionJoin], chosen: JoinRules
) -> None:
    """Items have rules of their own, and the tests detect when one is missing."""
    assert not agrees(broken, schedules=60, chosen=chosen)
