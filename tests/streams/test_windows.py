"""The join of one partition: the conformance cases by their names, then windows at their edges."""

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
    rules,
    seconds,
)

from tidemill.streams.rules import JoinRules
from tidemill.streams.windows import Counts, PartitionJoin, Resume


def played(decisions: list[D], feedback: list[F], join_rules: JoinRules = RULES) -> Shell:
    """Read both logs whole, close everything, and hold the result against the oracle."""
    shell = Shell(Logs(decisions, feedback), join_rules)
    shell.finish()
    assert_agrees(shell)
    assert_conserved(shell)
    return shell


def states(shell: Shell) -> dict[str, str]:
    """Return the state of each example by decision id."""
    examples = shell.examples()
    return dict(zip(examples["decision_id"], examples["state"], strict=True))


def joined(shell: Shell) -> dict[str, list[int]]:
    """Return the offsets of the joined feedback of each example by decision id."""
    examples = shell.examples()
    return dict(zip(examples["decision_id"], examples["feedback_offsets"].to_list(), strict=True))


def test_case_1_no_no_feedback_for_a_decision_that_was_matched() -> None:
    """A decision that got its answer must not be counted as silence as well."""
    shell = played([D("a", 0), D("b", 0)], [F("x", "a", 1)])
    assert shell.examples()["decision_id"].to_list() == ["a", "b"]
    assert states(shell) == {"a": "labeled", "b": "no_feedback"}


def test_case_2_no_early_no_feedback_for_an_out_of_order_decision_inside_grace() -> None:
    """A decision that comes a little late, after its successors, still waits its whole window."""
    shell = Shell(Logs([D("b", 2), D("a", 0)], [F("y", "b", 5), F("x", "a", 8, "buy")]))
    shell.poll("decisions", 2)
    shell.poll("feedback", 1)
    shell.commit()
    assert shell.examples().is_empty()
    shell.finish()
    assert states(shell) == {"a": "labeled", "b": "labeled"}


def test_case_3_exactly_one_result_per_decision_at_close() -> None:
    """Nothing before close, one row at close, and never a second one."""
    shell = Shell(Logs([D("a", 0), D("end", 12)], [F("x", "a", 1), F("z", "end", 12)]))
    for log in LOGS:
        shell.poll(log, 1)
        shell.commit()
    assert shell.examples().is_empty()
    for log in LOGS:
        shell.poll(log, 1)
        shell.commit()
    assert joined(shell) == {"a": [0]}
    shell.finish()
    assert joined(shell) == {"a": [0], "end": [1]}


def test_case_4_feedback_read_before_its_decision_joins() -> None:
    """Which log is polled first is the network's choice."""
    shell = Shell(Logs([D("a", 0)], [F("x", "a", 1)]))
    shell.poll("feedback", 1)
    shell.commit()
    assert shell.join.open_feedback == 1
    shell.poll("decisions", 1)
    shell.finish()
    assert states(shell) == {"a": "labeled"}


def test_case_5_an_idle_log_beside_a_busy_one_closes() -> None:
    """A loop without any feedback yet must still produce examples."""
    shell = Shell(Logs([D("a", 0), D("b", 60)], []))
    shell.poll("decisions", 2)
    shell.commit()
    assert not shell.closed, "nobody has said that no answers are on their way"
    shell.advance("feedback", 60)
    shell.commit()
    assert states(shell) == {"a": "no_feedback"}
    assert_agrees(shell)


def test_case_5_two_idle_logs_close_by_the_clock() -> None:
    """The last window of a quiet topic closes without a next event."""
    shell = Shell(Logs([D("a", 0)], [F("x", "a", 1)]))
    shell.poll("decisions", 1)
    shell.poll("feedback", 1)
    shell.commit()
    assert shell.examples().is_empty()
    for log in LOGS:
        shell.advance(log, 12)
    shell.commit()
    assert joined(shell) == {"a": [0]}
    assert (shell.join.open_decisions, shell.join.open_feedback) == (0, 0)


def test_case_5_an_advance_is_remembered_by_a_restart() -> None:
    """What comes after an idle advance is judged by it, also by the process that comes next."""
    shell = Shell(Logs([D("a", 0), D("b", 9)], [F("x", "a", 1), F("y", "a", 2), F("z", "b", 9)]))
    shell.poll("decisions", 1)
    shell.poll("feedback", 1)
    for log in LOGS:
        shell.advance(log, 30)
    shell.commit()
    shell.start()
    shell.finish()
    assert shell.rows("decisions")["verdict"].to_list() == [None, "late"]
    assert shell.rows("feedback")["verdict"].to_list() == [None, "late", "late"]
    assert_agrees(shell)


def test_case_6_catching_up_after_an_outage_skips_no_join() -> None:
    """Hours of records in one poll join as they would have one by one."""
    decisions = [D(f"d{hour}", hour * 3600) for hour in range(50)]
    feedback = [F(f"f{hour}", f"d{hour}", hour * 3600 + 3) for hour in range(50)]
    slowly, at_once = Shell(Logs(decisions, feedback)), played(decisions, feedback)
    for _ in range(50):
        slowly.poll("decisions", 1)
        slowly.poll("feedback", 1)
        slowly.commit()
    slowly.finish()
    assert joined(slowly) == joined(at_once) == {f"d{hour}": [hour] for hour in range(50)}


def test_case_7_state_is_empty_after_close_with_no_new_input() -> None:
    """What is closed is in the lake; keeping it in memory would be a leak."""
    shell = Shell(Logs([D("a", 0), D("b", 1)], [F("x", "a", 1), F("y", "nobody", 1)]))
    for log in LOGS:
        shell.poll(log, 10)
        shell.advance(log, 100)
    shell.commit()
    assert (shell.join.open_decisions, shell.join.open_feedback) == (0, 0)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_case_10_a_crash_between_poll_and_write_loses_nothing(step: int) -> None:
    """Whatever was not committed is read again; whatever was, is not."""
    shell = Shell(Logs([D("a", 0), D("b", 20)], [F("x", "a", 1), F("y", "b", 20)]))
    shell.poll("decisions", 2)
    shell.poll("feedback", 2)
    shell.commit(crash_after=step)
    shell.finish()
    assert joined(shell) == {"a": [0], "b": [1]}
    assert_agrees(shell)


def test_case_11_the_first_start_reads_from_the_beginning() -> None:
    """Records that were there before the worker are decisions too."""
    shell = Shell(Logs([D("old", -500_000), D("new", 0)], []))
    assert shell.offsets == {"decisions": 0, "feedback": 0}
    shell.finish()
    assert set(states(shell)) == {"old", "new"}


def test_case_12_a_rebalance_inside_a_window_leaves_no_gap_and_no_double() -> None:
    """A partition that moves to another worker goes on where the lake ends."""
    shell = Shell(Logs([D("a", 0), D("a", 0), D("b", 4)], [F("x", "a", 1), F("x", "a", 1)]))
    for _ in range(3):
        shell.poll("decisions", 1)
        shell.poll("feedback", 1)
        shell.commit()
        shell.start()
    shell.finish()
    assert joined(shell) == {"a": [0], "b": []}
    assert shell.rows("decisions")["verdict"].to_list() == [None, "duplicate", None]
    assert shell.closed[-1].counts == Counts(duplicate=1)


def test_case_13_late_feedback_is_counted() -> None:
    """An operator must be able to see that a window is too short."""
    shell = played([D("a", 0), D("b", 4)], [F("w", "b", 12), F("x", "a", 2), F("y", "a", 9)])
    assert shell.closed[-1].counts == Counts(late=3)
    assert states(shell) == {"a": "no_feedback", "b": "no_feedback"}


def test_case_14_the_largest_of_negative_values_is_negative() -> None:
    """An answer of minus two is not the same as no answer."""
    shell = Shell(Logs([D("a", 0)], [F("x", "a", 1, value=-2.0)]), rules(label_sql="max(weight)"))
    shell.finish()
    assert shell.examples()["label"].to_list() == [-2.0]


def test_case_15_duplicates_change_nothing() -> None:
    """Producers and brokers deliver again; re-delivery is not a second decision or click."""
    decisions, feedback = [D("a", 0), D("b", 1)], [F("x", "a", 1), F("y", "b", 2, value=3.0)]
    once, twice = played(decisions, feedback), played(decisions * 2, feedback * 2)
    assert once.examples().equals(twice.examples())
    assert twice.rows("decisions")["verdict"].to_list() == [None, None, "duplicate", "duplicate"]
    assert twice.closed[-1].counts == Counts(duplicate=2)


@pytest.mark.parametrize(
    ("kind", "at", "is_inside"),
    [
        ("click", -3, False),
        ("click", -2, True),
        ("click", 3, True),
        ("click", 4, False),
        ("buy", -1, False),
        ("buy", 0, True),
        ("buy", 8, True),
        ("buy", 9, False),
    ],
)
def test_case_16_both_ends_of_a_window_are_inside(kind: str, at: int, is_inside: bool) -> None:
    """`within: 3s` means that three seconds still count, to the microsecond."""
    shell = played([D("a", 0)], [F("x", "a", at, kind)])
    assert joined(shell) == {"a": [0] if is_inside else []}


@pytest.mark.parametrize(("ahead", "verdict"), [(2, None), (3, "late")])
def test_case_17_a_decision_is_on_time_up_to_its_grace(ahead: int, verdict: str | None) -> None:
    """A producer whose clock is behind is late by exactly more than the grace."""
    shell = played([D("first", ahead), D("behind", 0)], [])
    assert shell.rows("decisions")["verdict"].to_list() == [None, verdict]


@pytest.mark.parametrize(("reached", "is_joined"), [(10, True), (11, False)])
def test_case_17_feedback_is_on_time_up_to_the_close(reached: int, is_joined: bool) -> None:
    """Feedback counts while its own log has not passed 0 + 8 s wait + 2 s grace."""
    shell = played([D("a", 0), D("z", 20)], [F("w", "z", reached), F("x", "a", 1)])
    assert joined(shell)["a"] == ([1] if is_joined else [])


def test_case_17_a_clock_ahead_makes_others_late_but_breaks_nothing() -> None:
    """One service in the future costs the others, visibly, and not silently."""
    shell = played([D("a", 0), D("future", 3600), D("b", 1)], [F("x", "b", 1), F("y", "a", 1)])
    assert shell.rows("decisions")["verdict"].to_list() == [None, None, "late"]
    assert joined(shell) == {"a": [1], "future": []}


def test_case_19_two_kinds_with_windows_of_their_own_in_one_join() -> None:
    """A click counts for 3 s and a purchase for 8 s of the same decision."""
    shell = played([D("a", 0)], [F("x", "a", 6, "buy"), F("y", "a", 6, "click"), F("z", "a", 3)])
    assert joined(shell) == {"a": [2, 0]}
    assert shell.closed[-1].counts == Counts(late=1)


def test_feedback_is_joined_in_the_order_of_its_time_and_then_its_offset() -> None:
    """A label such as `first(...)` must not depend on how the network mixed the answers."""
    feedback = [F("x", "a", 2), F("y", "a", 1), F("z", "a", 1), F("w", "a", 0)]
    shell = played([D("a", 0)], feedback)
    assert joined(shell) == {"a": [3, 1, 2, 0]}
    assert shell.examples()["first_feedback_at"].to_list() == [START]


def test_the_first_copy_on_time_counts_also_when_the_first_copy_was_late() -> None:
    """A late copy is no decision, so it cannot make the next one a duplicate."""
    shell = played([D("z", 10), D("a", 0), D("a", 9)], [F("x", "a", 9)])
    assert shell.rows("decisions")["verdict"].to_list() == [None, "late", None]
    assert joined(shell)["a"] == [0]


def test_copies_of_feedback_with_other_times_count_once() -> None:
    """A client that stamps its retry anew still sent one feedback; the first that fits counts."""
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
    verdicts = shell.rows("decisions")["verdict"].to_list()
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
    """No arrival is not an arrival in time; no click is a click that did not happen."""
    shell = played([D("a", 0)], [], rules(missing=missing))
    examples = shell.examples()
    assert (examples["state"].to_list(), examples["label"].to_list()) == ([state], [label])


def test_feedback_without_a_label_is_as_good_as_none() -> None:
    """A feedback whose value is null says nothing; `missing` does."""
    shell = Shell(Logs([D("a", 0)], [F("x", "a", 1, "click")]), rules(label_sql="max(amount)"))
    shell.finish()
    examples = shell.examples()
    assert examples["state"].to_list() == ["no_feedback"]
    assert examples["feedback_offsets"].to_list() == [[0]]


def test_the_width_of_buckets_changes_when_and_not_what() -> None:
    """Buckets are how much closes at once; no result may depend on them."""
    decisions = [D(f"d{at}", at) for at in range(30)]
    feedback = [F(f"f{at}", f"d{at % 30}", at) for at in range(0, 40, 2)]
    narrow = played(decisions, feedback, rules(bucket=1 * SECOND))
    wide = played(decisions, feedback, rules(bucket=600 * SECOND))
    assert narrow.examples().equals(wide.examples())


def test_a_close_without_decisions_still_moves_the_frontier() -> None:
    """Feedback alone, or a gap in the traffic, must not hold time back."""
    shell = Shell(Logs([], [F("x", "nobody", 1)]))
    shell.poll("feedback", 1)
    shell.advance("decisions", 100)
    shell.advance("feedback", 100)
    shell.commit()
    assert shell.closed[0].examples.is_empty()
    assert shell.closed[0].examples.columns == list(played([D("a", 0)], []).examples().columns)


def test_stream_time_stands_before_each_row() -> None:
    """The oracle and an auditor judge a row by the column, not by what the worker remembers."""
    join = PartitionJoin(RULES)
    assert join.stream_time("decisions") is None
    frame = join.take_decisions(decision_frame([D("a", 3), D("b", 1), D("c", 5)]))
    assert frame["stream_time"].to_list() == [None, START + 3 * SECOND, START + 3 * SECOND]
    assert join.stream_time("decisions") == START + 5 * SECOND


def test_batches_out_of_order_are_a_programming_error() -> None:
    """A gap or a repetition must stop the worker, not change the result."""
    join = PartitionJoin(RULES)
    join.take_feedback(feedback_frame([F("x", "a", 1)], 5))
    with pytest.raises(ValueError, match="not in order"):
        join.take_feedback(feedback_frame([F("y", "a", 1)], 5))


def test_a_clock_that_was_never_set_stops_nobody() -> None:
    """The zero time of some languages is the first moment there is; no window closes before it."""
    year_one = seconds(datetime(1, 1, 1, tzinfo=UTC))
    logs = Logs([D("a", year_one), D("b", 0)], [F("x", "a", year_one), F("y", "b", 1)])
    shell = Shell(logs)
    for _ in range(2):
        for log in LOGS:
            shell.poll(log, 1)
        shell.advance("feedback", 1)
        shell.commit()
        shell.start()
    shell.finish()
    assert joined(shell) == {"a": [0], "b": [1]}
    assert_agrees(shell)


def test_a_loop_version_that_waits_longer_opens_nothing_that_is_closed() -> None:
    """A decision behind the frontier would wait in vain, and be lost by the next restart."""
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
    assert shell.rows("decisions")["verdict"].to_list() == [None, "late"]
    assert shell.rows("feedback")["verdict"].to_list() == [None, "late"]
    assert_conserved(shell)


def test_an_empty_batch_changes_nothing() -> None:
    """A fetch may hold nothing but dead letters."""
    join = PartitionJoin(RULES)
    assert join.take_decisions(decision_frame([])).columns[-2:] == ["stream_time", "verdict"]
    assert join.take_feedback(feedback_frame([])).is_empty()
    assert join.close() is None


def test_the_closing_time_closes_the_last_decision() -> None:
    """`tidemill close --until` has to close what it names, and no window may stay a bit open."""
    for until in (0, 1, 7):
        shell = Shell(Logs([D("a", until)], []), JoinRules.of(LOOP))
        shell.poll("decisions", 1)
        for log in LOGS:
            shell.join.advance(log, RULES.closing_time(START + until * SECOND))
        closed = shell.join.close()
        assert closed is not None
        assert closed.examples["decision_id"].to_list() == ["a"]


def test_a_restart_reads_rows_that_other_loop_versions_wrote() -> None:
    """The lake grows columns as the loop does; an older worker must still take up its windows."""
    join = PartitionJoin(RULES)
    decisions = join.take_decisions(decision_frame([D("a", 0)]))
    feedback = join.take_feedback(feedback_frame([F("x", "a", 1, value=4.0)]))
    newer = pl.struct(pl.lit("red").alias("colour"), pl.col("features").struct.field("price"))
    older = pl.struct(pl.col("values").struct.field("weight"))
    resume = Resume(
        offsets={"decisions": 1, "feedback": 1},
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
    """docs/guide/joins.md goes through it step by step; what it says has to be so."""
    decisions = [D("a", 0), D("b", 4), D("a", 0), D("b", 4)]
    feedback = [F("u", "a", 3), F("v", "a", 8, "buy"), F("w", "b", 2), F("x", "b", 9)]
    shell = Shell(Logs(decisions, [*feedback, F("y", "a", 7, "buy")]))
    shell.poll("decisions", 4)
    shell.poll("feedback", 4)
    shell.advance("feedback", 11)
    shell.finish()
    assert shell.rows("decisions")["verdict"].to_list() == [None, None, "late", "duplicate"]
    assert joined(shell) == {"a": [0, 1], "b": [2]}
    assert shell.closed[-1].counts == Counts(late=2)
    assert_agrees(shell)
