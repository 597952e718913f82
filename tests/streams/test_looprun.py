"""When a round of commits is due. What a round does is proved by the schedules."""

import string

import pytest
from tests.streams.schedule_oracle import Event
from tests.streams.workers_in_memory import RUNNER, Process, World


@pytest.fixture
def process() -> Process:
    """A worker that commits every second or 200 records, and has just committed."""
    worker = Process(World(commit_rows=200))
    RUNNER.run_until_complete(worker.claim([0, 1]))
    RUNNER.run_until_complete(worker.run.commit())
    return worker


def read(process: Process, records: int) -> None:
    """Let *process* take so many decisions of different ids."""
    for number in range(records):
        process.world.produce(Event("decisions", string.ascii_letters[number], 0, 0))
    RUNNER.run_until_complete(process.poll("decisions", 1_000))


def test_a_round_is_due_a_second_after_the_last_one(process: Process) -> None:
    """Live traffic would else make a file of a few rows out of every fetch."""
    read(process, 4)
    assert not process.run.is_due(is_caught_up=True)
    process.world.now_s += 1.0
    assert process.run.is_due(is_caught_up=True)


def test_the_last_round_of_a_backlog_does_not_wait(process: Process) -> None:
    """Nothing more comes that could share its files."""
    read(process, 40)
    assert not process.run.is_due(is_caught_up=False)
    assert process.run.is_due(is_caught_up=True)


def test_nothing_is_due_where_nothing_was_read(process: Process) -> None:
    """An empty commit would only make readers look."""
    process.world.now_s += 10.0
    assert not process.run.is_due(is_caught_up=True)
