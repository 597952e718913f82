"""The ledger: balanced in the middle of the work, and red for each way to lose or double a row."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.features.audited import PARTITION
from tests.features.streamlakes import BUYS, CLICKS, ORDERS, SHOP, write_streams

from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig
from tidemill.features.lake.layouts import layouts
from tidemill.features.lake.progress_keys import DEAD_LETTERS, OFFSET
from tidemill.monitor.ledger import Account, is_balanced, ledger
from tidemill.monitor.not_counted import left_out
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.schemas.loop.definition import Loop

START = datetime(2024, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LOOP = Loop.model_validate(
    {
        "loop": "ads",
        "decision": {"type": "bool", "default": False},
        "features": {"price": "float"},
        "feedback": {"clicked": {"within": "10m", "early": "1m"}},
        "label": {"sql": "count(*) > 0"},
        "policy": {"kind": "threshold", "above": True, "below": False},
        "partitions": 2,
    }
)

Change = Callable[[Lake], object]


def _rows(table: str, minutes: list[int], **columns: object) -> pl.DataFrame:
    """Return one row a minute of *minutes*, at offsets from 0, in partition 0."""
    schema = {name: kind for name, kind in layouts(LOOP)[table].items() if name != "event_date"}
    known: dict[str, object] = {
        "at": [START + minute * MINUTE for minute in minutes],
        "partition": [0] * len(minutes),
        "offset": list(range(len(minutes))),
        **columns,
    }
    data = {name: known.get(name, [None] * len(minutes)) for name in schema}
    return pl.DataFrame(data, schema=schema)


def _micros(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Six decisions and six feedback records in partition 0, closed up to minute 4."""
    lake = Lake(LakeConfig(root=str(tmp_path)))
    lake.create(LOOP)
    verdicts = [None, None, "late", "duplicate", None, None]
    lake.table("ads", "decisions").append(
        _rows("decisions", [0, 1, 0, 1, 4, 9], verdict=verdicts),
        swaps=[CompareAndSwap("offset/0", None, 8), CompareAndSwap("dead/0", None, 2)],
    )
    lake.table("ads", "feedback").append(
        _rows("feedback", [1, 1, 2, 0, 5, 3], verdict=[None, None, None, "late", None, None]),
        swaps=[CompareAndSwap("offset/0", None, 7), CompareAndSwap("dead/0", None, 1)],
    )
    examples = _rows(
        "examples",
        [0, 1],
        state=["labeled", "no_feedback"],
        feedback_offsets=[[0, 2], []],
    )
    counters = {"late": 0, "duplicate": 1, "unmatched": 0}
    lake.table("ads", "examples").append(
        examples,
        swaps=[CompareAndSwap("frontier/0", None, _micros(START + 4 * MINUTE))]
        + [CompareAndSwap(f"{name}/0", None, number) for name, number in counters.items()],
    )
    return lake


def _account(lake: Lake, log: str, partition: int = 0) -> Account:
    (found,) = (
        account
        for account in ledger(lake, LOOP)
        if (account.log, account.partition) == (log, partition)
    )
    return found


def test_every_decision_is_in_one_place(lake: Lake) -> None:
    """An operator sees where each record went, while some are still open."""
    account = _account(lake, "decisions")
    assert account.read == 8
    assert account.ends == {
        "labeled": 1,
        "no_feedback": 1,
        "censored": 0,
        "not_activated": 0,
        "late": 1,
        "duplicate": 1,
        "dead_letter": 2,
    }
    assert account.open == 2
    assert account.is_balanced


def test_every_feedback_is_in_one_place(lake: Lake) -> None:
    """Feedback counts by its own time and how early it may be; joined rows are never open."""
    account = _account(lake, "feedback")
    assert account.read == 7
    assert account.ends == {
        "joined": 2,
        "corrected": 0,
        "late": 1,
        "duplicate": 1,
        "unmatched": 0,
        "dead_letter": 1,
    }
    assert account.open == 2
    assert account.is_balanced


def test_a_partition_without_records_is_balanced(lake: Lake) -> None:
    """It is listed all the same: a partition that stays empty is worth a look."""
    account = _account(lake, "decisions", 1)
    assert (account.read, account.open, account.is_balanced) == (0, 0, True)


def test_what_has_not_been_read_is_no_loss(lake: Lake) -> None:
    """The end of the log is ahead while events come in."""
    accounts = ledger(lake, LOOP, ends={(DECISIONS, 0): 11})
    unread = {(account.log, account.partition): account.unread for account in accounts}
    assert unread[("decisions", 0)] == 3
    assert unread[("feedback", 0)] is None
    assert is_balanced(accounts)


def _lose_an_example(lake: Lake) -> None:
    lake.table("ads", "examples").append(None, swaps=[_frontier(lake, 5 * MINUTE)])


def _double_an_example(lake: Lake) -> None:
    again = _rows("examples", [0], state=["labeled"], feedback_offsets=[[]])
    lake.table("ads", "examples").append(again, swaps=[])


def _double_a_decision(lake: Lake) -> None:
    again = _rows("decisions", [9], verdict=[None]).with_columns(offset=pl.lit(5, pl.Int64))
    lake.table("ads", "decisions").append(again, swaps=[])


def _skip_an_offset(lake: Lake) -> None:
    lake.table("ads", "decisions").append(None, swaps=[CompareAndSwap("offset/0", 8, 9)])


@pytest.mark.parametrize(
    ("change", "difference", "twice", "lost"),
    [
        (_lose_an_example, 1, 0, 0),
        (_double_an_example, -1, 0, 0),
        (_double_a_decision, 0, 1, 0),
        (_skip_an_offset, 0, 0, 1),
    ],
)
def test_a_planted_fault_is_seen(
    lake: Lake, change: Change, difference: int, twice: int, lost: int
) -> None:
    """A ledger that is always green shows nothing."""
    change(lake)
    account = _account(lake, "decisions")
    assert (account.difference, account.twice, account.lost) == (difference, twice, lost)
    assert not account.is_balanced
    assert not is_balanced(ledger(lake, LOOP))


def test_feedback_joined_twice_is_seen(lake: Lake) -> None:
    """Two decisions that share one purchase are two purchases too many for a model."""
    again = _rows("examples", [3], state=["labeled"], feedback_offsets=[[0]])
    lake.table("ads", "examples").append(again, swaps=[])
    assert _account(lake, "feedback").difference == -1


def test_feedback_forgotten_at_close_is_seen(lake: Lake) -> None:
    """Its time is over, no example has it, and no counter counted it."""
    lake.table("ads", "examples").append(None, swaps=[_frontier(lake, 5 * MINUTE)])
    assert _account(lake, "feedback").difference == 1


def _frontier(lake: Lake, after: timedelta) -> CompareAndSwap:
    found = lake.table("ads", "examples").progress(["frontier/0"])["frontier/0"]
    return CompareAndSwap("frontier/0", found, _micros(START + after))


@pytest.mark.parametrize("state", ["not_activated", "label_error"])
def test_a_decision_without_a_label_has_ended(lake: Lake, state: str) -> None:
    """It is no example to learn from, and still one of those that were read."""
    table = lake.table("ads", "examples")
    table.append(
        _rows("examples", [4], state=[state], offset=[4]),
        swaps=[
            CompareAndSwap("frontier/0", _micros(START + 4 * MINUTE), _micros(START + 5 * MINUTE))
        ],
    )
    account = _account(lake, "decisions")
    assert (account.ends[state], account.open) == (1, 1)
    assert account.is_balanced


def _streams(folder: Path, ends: Mapping[tuple[Log, int], int] | None = None) -> Account:
    """Return the feedback account of the lake of three streams, where its rows are."""
    lake = Lake(LakeConfig(root=str(folder)))
    accounts = ledger(lake, SHOP, ends=ends)
    assert is_balanced(account for account in accounts if account.log == "decisions")
    return accounts[SHOP.partitions + PARTITION]


def test_feedback_of_all_streams_is_one_account(tmp_path: Path) -> None:
    """Whoever asks where the feedback went need not know by which topics it came."""
    write_streams(tmp_path)
    account = _streams(tmp_path)
    ends = {"joined": 4, "late": 1, "duplicate": 1, "unmatched": 1}
    assert {name: count for name, count in account.ends.items() if count} == ends
    assert (account.read, account.open, account.lost) == (len([*CLICKS, *BUYS]), 2, 0)
    assert account.is_balanced


def test_what_is_unread_is_told_by_log(tmp_path: Path) -> None:
    """One topic that nobody fills says whose events are missing."""
    write_streams(tmp_path)
    ends = {(FEEDBACK, PARTITION): len(CLICKS), (ORDERS, PARTITION): len(BUYS) + 7}
    account = _streams(tmp_path, ends)
    assert account.unread == 7
    assert account.unread_by_log == {"feedback": 0, ORDERS: 7}
    assert _streams(tmp_path, {(FEEDBACK, PARTITION): 5}).unread is None, "not known of one"


@pytest.mark.parametrize("log", [FEEDBACK, ORDERS])
def test_a_hole_in_one_stream_is_seen(tmp_path: Path, log: Log) -> None:
    """More rows in the other stream do not fill it, and its own dead letters do."""
    table = write_streams(tmp_path).table(SHOP.loop, "feedback")
    offset, dead = (name.for_log(log).key(PARTITION) for name in (OFFSET, DEAD_LETTERS))
    held = table.progress([offset])[offset]
    assert held is not None
    table.append(None, swaps=[CompareAndSwap(offset, held, held + 1)])
    assert _streams(tmp_path).lost == 1
    table.append(None, swaps=[CompareAndSwap(dead, None, 1)])
    account = _streams(tmp_path)
    assert (account.lost, account.ends["dead_letter"]) == (0, 1)
    assert account.is_balanced


def test_a_partition_that_the_loop_does_not_have_is_counted(lake: Lake) -> None:
    """A topic that was made larger: no worker reads the new partition, and "balanced" hid it."""
    ends = {(DECISIONS, 0): 8, (DECISIONS, 1): 0, (DECISIONS, 2): 40, (FEEDBACK, 2): 0}
    accounts = ledger(lake, LOOP, ends=ends)
    by_place = {(account.log, account.partition): account for account in accounts}
    found = by_place["decisions", 2]
    assert (found.unread, found.is_expected, found.is_balanced) == (40, False, False)
    assert by_place["decisions", 0].is_balanced
    assert by_place["feedback", 2].is_balanced, "it is empty"
    assert not is_balanced(accounts)


def test_rows_of_a_partition_that_the_loop_does_not_have_are_counted(lake: Lake) -> None:
    """A lake of a loop that had more partitions: its rows are in no account."""
    lake.table("ads", "decisions").append(
        _rows("decisions", [0, 1], partition=[5, 5]), swaps=[CompareAndSwap("offset/5", None, 2)]
    )
    account = next(each for each in ledger(lake, LOOP) if each.partition == 5)
    assert (account.read, account.open, account.difference) == (2, 2, 0)
    assert not account.is_balanced


def test_what_is_left_out_is_said() -> None:
    """A topic that no version reads any more still gets the records of a service."""
    (found,) = left_out(LOOP, {"ads.feedback.orders": 120})
    assert (found.what, found.records) == ("ads.feedback.orders", 120)
    assert "version 1" in found.why
    rekeyed = Loop.model_validate(LOOP.model_dump(exclude_none=True) | {"rekey": True})
    (source,) = left_out(rekeyed, {})
    assert (source.what, source.records) == ("ads.feedback", 0)
