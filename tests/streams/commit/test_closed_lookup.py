"""Closed decisions are recalled from real tables: the newest revision, and its feedback."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.features.audited import PARTITION, write_lake
from tests.streams.join_logs import (
    LOOP,
    ORDERS,
    SECOND,
    START,
    THREE,
    WITH_ITEMS,
    D,
    F,
    Logs,
    Shell,
    item_rules,
    rules,
    shared_labels,
)

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import TABLES
from tidemill.schemas import logs
from tidemill.schemas.logs import position_of
from tidemill.streams.commit.closed_lookup import begin_examining, recall_from
from tidemill.streams.commit.leases import claim
from tidemill.streams.commit.open_windows import OpenWindows
from tidemill.streams.commit.progress_table import ProgressTable
from tidemill.streams.commit.recovery import resume_of
from tidemill.streams.join.checkpoints import Resume
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.state.spill_store import MemorySpillStore

HOUR = timedelta(hours=1)
CORRECTED = rules(corrections=20 * SECOND)
LABELS = shared_labels(CORRECTED)
FEEDBACK = [F("w", "z", 15), F("x", "a", 1, value=4.0), F("y", "a", 2), F("v", "b", 1)]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake in which `a` has two revisions, and the last feedback was not examined yet."""
    stream = Shell(Logs([D("a", 0), D("b", 0), D("z", 15)], FEEDBACK), CORRECTED)
    stream.poll(logs.DECISIONS, 3)
    for _ in range(3):
        stream.poll(logs.FEEDBACK, 1)
        stream.commit()
    stream.poll(logs.FEEDBACK, 1)
    stream.commit(crash_after=2)
    return write_lake(stream, tmp_path)


def tables(lake: Lake) -> dict[str, ProgressTable]:
    """Return the tables as a worker opens them."""
    return {name: lake.table(LOOP.loop, name) for name in TABLES}


def test_the_newest_revision_is_recalled_with_its_feedback(lake: Lake) -> None:
    """The next revision continues from the last one, not from the first."""
    wanted = pl.DataFrame({"decision_id": ["a", "b"], "at": [START, START + SECOND]})
    found = recall_from(tables(lake), PARTITION, CORRECTED)(
        wanted.with_columns(pl.col("at").cast(_TIME))
    )
    assert found.examples.select("decision_id", "revision").rows() == [("a", 2)]
    assert sorted(found.feedback["offset"]) == [1, 2]


def test_a_decision_without_feedback_is_recalled_as_well(lake: Lake) -> None:
    """Most corrections are of examples without feedback."""
    wanted = pl.DataFrame({"decision_id": ["b"], "at": [START]}, schema_overrides={"at": _TIME})
    found = recall_from(tables(lake), PARTITION, CORRECTED)(wanted)
    assert found.examples.select("decision_id", "revision").rows() == [("b", 0)]
    assert found.feedback.is_empty()


def test_each_shown_item_is_recalled_by_its_newest_revision(tmp_path: Path) -> None:
    """Otherwise a second correction would find one item of the decision, and no other."""
    items = (("tea", 0), ("milk", 1))
    feedback = [F("w", "z", 15), F("x", "a", 1, item="tea")]
    chosen = item_rules(corrections=20 * SECOND)
    stream = Shell(Logs([D("a", 0, items), D("z", 15)], feedback), chosen)
    stream.finish()
    lake = write_lake(stream, tmp_path, loops=(WITH_ITEMS.model_copy(update={"loop": LOOP.loop}),))
    wanted = pl.DataFrame({"decision_id": ["a"], "at": [START]}, schema_overrides={"at": _TIME})
    found = recall_from(tables(lake), PARTITION, chosen)(wanted)
    assert found.examples.select("item", "revision").rows() == [("tea", 1), ("milk", 0)]
    assert found.feedback["offset"].to_list() == [1]


def test_decisions_of_many_times_are_recalled_in_one_read(tmp_path: Path) -> None:
    """The end of an outage of many hours revises decisions of all of them."""
    made = [D(f"d{number}", number * 100) for number in range(40)]
    stream = Shell(Logs(made, [F(f"f{d.id}", d.id, d.at) for d in made]))
    stream.finish()
    wanted = stream.examples().select("decision_id", "at")
    found = recall_from(tables(write_lake(stream, tmp_path)), PARTITION, rules())(wanted)
    assert found.examples["decision_id"].to_list() == [d.id for d in made]
    assert sorted(found.feedback["offset"]) == list(range(40))


def test_files_of_other_times_are_not_opened_where_streams_are_mixed(tmp_path: Path) -> None:
    """A file of two streams spans nearly all log positions: only its times can exclude it."""
    lake = mixed(tmp_path)
    feedback = lake.table(LOOP.loop, "feedback")
    before, rows = set(feedback.uris()), feedback.read().drop("event_date")
    for later in (-HOUR, HOUR):
        moved = rows.with_columns(pl.col("at") + later, pl.col("offset") + 1)
        feedback.append(moved, swaps=[])
    for uri in set(feedback.uris()) - before:
        Path(uri).write_bytes(b"not opened, so not missed")
    wanted = lake.table(LOOP.loop, "examples").read(["decision_id", "at"])
    found = recall_from(tables(lake), PARTITION, CORRECTED)(wanted)
    assert sorted(found.feedback["offset"]) == [0, position_of(ORDERS, 0)]


@pytest.mark.parametrize(("within", "early"), [(0, 0), (1, 0), (2, 1), (10**6, 10**6), (10**11, 0)])
def test_what_a_version_with_other_windows_has_joined_is_recalled_whole(
    tmp_path: Path, within: int, early: int
) -> None:
    """A revision with half of the feedback would have a wrong label, and nobody would notice."""
    lake = mixed(tmp_path)
    wanted = lake.table(LOOP.loop, "examples").read(["decision_id", "at"])
    shorter = rules(
        within={"click": within * SECOND, "buy": within * SECOND},
        early={"click": early * SECOND, "buy": 0 * SECOND},
    )
    found = recall_from(tables(lake), PARTITION, shorter)(wanted)
    assert sorted(found.feedback["offset"]) == [0, position_of(ORDERS, 0)]


def mixed(folder: Path) -> Lake:
    """Return a lake in which `a` has a click of one stream and a purchase of another."""
    logs = Logs([D("a", 5)], [F("x", "a", 4)], [F("o", "a", 7, "buy")])
    stream = Shell(logs, rules(logs=THREE))
    stream.finish()
    return write_lake(stream, folder)


def test_a_restart_examines_what_the_process_before_only_read(lake: Lake) -> None:
    """Raw feedback is committed before its revision; it must not be treated as examined."""
    mine = tables(lake)
    leases = claim(mine, [PARTITION])
    resume = resume_of(leases[PARTITION])
    assert (resume.examined, resume.revised) == ({"feedback": 3}, 2)

    def join(number: int, resume: Resume, state: OpenState) -> PartitionJoin:
        recall = recall_from(mine, number, CORRECTED)
        return PartitionJoin(CORRECTED, resume, labels=LABELS, recall=recall, state=state)

    windows = OpenWindows(
        loop=LOOP,
        rules=CORRECTED,
        tables=mine,
        spill_files=MemorySpillStore(),
        metrics=StreamMetrics(),
        join=join,
        patience_s=1.0,
    )
    closed = windows.recover(leases)[PARTITION].close()
    assert closed is not None
    assert closed.examples.select("decision_id", "revision", "label").rows() == [("b", 1, 1001.0)]
    assert (closed.examined, closed.revised) == ({"feedback": 4}, 3)


def test_examining_begins_where_the_loop_first_asks_for_corrections(tmp_path: Path) -> None:
    """Feedback that was late before is counted as late, and must not be counted again."""
    stream = Shell(Logs([D("a", 0)], [F("x", "a", 1), F("y", "a", 2)]))
    stream.finish()
    mine = tables(write_lake(stream, tmp_path))
    for _ in range(2):
        leases = claim(mine, [PARTITION, 2])
        begin_examining(mine, leases)
        found = [leases[number].examined[logs.FEEDBACK] for number in (PARTITION, 2)]
        assert found == [2, 0]
    assert claim(mine, [PARTITION])[PARTITION].examined == {"feedback": 2}


def test_a_stream_that_is_added_is_examined_from_its_first_record(tmp_path: Path) -> None:
    """The other logs continue from their offsets: their late feedback is counted already."""
    stream = Shell(Logs([D("a", 0)], [F("x", "a", 1), F("y", "a", 2)]), CORRECTED)
    stream.finish()
    mine = tables(write_lake(stream, tmp_path))
    leases = claim(mine, [PARTITION], 2, logs=THREE)
    begin_examining(mine, leases)
    assert leases[PARTITION].examined == {"feedback": 2, "feedback.orders": 0}


_TIME = pl.Datetime("us", "UTC")
