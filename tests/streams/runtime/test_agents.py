"""Which partitions a worker takes, of those the group assigned to it."""

import pytest
from faust.types import TP

from tidemill.errors import ContractError
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.streams.runtime.agents import whole

TWO: dict[Log, str] = {DECISIONS: "t.decisions", FEEDBACK: "t.feedback"}
THREE: dict[Log, str] = TWO | {Log("feedback.orders"): "t.feedback.orders"}


def places(**numbers: list[int]) -> list[TP]:
    """Return partitions of topics of the loop t, and some of a loop that is not asked for."""
    found = [TP(f"t.{name}", number) for name, known in numbers.items() for number in known]
    return [*found, TP("u.decisions", 7), TP("u.feedback", 8)]


def test_a_worker_takes_what_it_has_all_logs_of() -> None:
    """A window is joined where every log of its partition is."""
    assigned = places(decisions=[0, 2], feedback=[2, 0])
    assert whole(TWO, assigned) == {0, 2}
    assert whole(THREE, [*assigned, TP("t.feedback.orders", 0), TP("t.feedback.orders", 2)]) == {
        0,
        2,
    }
    assert whole(THREE, places()) == set()


def test_decisions_without_their_feedback_are_refused() -> None:
    """Such windows would close without any, or never."""
    with pytest.raises(ContractError, match=r"\[0, 1\] of t\.decisions .* \[1\] of both topics"):
        whole(TWO, places(decisions=[0, 1], feedback=[1, 2]))


def test_a_new_log_is_left_where_a_worker_of_the_old_version_has_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Faust keeps together what all workers subscribe to; the old ones do not know the new log."""
    assigned = places(decisions=[0, 2], feedback=[0, 2])
    new = [TP("t.feedback.orders", number) for number in range(4)]
    assert whole(THREE, [*assigned, *new]) == {0, 2}
    assert "workers of another version" in caplog.text
