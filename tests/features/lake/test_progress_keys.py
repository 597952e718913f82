"""Progress keys are bytes on disk: every lake that exists has them, so they never change."""

from hypothesis import given
from hypothesis import strategies as st

from tidemill.features.lake import progress_keys as keys
from tidemill.features.lake.progress_keys import ProgressName
from tidemill.schemas.logs import DECISIONS, FEEDBACK, feedback_log

ORDERS = feedback_log("orders")


def test_the_keys_of_a_raw_table_are_as_every_lake_has_them() -> None:
    """A worker that looked for another key would read a log from its start once more."""
    assert [name.key(3) for name in (keys.OWNER, *keys.OF_LOG)] == [
        "owner/3",
        "offset/3",
        "time/3",
        "dead/3",
        "bad/3",
        "holes/3",
    ]
    assert [name.for_log(ORDERS).key(3) for name in keys.OF_LOG] == [
        "offset@orders/3",
        "time@orders/3",
        "dead@orders/3",
        "bad@orders/3",
        "holes@orders/3",
    ]
    begin = keys.begin(2)
    begins = [begin.for_log(log).key(3) for log in (DECISIONS, FEEDBACK, ORDERS)]
    assert begins == ["begin/2/3", "begin/2/3", "begin/2@orders/3"]


def test_the_keys_of_examples_are_as_every_lake_has_them() -> None:
    """A worker that looked for another key would close decisions once more."""
    names = [*keys.OF_EXAMPLES, keys.EXAMINED, keys.EXAMINED.for_log(ORDERS), keys.begin(2)]
    assert [name.key(3) for name in names] == [
        "frontier/3",
        "late/3",
        "duplicate/3",
        "unmatched/3",
        "revised/3",
        "examined/3",
        "examined@orders/3",
        "begin/2/3",
    ]
    assert keys.UNKNOWN_ITEM.key(3) == "unknown_item/3"
    assert [keys.MISPLACED.key(3), keys.TOPIC_ID.key(3)] == ["misplaced/3", "topic/3"]
    assert keys.RESTORED.key(3) == "restored/3"
    assert keys.CLUSTER_ID.for_log(ORDERS).key(3) == "cluster@orders/3"
    times = [keys.join_time(log).key(3) for log in (DECISIONS, FEEDBACK, ORDERS)]
    assert times == ["time/decisions/3", "time/feedback/3", "time/feedback.orders/3"]
    assert keys.NOTHING_CLOSED == -4611686018427387904


def test_the_keys_of_backfills_and_models_are_as_every_lake_has_them() -> None:
    """A backfill that is complete must stay complete, and a learner must not learn twice."""
    slices = [name.key(7) for name in keys.OF_SLICE]
    assert slices == ["examples/7", "late/7", "duplicate/7", "open/7"]
    assert (keys.BACKFILL_BEGUN, keys.BACKFILL_COMPLETE) == ("begun", "complete")
    assert keys.learned("logistic_regression rate=0.05 l2=0.0") == (
        "learned/logistic_regression rate=0.05 l2=0.0"
    )
    assert keys.MODEL_NUMBER == "number"


@given(st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True))
def test_the_numbers_of_each_log_have_names_of_their_own(stream: str) -> None:
    """They stand on one table: a worker that moved another log's number would lose its records."""
    logs = [DECISIONS, FEEDBACK, feedback_log(stream)]
    found = [keys.DEAD_LETTERS.for_log(log) for log in logs]
    assert found == [ProgressName("dead"), ProgressName("dead"), ProgressName(f"dead@{stream}")]
