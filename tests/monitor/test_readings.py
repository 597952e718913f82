"""A reading that fails shows no old value, says why once, and how old its knowledge is."""

import logging
import math
from collections.abc import Iterator

import pytest
from tests.schemas.loops import minimal

from tidemill.errors import BrokerError, LakeError
from tidemill.monitor.readings import LoopRows, Reading
from tidemill.schemas.loop.definition import Loop


def unread(good_s: float = math.inf) -> Reading[int]:
    """Return a reading before its first try."""
    return Reading(name="lag", good_s=good_s)


def fail() -> int:
    """Fail as a reading without a broker does."""
    raise BrokerError("no answer", hint="start it")


def test_a_value_goes_with_its_failure_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """A gauge that stands still at its last healthy value is a lie; a line a try fills a disk."""
    first = unread().again(lambda: 7)
    assert (first.value, first.problem) == (7, None)
    lost = first.again(fail).again(fail)
    assert (lost.value, lost.at_s, lost.failures) == (None, first.at_s, 2)
    assert lost.problem is not None
    assert "start it" in lost.problem
    assert lost.age_s(first.at_s + 9.0) == 9.0
    back = lost.again(lambda: 8)
    assert (back.value, back.problem, back.failures) == (8, None, 0)
    levels = [record.levelno for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(levels) == 2, "one for the outage, one for its end"


def test_a_value_whose_successor_is_late_goes_too() -> None:
    """A frozen broker holds up a reading for seconds, and the figures shown are of before."""
    read = unread(20.0).again(lambda: 7)
    assert read.as_of(read.at_s + 20.0).value == 7
    late = read.as_of(read.at_s + 21.0)
    assert late.value is None
    assert late.problem is not None
    assert "21 s old" in late.problem


def test_a_bug_is_no_failed_reading() -> None:
    """The process ends and is started again, with its traceback in the log."""
    with pytest.raises(ZeroDivisionError):
        unread().again(lambda: 1 // 0)


def test_a_loop_that_cannot_be_read_costs_no_other() -> None:
    """The rows of one loop would be half of the truth; without any loop the reading has failed."""

    def read(loop: Loop) -> Iterator[str]:
        yield loop.loop
        if loop.loop == "damaged":
            raise LakeError("a file is missing", hint="restore it")

    loops = [minimal(loop="damaged"), minimal(loop="well")]
    found = LoopRows.of(loops, read)
    assert found == LoopRows(rows=["well"], unread={"damaged": "a file is missing"})
    assert LoopRows.of([], read) == LoopRows(rows=[])
    with pytest.raises(LakeError):
        LoopRows.of(loops[:1], read)
