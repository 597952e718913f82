"""The audit where decisions bring items: each item that was shown is an example of its own."""

import random
from pathlib import Path

import polars as pl
import pytest
from tests.features.audited import PARTITION, Spoil, write_lake
from tests.features.itemlakes import (
    COUNTS,
    DECISION_STATES,
    EXAMPLE_ROWS,
    PAGE,
    STATES,
    made,
    write_items,
)
from tests.streams.join_logs import SECOND, WITH_ITEMS, Shell, random_logs

from tidemill.cli.app import main
from tidemill.features.audit.audit import Effort, audit
from tidemill.features.audit.differences import differences
from tidemill.features.audit.expected import lost_examples
from tidemill.features.audit.judged import Relations
from tidemill.features.audit.oracle import oracle_sql
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.sql.views import connect, schema_name
from tidemill.monitor.ledger import is_balanced, ledger
from tidemill.schemas import logs
from tidemill.schemas.loop.definition import Label, Loop
from tidemill.streams.join.rules import JoinRules

pytestmark = pytest.mark.slow  # each makes a lake and audits it

CORRECTED = WITH_ITEMS.model_copy(update={"corrections": 40 * SECOND})
BOUGHT = Label(sql="sum(amount) + 1000 * first(amount)", type="float")
ACTIVATED = WITH_ITEMS.model_copy(update={"activation": "click", "label": BOUGHT})
EFFORTS = (Effort(threads=1, memory_mb=256), Effort(rows=2, threads=1, memory_mb=256))


def test_the_oracle_tells_what_was_worked_out_by_hand(tmp_path: Path) -> None:
    """It is written from the rules alone, and every other check compares with it."""
    with connect(write_items(tmp_path)) as connection:
        query = oracle_sql(PAGE, Relations(idle=False))
        told = connection.sql(query).to_arrow_table().to_pylist()
    feedback = {row["offset"]: row["state"] for row in told if row["log"] == "feedback"}
    assert feedback == STATES
    decisions = [row for row in told if row["log"] == "decisions"]
    names = ("offset", "position", "state", "label", "feedback_offsets")
    closed = [row for row in decisions if row["feedback_offsets"] is not None]
    ordered = sorted(closed, key=lambda row: (row["offset"], row["position"] or 0))
    assert [tuple(row[name] for name in names) for row in ordered] == EXAMPLE_ROWS
    assert {row["offset"]: row["state"] for row in decisions} == DECISION_STATES


@pytest.mark.parametrize("effort", EFFORTS, ids=["whole", "in slices"])
def test_what_was_written_right_is_no_difference(effort: Effort, tmp_path: Path) -> None:
    """Decisions are counted, not their items."""
    report = audit(write_items(tmp_path), "page", effort=effort)
    assert report.agrees, [str(each) for each in report.first]
    assert (report.decisions, report.feedback) == (4, 9)


@pytest.mark.parametrize(
    "loop", [WITH_ITEMS, CORRECTED, ACTIVATED], ids=["plain", "corrected", "activated"]
)
@pytest.mark.parametrize("seed", range(5))
def test_what_the_join_wrote_of_items_is_what_the_logs_imply(
    seed: int, loop: Loop, tmp_path: Path
) -> None:
    """In the middle of the work, after crashes; items shown twice or not at all among them."""
    rng = random.Random(seed)
    stream = Shell(random_logs(rng, 80, items=True), JoinRules.of(loop))
    for _ in range(25):
        stream.poll(rng.choice(loop.logs), rng.choice((1, 5, 20)))
        if rng.random() < 0.1:
            stream.advance(rng.choice(loop.logs), rng.randint(0, 60))
        if rng.random() < 0.4:
            stream.commit(crash_after=rng.choice((0, 1, 2, 3, 3, 3)))
    stream.finish()
    lake = write_lake(stream, tmp_path, loops=[loop])
    report = audit(lake, loop.loop, effort=EFFORTS[0])
    assert report.agrees, [str(found) for found in report.first]
    assert report.decisions == stream.offsets[logs.DECISIONS]
    with connect(lake) as connection:
        assert differences(connection, loop, schema_name(loop.loop)).is_empty()
    assert is_balanced(each for each in ledger(lake, loop) if each.partition == PARTITION)


def only(row: int, **columns: object) -> Spoil:
    """Return what changes columns of one row."""
    here = pl.int_range(pl.len()) == row
    return lambda frame: frame.with_columns(
        pl.when(here).then(pl.lit(value, frame[name].dtype)).otherwise(pl.col(name)).alias(name)
        for name, value in columns.items()
    )


def another_price(frame: pl.DataFrame) -> pl.DataFrame:
    """Return *frame* with other features of the items."""
    price = pl.col("item_features").struct.with_fields(pl.lit(9.0).alias("price"))
    return frame.with_columns(price)


PLANTED: dict[str, tuple[Spoil, list[tuple[int, int | None, str]]]] = {
    "a lost item": (lambda rows: rows[[0, 2, 3]], [(0, 1, "rows")]),
    "a lost decision": (lambda rows: rows[2:], [(0, 0, "rows"), (0, 1, "rows")]),
    "the row of nothing shown is lost": (lambda rows: rows[:3], [(2, None, "rows")]),
    "an item twice": (lambda rows: rows[[0, 1, 1, 2, 3]], [(0, 1, "rows")]),
    "an item that was not shown": (only(2, position=4), [(1, 0, "rows"), (1, 4, "rows")]),
    "another item": (only(1, item="r"), [(0, 1, "item")]),
    "another label": (only(1, label=1.0), [(0, 1, "label")]),
    "feedback of another": (only(0, feedback_offsets=[0, 1, 3]), [(0, 0, "feedback_offsets")]),
    "another propensity": (only(0, item_propensity=0.4), [(0, 0, "item_propensity")]),
    "other features": (another_price, [(0, 0, "item_features"), (0, 1, "item_features"),
                                       (1, 0, "item_features")]),
    "a state": (only(2, state="labeled"), [(1, 0, "state")]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_is_named_with_its_item(name: str, tmp_path: Path) -> None:
    """Whoever reads it has to find the row among those of the same decision."""
    spoil, expected = PLANTED[name]
    lake = write_items(tmp_path, spoil={EXAMPLES: spoil})
    for effort in EFFORTS:
        report = audit(lake, "page", effort=effort)
        found = [(each.offset, each.position, each.column) for each in report.first]
        assert found == expected
        assert report.differences == len(expected)
    position = expected[0][1]
    if position is not None:
        assert f", position {position}: {expected[0][2]} is" in str(report.first[0])
        assert report.to_json()["first"][0]["position"] == position  # type: ignore[index]  # plain values


def test_a_lost_item_comes_with_the_command_that_puts_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever finds it at night has one line to write."""
    write_items(tmp_path, spoil={EXAMPLES: lambda rows: rows[[0, 2, 3]]})
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    assert main(["audit"]) == 1
    out = capsys.readouterr().out
    assert "decision a, partition 1, offset 0, position 1: rows is 0, the audit says 1" in out
    assert "put the missing rows back: tidemill lake repair page" in out


def test_a_wrong_count_of_unknown_items_is_named(tmp_path: Path) -> None:
    """No row says how such feedback ended, only the count."""
    lake = write_items(tmp_path, counts={**COUNTS, "unknown_item": 1})
    (found,) = audit(lake, "page", effort=EFFORTS[0]).first
    assert (found.log, found.columns) == ("counts", {"unknown_item": ("1", "3")})


@pytest.mark.parametrize("lost", [[1], [0, 1, 2, 3], [3]], ids=["one item", "all", "nothing shown"])
def test_lost_rows_of_items_are_made_again(lost: list[int], tmp_path: Path) -> None:
    """`tidemill lake repair` puts back exactly them, whatever else of the decision is there."""
    kept = [row for row in range(len(EXAMPLE_ROWS)) if row not in lost]
    lake = write_items(tmp_path, spoil={EXAMPLES: lambda rows: rows[kept]})
    found = lost_examples(lake, "page").sort("offset", "position")
    want = made()[lost].sort("offset", "position")
    assert found.select(want.columns).equals(want)
    assert lost_examples(lake, "page", [PARTITION - 1]).is_empty()
