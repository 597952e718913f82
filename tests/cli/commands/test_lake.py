"""The commands around the lake: what they print, and what their exit status says."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from tests.features.audited import PARTITION
from tests.features.streamlakes import SHOP, write_streams

from tidemill.cli.app import main
from tidemill.cli.tables.answers import print_ledger
from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig
from tidemill.features.lake.layouts import layouts
from tidemill.monitor.ledger import Account, ledger
from tidemill.schemas.loop.definition import Loop

LOOP = Loop.model_validate(
    {
        "loop": "ads",
        "decision": {"type": "bool", "default": False},
        "features": {"price": "float"},
        "feedback": {"clicked": {"within": "10m"}},
        "label": {"sql": "count(*) > 0"},
        "policy": {"kind": "threshold", "above": True, "below": False},
        "partitions": 1,
    }
)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake with two open decisions, named by the environment."""
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    lake = Lake(LakeConfig(root=str(tmp_path)))
    lake.create(LOOP)
    for number in range(2):
        schema = layouts(LOOP)["decisions"]
        row = {name: [None] for name in schema} | {"id": [f"d{number}"], "partition": [0]}
        row |= {"at": [datetime(2024, 3, 1, tzinfo=UTC)], "offset": [number]}
        frame = pl.DataFrame(row, schema=schema).drop("event_date")
        lake.table("ads", "decisions").append(
            frame, swaps=[CompareAndSwap("offset/0", number or None, number + 1)]
        )
    return lake


def test_sql_prints_a_table(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    """A question at two in the morning is answered in a terminal."""
    assert main(["sql", 'SELECT id, "at" FROM decision_states ORDER BY id', "--limit", "1"]) == 0
    out = capsys.readouterr().out
    assert "d0" in out
    assert "2024-03-01 00:00:00" in out
    assert "d1" not in out
    assert "more than 1 rows" in out


def test_sql_prints_json_for_programs(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line, times as ISO 8601."""
    assert (
        main(["sql", "--json", 'SELECT id, state, "at" FROM ads.decision_states ORDER BY 1']) == 0
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"id": "d0", "state": "open", "at": "2024-03-01T00:00:00+00:00"}
    assert len(lines) == 2


def test_sql_refuses_to_write(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, as for every refused request, with a hint."""
    assert main(["sql", "DROP VIEW decisions"]) == 2
    assert "hint: start the query with SELECT" in capsys.readouterr().err


def test_ledger_ends_with_0_if_balanced(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    """A script after a fault asks this first."""
    assert main(["ledger", "ads", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["balanced"] is True
    assert document["accounts"][0]["open"] == 2
    assert main(["ledger"]) == 0
    assert "balanced" in capsys.readouterr().out


def test_ledger_shows_label_errors_of_any_partition(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are listed where there are any, and a partition without one has none."""
    names = ("labeled", "label_error", "dead_letter")
    accounts = [
        Account(
            loop="ads",
            log="decisions",
            partition=number,
            read=sum(ends),
            ends=dict(zip(names, ends, strict=True)) if ends[1] else {"labeled": 7},
            open=0,
            twice=0,
            lost=0,
        )
        for number, ends in enumerate(((7, 0, 0), (1, 5, 0)))
    ]
    monkeypatch.setenv("COLUMNS", "200")
    print_ledger(accounts, as_json=False)
    out = capsys.readouterr().out
    assert "label error" in out
    assert re.search(r"ads\W+1\W+6\W+1\W+5", out)


def test_ledger_says_which_log_of_several_is_unread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The team whose events are missing is not always the one that is called."""
    ends = {(log, PARTITION): 9 for log in SHOP.logs}
    print_ledger(ledger(write_streams(tmp_path), SHOP, ends=ends), as_json=False)
    assert "unread of shop.feedback 4, shop.feedback.orders 5" in capsys.readouterr().out
    print_ledger(ledger(Lake(LakeConfig(root=str(tmp_path))), SHOP), as_json=False)
    assert "unread of" not in capsys.readouterr().out


def test_ledger_ends_with_1_if_not(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    """An alert can be as simple as a cron line."""
    lake.table("ads", "decisions").append(None, swaps=[CompareAndSwap("offset/0", 2, 5)])
    assert main(["ledger"]) == 1
    assert "NOT balanced" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "status"), [("ledger", 3), ("lake compact", 2), ("compact", 2)]
)
def test_a_lake_that_is_not_there_is_an_error(
    command: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A typing error in the address must not read as balanced."""
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path / "absent"))
    assert main(command.split()) == status
    captured = capsys.readouterr()
    assert "has no loops" in captured.err
    assert "hint: " in captured.err
    assert captured.out == ""
    assert not (tmp_path / "absent").exists()


def test_compact_says_what_it_did(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    """It runs at night; its line in the log should be enough."""
    assert main(["lake", "compact"]) == 0
    out = capsys.readouterr().out
    assert "ads/decisions: 2 files merged to 1, 0 old files removed" in out


def test_ledger_says_that_it_did_not_look_at_kafka(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    """Balanced is what was read; what was not read is nobody's claim."""
    assert main(["ledger"]) == 0
    assert "not counted: Kafka: KAFKA_BOOTSTRAP_SERVERS is not set" in capsys.readouterr().out


@pytest.mark.slow
def test_ledger_without_its_broker_says_so_and_ends_with_3(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback and status 1 said that a record was lost."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    assert main(["ledger"]) == 3
    told = capsys.readouterr().err
    assert told.startswith("tidemill: the logs of ads could not be looked up at 127.0.0.1:1")
    assert "hint: " in told
