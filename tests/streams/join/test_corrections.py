"""Corrections: feedback after a close revises the example, and nothing is overwritten."""

import random

import numpy as np
import pytest
from tests.streams.join_logs import (
    LOGS,
    RULES,
    SECOND,
    D,
    F,
    Logs,
    Shell,
    assert_agrees,
    assert_conserved,
    decision_frame,
    feedback_frame,
    joined,
    play,
    played,
    random_logs,
    rules,
    states,
)

from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.streams.join.partition_join import Counts, PartitionJoin
from tidemill.streams.join.rules import JoinRules, read_back

pytestmark = pytest.mark.slow  # random logs with corrections

CORRECTED = rules(corrections=20 * SECOND)
"""A decision at 0 closes at 10, and may be corrected up to stream time 30."""


def numbered(shell: Shell) -> list[tuple[str, int, list[int]]]:
    """Return decision, number and feedback of each revision that was written."""
    return shell.revisions().select("decision_id", "revision", "feedback_offsets").rows()


def after_the_close(feedback: list[F], join_rules: JoinRules = CORRECTED) -> Shell:
    """Return a shell in which decision `a` of second 0 is closed, and *feedback* not read yet."""
    shell = Shell(Logs([D("a", 0), D("z", 15)], [F("w", "z", 15), *feedback]), join_rules)
    shell.poll(DECISIONS, 2)
    shell.poll(FEEDBACK, 1)
    shell.commit()
    assert states(shell) == {"a": "no_feedback"}
    return shell


def test_feedback_after_the_close_writes_a_revision_and_leaves_the_first() -> None:
    """A learner that used the first must be able to read it again; others want the newest."""
    shell = after_the_close([F("x", "a", 1, value=4.0)])
    first = shell.examples()
    shell.poll(FEEDBACK, 1)
    shell.commit()
    assert shell.revisions().filter(revision=0).equals(first)
    newest = shell.examples().row(0, named=True)
    assert (newest["state"], newest["label"], newest["revision"]) == ("labeled", 4004.0, 1)
    assert newest["feedback_offsets"] == [1]
    unchanged = [name for name in first.columns if name not in _OUTCOME]
    assert shell.examples().select(unchanged).equals(first.select(unchanged))
    assert_agrees(shell)
    assert_conserved(shell)


_OUTCOME = ("state", "label", "feedback_offsets", "first_feedback_at", "revision")


def test_without_corrections_late_stays_late() -> None:
    """Off is the default: then nothing is compared, recalled or remembered longer."""
    shell = after_the_close([F("x", "a", 1)], RULES)
    shell.poll(FEEDBACK, 1)
    shell.commit()
    shell.finish()
    assert shell.rows(FEEDBACK)["verdict"].to_list() == [None, "late"]
    assert not any(closed.examined for closed in shell.closed)
    frontier = shell.closed[-1].frontier
    assert (
        read_back(RULES, frontier).decisions
        == read_back(CORRECTED, frontier + 20 * SECOND).decisions
    )


@pytest.mark.parametrize(("reached", "is_taken"), [(30, True), (31, False)])
def test_corrections_end_with_the_stream_time_that_the_loop_says(
    reached: int, is_taken: bool
) -> None:
    """Both ends are included, as everywhere: the close at 10, and 20 seconds after it."""
    shell = after_the_close([F("v", "z", reached), F("x", "a", 1)])
    shell.poll(FEEDBACK, 2)
    shell.finish()
    assert joined(shell)["a"] == ([2] if is_taken else [])
    assert_agrees(shell)


def test_each_late_feedback_is_a_revision_with_all_that_is_known() -> None:
    """Revision n has the first n late ones, in the order of the log, and the label of them all."""
    shell = Shell(
        Logs(
            [D("a", 0)],
            [F("u", "a", 2, value=1.0), F("v", "z", 15), F("x", "a", 3, value=2.0),
             F("y", "a", 1, value=3.0)],
        ),
        CORRECTED,
    )  # fmt: skip
    shell.poll(DECISIONS, 1)
    shell.advance(DECISIONS, 15)
    for _ in range(4):
        shell.poll(FEEDBACK, 1)
        shell.commit()
    assert numbered(shell) == [("a", 0, [0]), ("a", 1, [0, 2]), ("a", 2, [3, 0, 2])]
    assert shell.revisions()["label"].to_list() == [1001.0, 1003.0, 3006.0]
    assert shell.closed[-1].revised == 2
    assert_agrees(shell)


def test_of_several_between_two_commits_the_last_is_written_under_its_number() -> None:
    """How often a worker commits must not change what a number means, nor the newest revision."""
    late = [F("x", "a", 1), F("y", "a", 2), F("u", "a", 3)]
    one_by_one, at_once = after_the_close(late), after_the_close(late)
    for _ in late:
        one_by_one.poll(FEEDBACK, 1)
        one_by_one.commit()
    at_once.poll(FEEDBACK, 3)
    at_once.commit()
    assert [number for _, number, _ in numbered(one_by_one)] == [0, 1, 2, 3]
    assert [number for _, number, _ in numbered(at_once)] == [0, 3]
    assert at_once.examples().equals(one_by_one.examples())


def test_late_feedback_read_before_the_close_revises_at_the_close() -> None:
    """The network decides which log is ahead; the feedback's own log decides what is late."""
    shell = Shell(Logs([D("a", 0)], [F("v", "z", 15), F("x", "a", 1)]), CORRECTED)
    shell.poll(FEEDBACK, 2)
    shell.commit()
    shell.poll(DECISIONS, 1)
    shell.advance(DECISIONS, 15)
    shell.commit()
    assert numbered(shell) == [("a", 0, []), ("a", 1, [1])]
    assert_agrees(shell)


def test_a_copy_corrects_nothing() -> None:
    """A client that sends joined feedback again adds no information."""
    shell = Shell(
        Logs([D("a", 0)], [F("u", "a", 1), F("v", "z", 15), F("u", "a", 2), F("x", "a", 3),
                           F("x", "a", 2)]),
        CORRECTED,
    )  # fmt: skip
    shell.poll(DECISIONS, 1)
    shell.advance(DECISIONS, 15)
    for _ in range(5):
        shell.poll(FEEDBACK, 1)
        shell.commit()
    assert numbered(shell) == [("a", 0, [0]), ("a", 1, [0, 3])]
    shell.finish()
    assert shell.closed[-1].counts == Counts(duplicate=2, unmatched=1)
    assert_agrees(shell)


@pytest.mark.parametrize(("kind", "at"), [("click", 4), ("buy", 9)])
def test_late_feedback_outside_of_the_window_stays_late(kind: str, at: int) -> None:
    """Corrections are about when feedback is read; the window is about when it happened."""
    shell = after_the_close([F("x", "a", at, kind)])
    shell.finish()
    assert joined(shell)["a"] == []
    assert shell.closed[-1].counts == Counts(late=1)
    assert_agrees(shell)


def test_late_feedback_may_activate_a_decision() -> None:
    """The decision was shown all the time; only the event about it was late."""
    shown = rules(activation="buy", corrections=20 * SECOND)
    shell = Shell(
        Logs([D("a", 0)], [F("x", "a", 1), F("v", "z", 15), F("y", "a", 1, "buy")]), shown
    )
    shell.poll(DECISIONS, 1)
    shell.advance(DECISIONS, 15)
    shell.poll(FEEDBACK, 2)
    shell.commit()
    assert states(shell) == {"a": "not_activated"}
    shell.poll(FEEDBACK, 1)
    shell.commit()
    assert states(shell) == {"a": "labeled"}
    assert_agrees(shell)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_crash_around_a_correction_loses_and_doubles_nothing(step: int) -> None:
    """Raw feedback may be committed before its revision is; the next process writes it."""
    shell = after_the_close([F("x", "a", 1), F("y", "a", 2)])
    shell.poll(FEEDBACK, 1)
    shell.commit(crash_after=step)
    shell.finish()
    assert shell.examples().filter(decision_id="a")["feedback_offsets"].to_list() == [[1, 2]]
    assert_agrees(shell)
    assert_conserved(shell)


def test_closed_decisions_do_not_stay_in_memory_for_corrections() -> None:
    """Only an id of 24 bytes does; the features of a week of closed decisions would not fit."""
    shell = after_the_close([])
    assert (shell.join.open_decisions, shell.join.open_feedback) == (1, 1)


def test_a_join_that_cannot_recall_says_so() -> None:
    """Late feedback must not vanish because somebody forgot to pass the lake."""
    join = PartitionJoin(CORRECTED)
    join.take_decisions(decision_frame([D("a", 0), D("z", 15)]))
    join.take_feedback(feedback_frame([F("w", "z", 15)]))
    assert join.close() is not None
    join.take_feedback(feedback_frame([F("x", "a", 1)], 1))
    with pytest.raises(ValueError, match="no recall was given"):
        join.close()


@pytest.mark.parametrize("seed", range(30))
def test_corrections_agree_with_the_oracle(seed: int) -> None:
    """For any logs, polls, crashes and idle logs, the oracle computes the same revisions."""
    rng = random.Random(seed)
    shell = Shell(
        random_logs(rng, 60),
        rules(
            corrections=rng.choice((5, 20, 60)) * SECOND,
            activation=rng.choice((None, None, "buy")),
            bucket=rng.choice((1, 5)) * SECOND,
        ),
    )
    play(shell, rng)
    assert_agrees(shell)
    assert_conserved(shell)
    assert (shell.join.open_decisions, shell.join.open_feedback) == (0, 0)


@pytest.mark.parametrize("seed", range(8))
def test_the_newest_revision_is_a_function_of_the_logs(seed: int) -> None:
    """Batches, interleavings and crashes decide which numbers are written, never the newest."""
    rng = random.Random(seed)
    logs = random_logs(rng, 80)
    at_once = played(list(logs.decisions), list(logs.feedback), CORRECTED)
    for _ in range(4):
        shell = Shell(logs, CORRECTED)
        play(shell, rng, idles=False)
        assert shell.examples().equals(at_once.examples())
        assert shell.closed[-1].counts == at_once.closed[-1].counts


def test_thousands_of_late_ones_in_one_commit_are_one_revision_each() -> None:
    """An outage of a service ends with a burst; its cost must not grow with its square."""
    decisions = [D(f"d{number}", 0) for number in range(2_000)]
    end = [F("end", "z", 15)]
    late = [F(f"f{number}", f"d{number % 2_000}", 1) for number in range(6_000)]
    shell = Shell(Logs([*decisions, D("z", 15)], [*end, *late]), CORRECTED)
    shell.poll(DECISIONS, 3_000)
    shell.poll(FEEDBACK, 1)
    shell.commit()
    shell.poll(FEEDBACK, 6_000)
    shell.commit()
    thirds = shell.revisions().filter(revision=3)
    assert len(thirds) == 2_000
    assert np.unique(thirds["label"].to_numpy()).tolist() == [1003.0]
    assert [len(shell.rows(log)) for log in LOGS] == [2_001, 6_001]
