"""Which of the partitions that the group assigned to it a worker claims."""

import pytest
from faust.types import TP

from tidemill.errors import ContractError
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.streams.runtime.agents import complete_partitions

TWO: dict[Log, str] = {DECISIONS: "t.decisions", FEEDBACK: "t.feedback"}
THREE: dict[Log, str] = TWO | {Log("feedback.orders"): "t.feedback.orders"}


def partitions(**numbers: list[int]) -> list[TP]:
    """Return partitions of topics of the loop t, and some of another loop."""
    ours = [TP(f"t.{name}", number) for name, known in numbers.items() for number in known]
    return [*ours, TP("u.decisions", 7), TP("u.feedback", 8)]


def test_a_worker_claims_partitions_with_all_of_their_logs() -> None:
    """A window can only be joined where every log of its partition is read."""
    assigned = partitions(decisions=[0, 2], feedback=[2, 0])
    assert complete_partitions(TWO, assigned) == {0, 2}
    assert complete_partitions(
        THREE, [*assigned, TP("t.feedback.orders", 0), TP("t.feedback.orders", 2)]
    ) == {
        0,
        2,
    }
    assert complete_partitions(THREE, partitions()) == set()


def test_decisions_without_their_feedback_are_refused() -> None:
    """Such windows would close without feedback, or never."""
    with pytest.raises(ContractError, match=r"\[0, 1\] of t\.decisions .* \[1\] of both topics"):
        complete_partitions(TWO, partitions(decisions=[0, 1], feedback=[1, 2]))


def test_a_new_log_is_ignored_where_a_worker_of_the_old_version_has_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Faust assigns together only logs that all workers subscribe to, and old ones do not."""
    assigned = partitions(decisions=[0, 2], feedback=[0, 2])
    new = [TP("t.feedback.orders", number) for number in range(4)]
    assert complete_partitions(THREE, [*assigned, *new]) == {0, 2}
    assert "workers of another version" in caplog.text
