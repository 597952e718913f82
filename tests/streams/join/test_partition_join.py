"""The join of one partition: windows at their edges, copies, restarts, versions."""

from datetime import UTC, datetime

import polars as pl
import pytest
from tests.streams.join_logs import (
    LOGS,
    LOOP,
    RULES,
    SECOND,
    START,
    D,
    F,
    Logs,
    Shell,
    assert_agrees,
    assert_conserved,
    decision_frame,
    feedback_frame,
    joined,
    label_of,
    played,
    rules,
    seconds,
)

from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.streams.join.partition_join import Counts, PartitionJoin, Resume
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.placement import misplaced_in


def test_feedback_is_joined_in_the_order_of_its_time_and_then_its_offset() -> None:
    """A label such as `first(...)` must not depend on how the network mixed the answers."""
    feedback = [F("x", "a", 2), F("y", "a", 1), F("z", "a", 1), F("w", "a", 0)]
    shell = played([D("a", 0)], feedback)
    assert joined(shell) == {"a": [3, 1, 2, 0]}
    assert shell.examples()["first_feedback_at"].to_list() == [START]


def test_the_first_copy_on_time_counts_also_when_the_first_copy_was_late() -> None:
    """A late copy is no decision, so it cannot make the next one a duplicate."""
    shell = played([D("z", 10), D("a", 0), D("a", 9)], [F("x", "a", 9)])
    assert shell.rows(DECISIONS)["verdict"].to_list() == [None, "late", None]
    assert joined(shell)["a"] == [0]


def test_copies_of_feedback_with_other_times_count_once() -> None:
    """A client that gives its retry a new time sent one feedback; the first in time counts."""
    shell = played([D("a", 0)], [F("x", "a", 9), F("x", "a", 2), F("x", "a", 1)])
    assert joined(shell) == {"a": [1]}
    assert shell.closed[-1].counts == Counts(late=1, duplicate=1)


def test_one_feedback_id_may_answer_two_decisions() -> None:
    """Ids of feedback need only be unique within their decision."""
    assert joined(played([D("a", 0), D("b", 0)], [F("x", "a", 1), F("x", "b", 1)])) == {
        "a": [0],
        "b": [1],
    }


def test_an_id_may_come_back_when_it_is_forgotten() -> None:
    """Ids are remembered for `remember` of stream time, and then belong to a new decision."""
    shell = played(
        [D("a", 0), D("t", 15), D("a", 15), D("t2", 40), D("a", 40)],
        [F("x", "a", 1), F("y", "a", 40)],
    )
    verdicts = shell.rows(DECISIONS)["verdict"].to_list()
    assert verdicts == [None, None, "duplicate", None, None]
    assert shell.examples().filter(decision_id="a")["feedback_offsets"].to_list() == [[0], [1]]


def test_feedback_of_a_decision_that_never_came_is_unmatched() -> None:
    """It points at a service that logs answers but no decisions."""
    shell = played([D("a", 0)], [F("x", "nobody", 1)])
    assert shell.closed[-1].counts == Counts(unmatched=1)


@pytest.mark.parametrize(
    ("missing", "state", "label"),
    [
        ("negative", "no_feedback", 0.0),
        ("censored", "censored", None),
        ("dropped", "no_feedback", None),
    ],
)
def test_missing_says_what_silence_means(missing: str, state: str, label: float | None) -> None:
    """Without an arrival nobody knows whether it was in time; without a click there was none."""
    shell = played([D("a", 0)], [], rules(missing=missing))
    examples = shell.examples()
    assert (examples["state"].to_list(), examples["label"].to_list()) == ([state], [label])


def test_feedback_without_a_label_counts_as_no_feedback() -> None:
    """A feedback whose value is null gives no label, so `missing` decides."""
    shell = Shell(
        Logs([D("a", 0)], [F("x", "a", 1, "click")]), rules(label=label_of("max(amount)"))
    )
    shell.finish()
    examples = shell.examples()
    assert examples["state"].to_list() == ["no_feedback"]
    assert examples["feedback_offsets"].to_list() == [[0]]


@pytest.mark.parametrize("missing", ["negative", "censored", "dropped"])
def test_a_label_that_is_an_error_is_a_state_of_its_own(missing: str) -> None:
    """There was feedback, so it is no negative; nobody knows the label, so it is none."""
    decisions = [D("a", 0), D("b", 0), D("c", 0)]
    feedback = [F("x", "a", 1, value=0.0), F("y", "b", 1, value=7.0), F("z", "a", 2, value=7.0)]
    label = label_of("max(100 % cast(weight as int))")
    shell = Shell(Logs(decisions, feedback), rules(label=label, missing=missing))
    shell.finish()
    examples = shell.examples().sort("decision_id")
    silent = {"negative": "no_feedback", "censored": "censored", "dropped": "no_feedback"}[missing]
    assert examples["state"].to_list() == ["label_error", "labeled", silent]
    assert examples["label"].to_list() == [None, 2.0, 0.0 if missing == "negative" else None]
    assert examples["feedback_offsets"].to_list() == [[0, 2], [1], []]


def test_without_an_activation_a_label_is_no_error() -> None:
    """Nobody was shown it, so nobody asks for its label."""
    label = label_of("max(100 % cast(amount as int))")
    feedback = [F("x", "a", 1, "buy", 0.0), F("y", "b", 1, "buy", 0.0), F("z", "b", 2)]
    shell = Shell(Logs([D("a", 0), D("b", 0)], feedback), rules(label=label, activation="click"))
    shell.finish()
    assert shell.examples()["state"].to_list() == ["not_activated", "label_error"]


def test_feedback_before_the_window_of_its_only_decision_is_unmatched() -> None:
    """Its bucket closes before the decision need have been read, so the decision cannot count."""
    shell = played([D("a", 20), D("z", 100)], [F("x", "a", 17, "click"), F("w", "z", 100)])
    assert shell.closed[-1].counts.unmatched == 1
    assert shell.closed[-1].counts.late == 0
    inside = played([D("a", 20), D("z", 100)], [F("x", "a", 24, "click"), F("w", "z", 100)])
    assert inside.closed[-1].counts.late == 1, "past the window it is late: its decision is known"


def test_corrections_do_not_make_an_id_remembered_longer() -> None:
    """Its decision is kept to be revised, and an id that comes again is still a new decision."""
    decisions = [D("a", 0), D("b", 30), D("a", 31), D("c", 60)]
    for corrections in (0 * SECOND, 60 * SECOND):
        changed = rules(corrections=corrections, remember=15 * SECOND)
        shell = played(decisions, [F("x", "c", 60)], changed)
        assert shell.outcome()[0].decisions[2] in ("no_feedback", "labeled"), corrections


def test_the_width_of_buckets_changes_when_and_not_what() -> None:
    """A bucket is what closes at once; no result may depend on its width."""
    decisions = [D(f"d{at}", at) for at in range(30)]
    feedback = [F(f"f{at}", f"d{at % 30}", at) for at in range(0, 40, 2)]
    narrow = played(decisions, feedback, rules(bucket=1 * SECOND))
    wide = played(decisions, feedback, rules(bucket=600 * SECOND))
    assert narrow.examples().equals(wide.examples())


def test_a_close_without_decisions_still_moves_the_frontier() -> None:
    """Feedback alone, or a pause in the traffic, must not hold time back."""
    shell = Shell(Logs([], [F("x", "nobody", 1)]))
    shell.poll(FEEDBACK, 1)
    shell.advance(DECISIONS, 100)
    shell.advance(FEEDBACK, 100)
    shell.commit()
    assert shell.closed[0].examples.is_empty()
    assert shell.closed[0].examples.columns == list(played([D("a", 0)], []).examples().columns)


def test_each_row_has_the_stream_time_before_it() -> None:
    """The oracle and an audit judge a row by the column, not by the memory of a worker."""
    join = PartitionJoin(RULES)
    assert join.stream_time(DECISIONS) is None
    frame = join.take_decisions(decision_frame([D("a", 3), D("b", 1), D("c", 5)]))
    assert frame["stream_time"].to_list() == [None, START + 3 * SECOND, START + 3 * SECOND]
    assert join.stream_time(DECISIONS) == START + 5 * SECOND


def test_batches_out_of_order_are_a_programming_error() -> None:
    """A gap or a repetition must stop the worker, not change the result."""
    join = PartitionJoin(RULES)
    join.take_feedback(feedback_frame([F("x", "a", 1)], 5))
    with pytest.raises(ValueError, match="not in order"):
        join.take_feedback(feedback_frame([F("y", "a", 1)], 5))


def test_a_clock_that_was_never_set_stops_no_worker() -> None:
    """The zero time of some languages is the beginning of year 1; no window closes before it."""
    year_one = seconds(datetime(1, 1, 1, tzinfo=UTC))
    logs = Logs([D("a", year_one), D("b", 0)], [F("x", "a", year_one), F("y", "b", 1)])
    shell = Shell(logs)
    for _ in range(2):
        for log in LOGS:
            shell.poll(log, 1)
        shell.advance(FEEDBACK, 1)
        shell.commit()
        shell.start()
    shell.finish()
    assert joined(shell) == {"a": [0], "b": [1]}
    assert_agrees(shell)


def test_a_loop_version_that_waits_longer_opens_nothing_that_is_closed() -> None:
    """A decision before the frontier would wait in vain, and be lost by the next restart."""
    shell = Shell(Logs([D("a", 0), D("b", 1)], [F("x", "a", 0), F("y", "b", 1)]))
    for log in LOGS:
        shell.poll(log, 1)
        shell.advance(log, 30)
    shell.commit()
    shell.rules = rules(grace=60 * SECOND)
    shell.start()
    for log in LOGS:
        shell.poll(log, 1)
    shell.commit()
    assert shell.rows(DECISIONS)["verdict"].to_list() == [None, "late"]
    assert shell.rows(FEEDBACK)["verdict"].to_list() == [None, "late"]
    assert_conserved(shell)


def test_an_empty_batch_changes_nothing() -> None:
    """All records of a fetch may be dead letters."""
    join = PartitionJoin(RULES)
    assert join.take_decisions(decision_frame([])).columns[-2:] == ["stream_time", "verdict"]
    assert join.take_feedback(feedback_frame([])).is_empty()
    assert join.close() is None


def test_the_closing_time_closes_the_last_decision() -> None:
    """`tidemill close --until` has to close every window of the decisions it names."""
    for until in (0, 1, 7):
        shell = Shell(Logs([D("a", until)], []), JoinRules.of(LOOP))
        shell.poll(DECISIONS, 1)
        for log in LOGS:
            shell.join.advance(log, RULES.closing_time(START + until * SECOND))
        closed = shell.join.close()
        assert closed is not None
        assert closed.examples["decision_id"].to_list() == ["a"]


def test_a_restart_reads_rows_that_other_loop_versions_wrote() -> None:
    """The lake gets columns as the loop does; an older worker must still recover its windows."""
    join = PartitionJoin(RULES)
    decisions = join.take_decisions(decision_frame([D("a", 0)]))
    feedback = join.take_feedback(feedback_frame([F("x", "a", 1, value=4.0)]))
    newer = pl.struct(pl.lit("red").alias("colour"), pl.col("features").struct.field("price"))
    older = pl.struct(pl.col("values").struct.field("weight"))
    resume = Resume(
        offsets={DECISIONS: 1, FEEDBACK: 1},
        stream_times={log: join.stream_time(log) for log in LOGS},
        decisions=decisions.with_columns(features=newer),
        feedback=feedback.with_columns(values=older),
    )
    again = PartitionJoin(RULES, resume)
    for log in LOGS:
        again.advance(log, START + 60 * SECOND)
    closed = again.close()
    assert closed is not None
    assert closed.examples.schema["features"] == RULES.decisions["features"]
    assert closed.examples["label"].to_list() == [4004.0]


def test_the_example_of_the_guide() -> None:
    """docs/guide/joins.md explains it step by step, and has to be right."""
    decisions = [D("a", 0), D("b", 4), D("a", 0), D("b", 4)]
    feedback = [F("u", "a", 3), F("v", "a", 8, "buy"), F("w", "b", 2), F("x", "b", 9)]
    shell = Shell(Logs(decisions, [*feedback, F("y", "a", 7, "buy")]))
    shell.poll(DECISIONS, 4)
    shell.poll(FEEDBACK, 4)
    shell.advance(FEEDBACK, 11)
    shell.finish()
    assert shell.rows(DECISIONS)["verdict"].to_list() == [None, None, "late", "duplicate"]
    assert joined(shell) == {"a": [0, 1], "b": [2]}
    assert shell.closed[-1].counts == Counts(late=2)
    assert_agrees(shell)


def test_feedback_of_another_partition_is_misplaced_after_a_restart_too() -> None:
    """Nobody can find the client with the wrong partitioner by a count of `unmatched`."""
    is_misplaced = misplaced_in(0, 4)
    ids = pl.Series("id", [f"d{number}" for number in range(20)])
    there = is_misplaced(ids)
    assert 0 < there.sum() < 20
    join = PartitionJoin(RULES, is_misplaced=is_misplaced)
    join.take_decisions(decision_frame([D("a", 0)]))
    feedback = join.take_feedback(feedback_frame([F("x", id_, 1) for id_ in ids]))
    resume = Resume(
        offsets={DECISIONS: 1, FEEDBACK: 20},
        stream_times={log: join.stream_time(log) for log in LOGS},
        feedback=feedback,
    )
    for each in (join, PartitionJoin(RULES, resume, is_misplaced=is_misplaced)):
        for log in LOGS:
            each.advance(log, START + 60 * SECOND)
        closed = each.close()
        assert closed is not None
        assert closed.counts == Counts(unmatched=20 - there.sum(), misplaced=there.sum())
