"""Backfills of a lake: planned, sliced, each slice done once, equal to a worker's examples."""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.streams.join_logs import LOGS, LOOP, START, Shell, rules, shared_labels
from tests.streams.raw_lakes import examples, shop, worked, write
from tests.streams.reprocess.test_slices import fresh, rows_of

from tidemill.errors import ContractError, LakeError, RequestError
from tidemill.features.lake.lake import Lake
from tidemill.features.sql.backfills import (
    Backfill,
    backfills,
    begin,
    complete,
    completed,
    done,
    drop,
    read_backfill,
    table_name,
)
from tidemill.features.sql.datasets import training_set
from tidemill.features.sql.views import connect
from tidemill.schemas.logs import DECISIONS
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.reprocess.backfill import plan, run_slice
from tidemill.streams.reprocess.variants import variant

pytestmark = pytest.mark.slow  # each joins a history again

SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def shells() -> list[Shell]:
    """Three workers' partitions."""
    return [worked(seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, shells: list[Shell]) -> Lake:
    """The lake they have written; tests add tables to it and change none."""
    return write(tmp_path_factory.mktemp("lake"), shells)


def run(lake: Lake, loop: Loop, name: str, cuts: list[datetime] | None = None) -> Backfill:
    """Do a whole backfill in this process."""
    made = plan(lake, loop, name)
    if cuts is not None:
        made = made.model_copy(update={"cuts": [made.cuts[0], *cuts, made.cuts[-1]]})
    begin(lake, made)
    for number in range(made.slices):
        assert run_slice(lake, made, number, labels=shared_labels(JoinRules.of(loop)))
    complete(lake.table(loop.loop, table_name(name)))
    return made


def test_with_unchanged_rules_it_gives_the_live_examples_row_by_row(written: Lake) -> None:
    """It is the first thing to try, and the reason to trust the rest."""
    run(written, shop(3), "same", [START + 100 * SECOND, START + 333 * SECOND])
    live, again = examples(written), examples(written, table_name("same"))
    assert len(live) > 100
    assert again == live


def test_three_streams_are_joined_again_row_by_row(tmp_path: Path) -> None:
    """Each stream ends at an offset of its own, and the slowest one limits what is complete."""
    lake = write(tmp_path, [worked(seed, streams=True) for seed in (4, 5)])
    run(lake, shop(2, "orders"), "same", [START + 200 * SECOND])
    live, again = examples(lake), examples(lake, table_name("same"))
    assert len(live) > 100
    assert again == live
    with pytest.raises(ContractError, match=r"no log feedback\.shipments") as caught:
        plan(lake, shop(2, "shipments"), "other")
    assert "decisions, feedback, feedback.orders" in caught.value.hint


def test_items_are_joined_again_row_by_row_and_by_a_new_label(tmp_path: Path) -> None:
    """One row for each shown item, and a label of a new version is computed of each."""
    lake, loop = write(tmp_path, [worked(seed, items=True) for seed in (6, 7)]), shop(2, items=True)
    run(lake, loop, "same", [START + 200 * SECOND])
    live, again = (examples(lake, name, loop.loop) for name in ("examples", table_name("same")))
    assert len(live) > len({(row["partition"], row["offset"]) for row in live}) > 100
    assert again == live
    counted = variant(loop, label="count(*)", missing="censored")
    run(lake, counted, "counted")
    for row in examples(lake, table_name("counted"), loop.loop):
        offsets = row["feedback_offsets"]
        assert isinstance(offsets, list)
        assert row["label"] == (len(offsets) or None)


def test_a_stream_is_not_left_out_silently(tmp_path: Path) -> None:
    """Purchases have moved to a stream of their own, which the file of the old version lacks."""
    lake = write(tmp_path, [worked(4, streams=True)])
    with pytest.raises(ContractError, match=r"no log feedback\.orders") as caught:
        plan(lake, shop(1), "before")
    assert "stream: orders" in caught.value.hint
    assert "for buy" in caught.value.hint
    tree = shop(1, "orders").model_dump(mode="json")
    tree["feedback"]["click"]["stream"] = "orders"
    with pytest.raises(ContractError, match=r"no log feedback:") as caught:
        plan(lake, Loop.model_validate(tree), "moved")
    assert "give a kind no stream" in caught.value.hint


@pytest.mark.parametrize("seconds", [3, 25])
def test_with_other_windows_it_gives_what_a_fresh_worker_writes(
    written: Lake, shells: list[Shell], seconds: int
) -> None:
    """A wider and a narrower window: as if the loop had been defined so from the first day."""
    chosen = variant(shop(3), within={"buy": f"{seconds}s", "click": "6s"}, grace="3s")
    made = run(written, chosen, f"buy{seconds}", [START + 150 * SECOND])
    found = pl.DataFrame(written.table(LOOP.loop, table_name(f"buy{seconds}")).read())
    total = 0
    for number, shell in enumerate(shells):
        wanted = fresh(shell, JoinRules.of(chosen))
        its = found.filter(pl.col("partition") == number).drop("topic", "event_date")
        assert rows_of(its) == rows_of(wanted)
        total += len(wanted)
    counts = done(written, made)
    assert counts.total("examples") == total > 0
    read = sum(shell.offsets[DECISIONS] for shell in shells)
    assert sum(counts.total(count) for count in ("examples", "late", "duplicate", "open")) == read


def test_another_label_changes_the_label_and_nothing_else(written: Lake) -> None:
    """The common case: what would the model learn from another question to the same feedback?"""
    run(written, variant(shop(3), label="count(*)", missing="censored"), "counted")
    live, again = examples(written), examples(written, table_name("counted"))
    same = ("partition", "offset", "feedback_offsets", "features", "at")
    assert [[row[n] for n in same] for row in again] == [[row[n] for n in same] for row in live]
    for row in again:
        offsets = row["feedback_offsets"]
        assert isinstance(offsets, list)
        assert row["label"] == (len(offsets) or None)
        assert row["state"] == ("labeled" if offsets else "censored")


def test_a_slice_is_committed_once_whoever_does_it(written: Lake) -> None:
    """Two processes may work on the same slice, or one may do it again."""
    made = plan(written, shop(3), "twice")
    begin(written, made)
    assert run_slice(written, made, 0)["examples"] > 0
    assert not run_slice(written, made, 0)
    assert len(examples(written, table_name("twice"))) == done(written, made).total("examples")


def test_only_decisions_of_the_time_asked_for_are_joined(written: Lake) -> None:
    """Both logs continue outside of it: windows near its end need feedback behind it."""
    since, until = START + 55 * SECOND, START + 317 * SECOND
    made = plan(written, shop(3), "part", since=since, until=until)
    assert (made.cuts[0], made.cuts[-1]) == (since, until)
    begin(written, made)
    for number in range(made.slices):
        run_slice(written, made, number)
    live = [row for row in examples(written) if since <= row["at"] < until]  # type: ignore[operator]
    assert examples(written, table_name("part")) == live
    assert live


def test_rows_that_come_later_do_not_belong_to_it(tmp_path: Path) -> None:
    """A backfill that is resumed tomorrow must have the same rows as today."""
    early, late = worked(5), worked(5)
    end_at = {log: late.offsets[log] * 2 // 3 for log in LOGS}
    early = Shell(late.logs)
    for log in LOGS:
        early.poll(log, end_at[log])
    early.commit()
    before = write(tmp_path / "before", [early])
    made = plan(before, shop(1), "now")
    after = write(tmp_path / "after", [late])
    for lake in (before, after):
        begin(lake, made)
        for number in range(made.slices):
            run_slice(lake, made, number)
    chosen = rules()
    assert examples(before, table_name("now"))
    of_both = [
        [row["offset"] for row in examples(lake, table_name("now"))] for lake in (before, after)
    ]
    assert of_both[0] == of_both[1] == [row["offset"] for row in rows_of(fresh(early, chosen))]


def test_slices_have_about_as_many_rows_as_asked_for(written: Lake) -> None:
    """Memory is bounded by the slice, not by the table."""
    made = plan(written, shop(3), "cut", slice_rows=1)
    assert made.cuts == sorted(set(made.cuts))
    minutes = {row["at"].replace(second=0) for row in examples(written)}  # type: ignore[attr-defined]
    assert made.slices >= len(minutes)


def test_an_impossible_backfill_is_refused_with_a_hint(written: Lake) -> None:
    """It is refused before any slice is begun."""
    with pytest.raises(RequestError, match="no decisions between"):
        plan(written, shop(3), "none", since=START + timedelta(days=400))
    with pytest.raises(ContractError, match="3 partitions, not 4"):
        plan(written, shop(4), "four")
    tree = shop(3).model_dump(mode="json")
    tree["features"]["price"]["type"] = "category"
    with pytest.raises(ContractError, match=r"features\.price"):
        plan(written, Loop.model_validate(tree), "typed")
    with pytest.raises(LakeError, match="no backfill 'nowhere'"):
        read_backfill(written, LOOP.loop, "nowhere")


def test_it_is_shown_when_it_is_complete_and_gone_when_it_is_dropped(written: Lake) -> None:
    """A reader who counts its rows cannot see that half of a table is missing."""
    made = plan(written, shop(3), "shown")
    begin(written, made)
    views = "SELECT view_name FROM duckdb_views() WHERE view_name = 'examples_shown'"
    assert connect(written).execute(views).fetchall() == []
    run_slice(written, made, 0)
    with pytest.raises(LakeError, match="is not complete"):
        training_set(written, made.loop, backfill="shown")
    for number in range(1, made.slices):
        run_slice(written, made, number)
    complete(written.table(LOOP.loop, table_name("shown")))
    assert "shown" in completed(written, LOOP.loop)
    both = "SELECT (SELECT count(*) FROM examples_shown) = (SELECT count(*) FROM shop.examples)"
    assert connect(written).execute(both).fetchone() == (True,)
    live, again = (
        pl.DataFrame(training_set(written, made.loop, backfill=name).table).sort(pl.all())
        for name in (None, "shown")
    )
    assert again.equals(live)
    drop(written, LOOP.loop, "shown")
    assert "shown" not in backfills(written, LOOP.loop)
    assert not written.has_table(LOOP.loop, table_name("shown"))
    assert written.loops() == [LOOP.loop]
