"""The keys of the logs: all by decision, or all by something else, or refused."""

import numpy as np
import pytest

from tidemill.errors import ContractError
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.schemas.loop.definition import MaxBad
from tidemill.schemas.partitioner import partition_of
from tidemill.streams.runtime.copartitioning import ENOUGH, CopartitioningCheck
from tidemill.streams.units import Bools

TOPICS: dict[Log, str] = {DECISIONS: "t.decisions", FEEDBACK: "t.feedback"}


HERE = partition_of(b"d", 4)
ELSEWHERE = next(f"e{n}" for n in range(9) if partition_of(f"e{n}".encode(), 4) != HERE)


def checked(
    topics: dict[Log, str] = TOPICS, partition: int = HERE, partitions: int = 4, share: float = 0.5
) -> CopartitioningCheck:
    """Return a check of the partition that the decision d belongs to."""
    limit = MaxBad(share=share, of=100)
    return CopartitioningCheck(
        topics=topics, partition=partition, partitions=partitions, limit=limit
    )


def feed(
    check: CopartitioningCheck,
    log: Log,
    key: str | None,
    times: int = ENOUGH,
    decision: str = "d",
) -> None:
    """Pass *check* records of *decision* with the key *key*, in one batch."""
    for offset in range(times):
        check.check(log, None if key is None else key.encode(), decision, offset)
    check.refuse()


@pytest.mark.parametrize("key", ["user-1", None])
@pytest.mark.parametrize("log", ["decisions", "feedback"])
def test_one_log_keyed_by_something_else_is_refused(log: Log, key: str | None) -> None:
    """The error names the log that is wrong, and re-keying where that would help."""
    check = checked()
    feed(check, FEEDBACK if log == DECISIONS else DECISIONS, "d")
    with pytest.raises(ContractError) as caught:
        feed(check, log, key)
    assert caught.value.what.startswith(f"t.{log}/{HERE} is keyed by something else")
    assert ("rekey: true" in caught.value.hint) == (log == "feedback")


def test_both_keyed_alike_is_somebody_elses_plan() -> None:
    """Keyed by user on both topics, decisions and feedback meet."""
    check = checked()
    feed(check, DECISIONS, "user-1", 1000)
    feed(check, FEEDBACK, "user-1", 1000)


def test_a_few_odd_keys_prove_nothing() -> None:
    """Unmatched feedback shows the mistake of one service, which must not stop the loop."""
    check = checked()
    feed(check, DECISIONS, "d", 1000)
    feed(check, FEEDBACK, "user-1", ENOUGH // 2)
    feed(check, FEEDBACK, "d", 100)
    feed(check, FEEDBACK, "user-1", 100)


def test_with_one_partition_keys_do_not_matter() -> None:
    """Everything meets there."""
    check = checked(partition=0, partitions=1)
    feed(check, DECISIONS, "d")
    feed(check, FEEDBACK, None)


def test_one_stream_of_several_keyed_by_something_else_is_refused() -> None:
    """Orders of another team that are keyed by user would meet a fourth of the decisions."""
    check = checked({**TOPICS, Log("feedback.orders"): "t.feedback.orders"})
    feed(check, DECISIONS, "d")
    feed(check, FEEDBACK, "d")
    with pytest.raises(ContractError) as caught:
        feed(check, Log("feedback.orders"), "user-1")
    assert caught.value.what.startswith(f"t.feedback.orders/{HERE} is keyed by something else")
    assert "rekey: true" in caught.value.hint


@pytest.mark.parametrize("log", [DECISIONS, FEEDBACK, Log("feedback.orders")])
def test_one_log_of_another_partitioner_is_refused(log: Log) -> None:
    """The right keys are not enough: librdkafka's default sends them elsewhere than Java's.

    Whichever log is read first, and whether or not more of the wrong one comes.
    """
    topics = {**TOPICS, Log("feedback.orders"): "t.feedback.orders"}
    for order in (list(topics), list(reversed(topics))):
        error = refusal(topics, order, log)
        assert f"of {topics[log]}/{HERE} only 0 are in the partition of their key" in error.what
        assert "partitioner=murmur2_random" in error.hint
        assert ("rekey: true" in error.hint) == (log != DECISIONS)


def refusal(topics: dict[Log, str], order: list[Log], wrong: Log) -> ContractError:
    """Return what is said if the log *wrong* is placed by another partitioner."""
    check = checked(topics)
    try:
        for log in order:
            decision = ELSEWHERE if log == wrong else "d"
            feed(check, log, decision, decision=decision)
    except ContractError as error:
        return error
    pytest.fail("nothing was refused")


def test_logs_that_are_placed_alike_are_somebody_elses_plan() -> None:
    """Both by another partitioner, decisions and feedback meet: nothing is refused."""
    check = checked()
    feed(check, DECISIONS, ELSEWHERE, decision=ELSEWHERE)
    feed(check, FEEDBACK, ELSEWHERE, decision=ELSEWHERE)
    assert check.count_misplaced(FEEDBACK, np.arange(100), np.ones(100, dtype=bool)) == 100


def test_a_loop_that_takes_everything_is_not_refused() -> None:
    """A limit of 1 is the way on for who wants the rest of such a topic."""
    check = checked(share=1)
    feed(check, DECISIONS, "d")
    feed(check, FEEDBACK, ELSEWHERE, decision=ELSEWHERE)
    check.count_misplaced(FEEDBACK, np.arange(100), np.ones(100, dtype=bool))


def test_a_share_of_misplaced_feedback_over_the_limit_stops() -> None:
    """One of several services uses another client; it is counted exactly, in whatever batches."""
    is_misplaced = np.arange(300) % 4 == 0  # more than a fifth
    for size in (1, 7, 40):
        check = checked(share=0.2)
        feed(check, DECISIONS, "d")
        with pytest.raises(ContractError, match="belong to other partitions, more than max_bad"):
            counted(check, is_misplaced, size)
    check = checked(share=0.25)
    feed(check, DECISIONS, "d")
    assert counted(check, is_misplaced, 300) == 75


def counted(check: CopartitioningCheck, is_misplaced: Bools, size: int) -> int:
    """Return how much feedback *check* counts in batches of *size* records."""
    offsets = np.arange(len(is_misplaced))
    return sum(
        check.count_misplaced(FEEDBACK, offsets[start:][:size], is_misplaced[start:][:size])
        for start in range(0, len(offsets), size)
    )
