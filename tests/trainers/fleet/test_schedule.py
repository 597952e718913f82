"""The order of work over many loops: who waits longest comes first, and nobody waits for ever."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.trainers.fleet.schedule import (
    FIRST_BACKOFF_S,
    LAST_BACKOFF_S,
    SILENT_S,
    FleetSchedule,
)

POLL_S = 60.0


def schedule_of(*loops: str, now_s: float = 0.0) -> FleetSchedule:
    """A schedule that owns *loops*, none of which is due."""
    schedule = FleetSchedule(poll_s=POLL_S)
    schedule.own(dict.fromkeys(loops, 1), now_s)
    while (loop := schedule.take(now_s, is_batch=False)) is not None:
        schedule.done(loop, now_s)
    return schedule


@given(woken=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=40))
def test_the_loop_that_waits_longest_comes_first(woken: list[str]) -> None:
    """A fleet is as fresh as its slowest loop."""
    schedule = schedule_of(*"abcdef")
    for at, loop in enumerate(woken):
        schedule.wake(loop, 1.0 + at)
    taken = [schedule.take(50.0, is_batch=False) for _ in set(woken)]
    assert taken == list(dict.fromkeys(woken))
    assert schedule.take(50.0, is_batch=False) is None, "nobody is worked on twice at a time"


@given(busy=st.sets(st.sampled_from("abcdef"), min_size=1), slices=st.integers(1, 60))
def test_busy_loops_get_slices_in_turn(busy: set[str], slices: int) -> None:
    """A loop that always has more to learn must not starve the others."""
    schedule, now_s, got = schedule_of(*"abcdef"), 0.0, Counter[str]()
    for loop in busy:
        schedule.wake(loop, now_s)
    for _ in range(slices):
        taken = schedule.take(now_s, is_batch=False)
        assert taken is not None
        now_s += 0.5
        got[taken] += 1
        schedule.done(taken, now_s, again_s=0.0)
    assert max(got.values()) - min(got[loop] for loop in busy) <= 1


def test_a_commit_that_comes_meanwhile_makes_the_loop_due_at_once() -> None:
    """Else the last rows before a pause would wait for the slow poll."""
    schedule = schedule_of("a")
    schedule.wake("a", 1.0)
    assert schedule.take(1.0, is_batch=False) == "a"
    schedule.wake("a", 1.5)
    schedule.done("a", 2.0)
    assert schedule.take(2.0, is_batch=False) == "a"
    schedule.done("a", 3.0)
    assert schedule.take(3.0 + POLL_S - 0.1, is_batch=False) is None
    assert schedule.take(3.0 + POLL_S, is_batch=False) == "a", "its slow poll"


@given(failures=st.integers(1, 40))
def test_a_loop_that_fails_waits_longer_each_time_and_the_others_go_on(failures: int) -> None:
    """A broken loop must cost little, and must heal by itself."""
    schedule, now_s, before_s = schedule_of("a", "b"), 0.0, 0.0
    for _ in range(failures):
        schedule.wake("b", now_s)
        now_s += POLL_S
        taken = {schedule.take(now_s, is_batch=False), schedule.take(now_s, is_batch=False)}
        assert "b" in taken
        schedule.done("b", now_s)
        pause_s = schedule.failed("a", now_s)
        assert min(2 * before_s, LAST_BACKOFF_S) <= pause_s <= LAST_BACKOFF_S
        assert before_s or pause_s == FIRST_BACKOFF_S
        schedule.wake("a", now_s)  # a commit does not shorten it
        assert schedule.take(now_s + pause_s - 0.1, is_batch=False) in {None, "b"}
        schedule.done("b", now_s)
        now_s, before_s = now_s + pause_s, pause_s
    assert "a" in {schedule.take(now_s, is_batch=False), schedule.take(now_s, is_batch=False)}
    schedule.done("a", now_s)
    assert schedule.failed("a", now_s) == FIRST_BACKOFF_S, "a success ends the series"


def test_one_process_trains_one_loop_in_batch_after_the_other_and_keeps_its_share() -> None:
    """A fleet that trains all loops at once takes the memory of all of them."""
    schedule = FleetSchedule(poll_s=POLL_S, batch_share=0.25)
    schedule.own({"a": 1, "b": 1}, 0.0)
    for now_s, loop in ((1.0, "a"), (2.0, "b")):
        assert schedule.take(now_s, is_batch=False) == loop
        schedule.wants_batch(loop, now_s)
    assert schedule.waited_s(5.0, is_batch=True) == 4.0
    assert schedule.take(5.0, is_batch=True) == "a"
    schedule.trained(10.0, 15.0)
    schedule.done("a", 15.0)
    assert schedule.take(15.0 + 29.9, is_batch=True) is None
    assert schedule.take(15.0 + 30.0, is_batch=True) == "b"
    assert schedule.take(15.0 + 30.0, is_batch=False) is None, "no step beside its own training"


def test_a_fenced_loop_is_left_while_the_other_trainer_is_heard_of() -> None:
    """Two that take a loop from each other again and again would train it twice for nothing."""
    schedule = schedule_of("a", "b")
    schedule.wake("a", 1.0)
    assert schedule.take(1.0, is_batch=False) == "a"
    schedule.fence("a", 2.0)
    assert (schedule.loops, schedule.fenced) == (["b"], ["a"])
    for now_s in (12.0, 22.0, 32.0):
        schedule.heard("a", now_s)
        schedule.wake("a", now_s)
        assert schedule.take(now_s, is_batch=False) is None
    assert schedule.take(32.0 + SILENT_S, is_batch=False) == "a", "it has ended"
    assert schedule.fenced == []


@pytest.mark.parametrize("how", ["version", "partition"])
def test_a_new_version_and_a_new_assignment_end_the_fence(how: str) -> None:
    """The group has decided, or a person has: waiting for silence would be idle."""
    schedule = schedule_of("a")
    schedule.wake("a", 1.0)
    schedule.take(1.0, is_batch=False)
    schedule.fence("a", 1.0)
    if how == "partition":
        assert schedule.own({}, 2.0) == ["a"]
    schedule.own({"a": 2 if how == "version" else 1}, 3.0)
    assert schedule.take(3.0, is_batch=False) == "a"


def test_a_loop_that_comes_back_while_it_is_worked_on_is_not_worked_on_twice() -> None:
    """A rebalance there and back within one training must not train the loop in two threads."""
    schedule = schedule_of("a")
    schedule.wake("a", 1.0)
    assert schedule.take(1.0, is_batch=False) == "a"
    schedule.own({}, 2.0)
    schedule.own({"a": 1}, 3.0)
    assert schedule.take(3.0, is_batch=False) is None
    schedule.done("a", 4.0)
    assert schedule.take(4.0, is_batch=False) == "a"
