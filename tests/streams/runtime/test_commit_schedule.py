"""Commit turns: small loops take a share of a core in turns; busy ones do not wait."""

from dataclasses import dataclass

import pytest

from tidemill.streams.runtime.commit_schedule import AT_ONCE, SMALL_ROWS, Cadence, CommitTurns

CYCLE_S = 0.03  # of a core, for one commit cycle


class Clock:
    """A clock that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@dataclass(slots=True)
class Waiting:
    """A loop that always has something to commit."""

    clock: Clock
    pending_rows: int = 1
    committed_s: float = 0.0
    longest_s: float = 0.0

    @property
    def waited_s(self) -> float:
        """How long the last commit cycle is ago."""
        return self.clock.now_s - self.committed_s

    def commit(self) -> None:
        """Commit now."""
        self.longest_s = max(self.longest_s, self.waited_s)
        self.committed_s = self.clock.now_s


def played(loops: list[Waiting], clock: Clock, *, seconds: float, cadence: Cadence) -> float:
    """Commit what has its turn, ten times a second; return the share of a core that it took."""
    turns, spent_s = CommitTurns[Waiting](cadence), 0.0
    for _ in range(int(seconds * 10)):
        clock.now_s += 0.1
        due = [each for each in loops if each.waited_s >= cadence.every_s]
        chosen = turns.choose(due)
        for each in chosen:
            each.commit()
        turns.note_spent(cost := CYCLE_S * len(chosen))
        spent_s += cost
    return spent_s / seconds


def test_a_few_loops_are_committed_every_second() -> None:
    """The share bounds fleets; one loop has never heard of it."""
    clock = Clock()
    loops = [Waiting(clock) for _ in range(4)]
    played(loops, clock, seconds=60, cadence=Cadence(clock=clock))
    assert max(each.longest_s for each in loops) < 1.25


@pytest.mark.parametrize("count", [50, 200])
def test_many_small_loops_wait_for_their_share(count: int) -> None:
    """Each in its turn: none waits much longer than all others."""
    clock = Clock()
    loops = [Waiting(clock) for _ in range(count)]
    cadence = Cadence(clock=clock, share=0.25)
    share = played(loops, clock, seconds=200, cadence=cadence)
    assert share == pytest.approx(0.25, rel=0.1)
    fair_s = count * CYCLE_S / 0.25
    assert max(each.longest_s for each in loops) == pytest.approx(fair_s, rel=0.2)


def test_no_loop_waits_longer_than_the_longest_interval() -> None:
    """Examples have to be fresh, whatever the share says."""
    clock = Clock()
    loops = [Waiting(clock) for _ in range(1_000)]
    played(loops, clock, seconds=200, cadence=Cadence(clock=clock, share=0.25, longest_s=45.0))
    last = 1_000 / AT_ONCE / 10  # so long the first round takes: all are overdue at once
    assert max(each.longest_s for each in loops) < 45.0 + last


def test_a_busy_loop_keeps_its_second_beside_a_fleet() -> None:
    """Its rows cost more than its commits, and somebody waits for them."""
    clock = Clock()
    busy = Waiting(clock, pending_rows=SMALL_ROWS)
    fleet = [Waiting(clock) for _ in range(200)]
    played([*fleet, busy], clock, seconds=60, cadence=Cadence(clock=clock))
    assert busy.longest_s < 1.25


def test_a_pause_is_not_made_up_for() -> None:
    """After an hour without a record, a fleet must not take a core for minutes."""
    clock = Clock()
    loops = [Waiting(clock) for _ in range(100)]
    turns = CommitTurns[Waiting](Cadence(clock=clock, longest_s=1e9))
    clock.now_s += 3600.0
    chosen = 0
    for _ in range(10):
        now = turns.choose(loops)
        turns.note_spent(CYCLE_S * len(now))
        chosen += len(now)
    assert chosen <= 3 * AT_ONCE
