"""An object in a child process: whatever ends the child is an error of one call, and no more."""

import os
from collections.abc import Iterator

import psutil
import pytest
from tests.kafka.crashing import Crashing

from tidemill.errors import BrokerError
from tidemill.kafka import ChildProcess


@pytest.fixture
def child() -> Iterator[ChildProcess[Crashing]]:
    """A child that has not started yet."""
    with ChildProcess(Crashing, what="it could not be counted", timeout_s=20.0) as made:
        yield made


def test_calls_reach_one_object_in_another_process(child: ChildProcess[Crashing]) -> None:
    """Connections stay for the next reading."""
    assert child.pid is None
    assert (child.call(Crashing.count), child.call(Crashing.count, by=2)) == (1, 3)
    assert child.call(Crashing.pid) == child.pid != os.getpid()


@pytest.mark.slow
def test_a_child_that_died_meanwhile_is_replaced(child: ChildProcess[Crashing]) -> None:
    """Librdkafka aborts between two readings, when the broker continues."""
    child.call(Crashing.count)
    first = child.pid
    assert first is not None
    psutil.Process(first).kill()
    assert child.call(Crashing.count) == 1
    assert child.pid != first


@pytest.mark.slow
def test_a_call_that_kills_its_child_is_an_error_and_the_next_one_works(
    child: ChildProcess[Crashing],
) -> None:
    """The process that asks goes on: it has loops to watch."""
    with pytest.raises(BrokerError, match="it could not be counted"):
        child.call(Crashing.abort)
    assert child.call(Crashing.count) == 1


@pytest.mark.slow
def test_a_call_that_hangs_is_ended() -> None:
    """A client that waits for a lock for ever has no time limit of its own."""
    with ChildProcess(Crashing, what="it hung", timeout_s=0.1) as child:
        child.call(Crashing.count)
        hung = child.pid
        with pytest.raises(BrokerError, match="it hung"):
            child.call(Crashing.hang)
        assert hung is not None
        assert not psutil.pid_exists(hung)


def test_a_refusal_comes_back_with_its_hint_and_ends_the_clients(
    child: ChildProcess[Crashing],
) -> None:
    """Clients that have timed out are those that abort later."""
    child.call(Crashing.count)
    with pytest.raises(BrokerError, match="no answer") as caught:
        child.call(Crashing.refuse)
    assert caught.value.hint == "start it"
    assert child.pid is None
    assert child.call(Crashing.count) == 1


def test_a_bug_comes_back_with_its_traceback(child: ChildProcess[Crashing]) -> None:
    """Nobody reads the standard error of a child."""
    with pytest.raises(RuntimeError, match=r"(?s)crashing\.py.*ZeroDivisionError: a bug"):
        child.call(Crashing.fail)
