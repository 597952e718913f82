"""The keys of the logs: all by decision, or all by something else, or refused."""

import pytest

from tidemill.errors import ContractError
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.streams.runtime.copartitioning import ENOUGH, CopartitioningCheck

TOPICS: dict[Log, str] = {DECISIONS: "t.decisions", FEEDBACK: "t.feedback"}


def feed(check: CopartitioningCheck, log: Log, key: str | None, times: int = ENOUGH) -> None:
    """Pass *check* records of decision d with the key *key*."""
    for offset in range(times):
        check.check(log, None if key is None else key.encode(), "d", offset)


@pytest.mark.parametrize("key", ["user-1", None])
@pytest.mark.parametrize("log", ["decisions", "feedback"])
def test_one_log_keyed_by_something_else_is_refused(log: Log, key: str | None) -> None:
    """The error names the log that is wrong, and re-keying where that would help."""
    check = CopartitioningCheck(TOPICS, 3, 4)
    feed(check, FEEDBACK if log == DECISIONS else DECISIONS, "d")
    with pytest.raises(ContractError) as caught:
        feed(check, log, key)
    assert caught.value.what.startswith(f"t.{log}/3 is keyed by something else")
    assert ("rekey: true" in caught.value.hint) == (log == "feedback")


def test_both_keyed_alike_is_somebody_elses_plan() -> None:
    """Keyed by user on both topics, decisions and feedback meet."""
    check = CopartitioningCheck(TOPICS, 3, 4)
    feed(check, DECISIONS, "user-1", 1000)
    feed(check, FEEDBACK, "user-1", 1000)


def test_a_few_odd_keys_prove_nothing() -> None:
    """Unmatched feedback shows the mistake of one service, which must not stop the loop."""
    check = CopartitioningCheck(TOPICS, 3, 4)
    feed(check, DECISIONS, "d", 1000)
    feed(check, FEEDBACK, "user-1", ENOUGH // 2)
    feed(check, FEEDBACK, "d", 100)
    feed(check, FEEDBACK, "user-1", 100)


def test_with_one_partition_keys_do_not_matter() -> None:
    """Everything meets there."""
    check = CopartitioningCheck(TOPICS, 0, 1)
    feed(check, DECISIONS, "d")
    feed(check, FEEDBACK, None)


def test_one_stream_of_several_keyed_by_something_else_is_refused() -> None:
    """Orders of another team that are keyed by user would meet a fourth of the decisions."""
    check = CopartitioningCheck({**TOPICS, Log("feedback.orders"): "t.feedback.orders"}, 3, 4)
    feed(check, DECISIONS, "d")
    feed(check, FEEDBACK, "d")
    with pytest.raises(ContractError) as caught:
        feed(check, Log("feedback.orders"), "user-1")
    assert caught.value.what.startswith("t.feedback.orders/3 is keyed by something else")
    assert "rekey: true" in caught.value.hint
