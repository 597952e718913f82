"""A commit of the lake: all or nothing, once, and only by whoever owns the progress it moves.

Tests of *any_table* are the contract of tables: Delta on each storage and those in memory keep it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from tidemill.errors import FencedError, LakeError
from tidemill.features.lake.commits import (
    DATE_ROWS,
    MOST_FILES,
    OWN_FILES,
    has_undated,
    split_by_date,
    statistics,
)
from tidemill.features.lake.compaction import compact
from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig, Table
from tidemill.features.lake.log_retention import CHECKPOINT_EVERY, CLEAN_EVERY
from tidemill.features.lake.memory_tables import MemoryLake, MemoryTable
from tidemill.features.sql.views import arrow_dataset, connect
from tidemill.schemas.loop.definition import Loop

Rows = Callable[..., pl.DataFrame]
AnyTable = MemoryTable | Table  # held to the same promises
AnyLake = MemoryLake | Lake
RACER = "tests.features.lake.racer"
START = datetime(2024, 3, 1, 12, tzinfo=UTC)


def test_rows_and_progress_land_together(any_table: AnyTable, rows: Rows) -> None:
    """Progress without rows is loss, rows without progress come twice."""
    version = any_table.append(rows("decisions", 3), swaps=[CompareAndSwap("offset/0", None, 3)])
    assert any_table.version() == version
    assert any_table.progress(["offset/0", "offset/1"]) == {"offset/0": 3, "offset/1": None}
    assert sorted(any_table.read(["offset"])["offset"]) == [0, 1, 2]


def test_rows_come_back_as_they_were(any_table: AnyTable, rows: Rows) -> None:
    """Every type of feature survives Parquet and Delta, nulls too."""
    sent = rows("decisions", 3)
    any_table.append(sent, swaps=[])
    back = any_table.read().sort("offset")
    assert back.drop("event_date").equals(sent)
    assert back["event_date"].to_list() == [date(2024, 3, 1)] * 3


def test_a_commit_may_move_progress_alone(any_table: AnyTable) -> None:
    """An owner claims a partition before it has any row of it."""
    before = any_table.version()
    assert any_table.append(None, swaps=[CompareAndSwap("owner/0", None, 1)]) == before + 1
    assert any_table.append(None, swaps=[]) == before + 1
    assert any_table.read().is_empty()


def test_another_number_than_expected_refuses_everything(any_table: AnyTable, rows: Rows) -> None:
    """A worker that reads a batch again after its commit had landed must not write it twice."""
    swaps = [CompareAndSwap("owner/0", None, 1), CompareAndSwap("offset/0", None, 2)]
    any_table.append(rows("decisions", 2), swaps=swaps)
    with pytest.raises(FencedError, match=r"offset/0 is at 2, this worker expected None") as caught:
        any_table.append(rows("decisions", 2), swaps=[CompareAndSwap("offset/0", None, 2)])
    assert "another worker" in caught.value.hint
    assert any_table.read().height == 2


def test_the_loser_of_a_race_is_fenced_and_leaves_no_file(
    lake: Lake, loop: Loop, table: Table, rows: Rows
) -> None:
    """Both read the same snapshot, as a zombie and its successor do; only one may commit."""
    zombie = lake.table(loop.loop, "decisions")
    table.append(rows("decisions", 2), swaps=[CompareAndSwap("offset/0", None, 2)])
    with pytest.raises(FencedError):
        zombie.append(rows("decisions", 2), swaps=[CompareAndSwap("offset/0", None, 2)])
    assert table.read().height == 2
    assert _files(lake, table) == len(table.uris())


def test_a_zombie_is_fenced_by_the_owner_it_only_compares(
    any_lake: AnyLake, loop: Loop, any_table: AnyTable, rows: Rows
) -> None:
    """The epoch does not move with the zombie's commits, and stops them all the same."""
    any_table.append(None, swaps=[CompareAndSwap("owner/0", None, 1)])
    zombie = any_lake.table(loop.loop, "decisions")
    any_table.append(None, swaps=[CompareAndSwap("owner/0", 1, 2)])
    with pytest.raises(FencedError, match="owner/0 is at 2"):
        zombie.append(
            rows("decisions", 1),
            swaps=[CompareAndSwap("owner/0", 1, 1), CompareAndSwap("offset/0", None, 1)],
        )
    assert any_table.progress(["offset/0"]) == {"offset/0": None}


def test_workers_of_other_partitions_do_not_disturb(
    any_lake: AnyLake, loop: Loop, any_table: AnyTable, rows: Rows
) -> None:
    """Every worker commits every second; none may be refused for what another one does."""
    other = any_lake.table(loop.loop, "decisions")
    for number in range(3):
        expected = number or None
        any_table.append(
            rows("decisions", 1), swaps=[CompareAndSwap("offset/0", expected, number + 1)]
        )
        other.append(
            rows("decisions", 1, partition=1),
            swaps=[CompareAndSwap("offset/1", expected, number + 1)],
        )
    assert any_table.read().height == 6


def test_a_handle_that_is_behind_is_no_zombie(
    any_lake: AnyLake, loop: Loop, any_table: AnyTable, rows: Rows
) -> None:
    """Progress may have been moved through another handle of the same process."""
    behind = any_lake.table(loop.loop, "decisions")
    any_table.append(rows("decisions", 1), swaps=[CompareAndSwap("offset/0", None, 1)])
    behind.append(rows("decisions", 1, offset=1), swaps=[CompareAndSwap("offset/0", 1, 2)])
    assert behind.read().height == 2


def test_a_handle_follows_a_log_that_was_cut(tmp_path: Path, loop: Loop, rows: Rows) -> None:
    """A table that nobody wrote to for days was compacted meanwhile, and old entries went away."""
    lake = Lake(LakeConfig(root=str(tmp_path)))
    lake.create(loop)
    table = lake.table(loop.loop, "decisions")
    asleep = lake.table(loop.loop, "decisions")
    assert asleep.progress(["offset/0"]) == {"offset/0": None}
    table.append(rows("decisions", 1), swaps=[CompareAndSwap("offset/0", None, 1)])
    table.append(rows("decisions", 1, offset=1), swaps=[CompareAndSwap("offset/0", 1, 2)])
    table.handle().create_checkpoint()
    (tmp_path / loop.loop / "decisions" / "_delta_log" / f"{1:020d}.json").unlink()
    assert asleep.progress(["offset/0"]) == {"offset/0": 2}
    asleep.append(rows("decisions", 1, offset=2), swaps=[CompareAndSwap("offset/0", 2, 3)])
    with pytest.raises(LakeError, match="no longer has version 1") as caught:
        asleep.commits_since(0)
    assert "full read" in caught.value.hint


def test_a_commit_replays_a_few_entries_of_the_log_not_a_hundred(table: Table, rows: Rows) -> None:
    """Each commit reads all since the last checkpoint: at a hundred it costs six times as much."""
    for number in range(25):
        table.append(rows("decisions", 1, offset=number), swaps=[])
    told = json.loads(table.location.storage.read(f"{table.folder}/_delta_log/_last_checkpoint"))
    assert table.version() - told["version"] <= CHECKPOINT_EVERY


@pytest.mark.slow
def test_a_writer_alone_forgets_expired_entries_of_the_log(
    tmp_path: Path, loop: Loop, rows: Rows
) -> None:
    """A loop without a trainer is never compacted, and every commit lists the whole log."""
    lake = Lake(LakeConfig(root=str(tmp_path), keep=timedelta(hours=1)))
    lake.create(loop)
    table = lake.table(loop.loop, "decisions")
    log = tmp_path / loop.loop / "decisions" / "_delta_log"
    for number in range(CLEAN_EVERY - 1):
        table.append(rows("decisions", 1, offset=number), swaps=[])
        if number == 2 * CHECKPOINT_EVERY:
            for entry in log.iterdir():
                os.utime(entry, (0, 0))
    assert len(list(log.glob("*.json"))) == CLEAN_EVERY, "the next commit is the hundredth"
    table.append(rows("decisions", 1, offset=CLEAN_EVERY - 1), swaps=[])
    left = {int(entry.stem) for entry in log.glob("*.json")}
    assert not left & set(range(CHECKPOINT_EVERY))
    assert left >= set(range(2 * CHECKPOINT_EVERY + 2, CLEAN_EVERY + 1))
    assert len(table.read()) == CLEAN_EVERY


@pytest.mark.slow
def test_old_checkpoints_are_thinned_and_every_version_stays(table: Table, rows: Rows) -> None:
    """Each names all files of a day: kept all, they would take more room than the rows."""
    for number in range(2 * CLEAN_EVERY):
        told = rows("decisions", 1, offset=number) if number < 30 else None
        table.append(
            told, swaps=[CompareAndSwap("offset/0", number - 1 if number else None, number)]
        )
    names = table.location.storage.names(f"{table.folder}/_delta_log")
    kept = [int(name[:20]) for name in names if name.endswith(".checkpoint.parquet")]
    assert kept == list(range(CLEAN_EVERY - 1, 2 * CLEAN_EVERY, CHECKPOINT_EVERY))
    assert table.read(version=15).height == 15
    assert table.handle().version() == 2 * CLEAN_EVERY


@pytest.mark.slow
def test_checkpoints_stay_where_the_log_begins_with_one(table: Table, rows: Rows) -> None:
    """What expired before them is gone, so the versions behind them start from nothing else."""
    for number in range(2 * CLEAN_EVERY - 1):
        told = rows("decisions", 1, offset=number) if number < 30 else None
        table.append(
            told, swaps=[CompareAndSwap("offset/0", number - 1 if number else None, number)]
        )
    for expired in range(15):
        table.location.storage.remove(f"{table.folder}/_delta_log/{expired:020d}.json")
    last = 2 * CLEAN_EVERY - 1
    table.append(None, swaps=[CompareAndSwap("offset/0", last - 1, last)])
    assert table.read(version=25).height == 25


def test_rows_of_many_days_are_one_commit(table: Table, rows: Rows) -> None:
    """A replay runs through days in seconds; files are by day, the commit stays atomic."""
    sent = rows("decisions", 5, step=timedelta(days=1))
    version = table.append(sent, swaps=[CompareAndSwap("offset/0", None, 5)])
    (commit,) = table.commits_since(version - 1)
    assert len(commit.files) == 5
    assert table.rows(commit).drop("event_date").equals(sent)
    found = table.read(where=pl.col("event_date") == date(2024, 3, 3))
    assert found["offset"].to_list() == [2]


def test_a_commit_writes_a_bounded_number_of_files_whatever_event_times_it_has(
    lake: Lake, table: Table, loop: Loop, rows: Rows
) -> None:
    """A batch of 1,000 past days from one request must not be 1,000 files of the lake."""
    sent = rows("decisions", 1_000, start=START - timedelta(days=1_000), step=timedelta(days=1))
    before = table.version()
    table.append(sent, swaps=[])
    (commit,) = table.commits_since(before)
    assert len(commit.files) <= 20
    assert table.read().sort("offset").drop("event_date").equals(sent)
    assert table.rows(commit).sort("offset").drop("event_date").equals(sent)
    wanted = START.date() - timedelta(days=100)
    for found in (table.rows(commit), table.read()):
        assert found.filter(pl.col("event_date") == wanted)["offset"].to_list() == [900]
        assert found["event_date"].null_count() == 0
    exact = table.read(where=pl.col("event_date").is_between(wanted, wanted + timedelta(days=9)))
    assert sorted(exact["offset"]) == list(range(900, 910))
    with connect(lake) as connection:
        query = f"SELECT \"offset\" FROM decisions WHERE event_date = DATE '{wanted}'"
        assert connection.sql(query).fetchall() == [(900,)]
        counts = "SELECT count(*), count(event_date) FROM decisions"
        assert connection.sql(counts).fetchall() == [(1_000, 1_000)]
    compact(lake, loop.loop)
    assert len(table.uris()) <= 20
    assert table.read(where=pl.col("event_date") == wanted)["offset"].to_list() == [900]


@pytest.mark.slow
def test_a_date_with_many_rows_has_a_file_of_its_own(table: Table, rows: Rows) -> None:
    """A year that is played back in an hour must stay as quick to read by date as one lived."""
    days, each = OWN_FILES + 10, DATE_ROWS
    step = timedelta(days=1) / each
    before = table.version()
    table.append(
        rows("decisions", days * each, start=START - timedelta(days=9), step=step), swaps=[]
    )
    (commit,) = table.commits_since(before)
    assert len(commit.files) >= days - 1
    assert not has_undated(commit.files[:-2])
    draw = split_by_date(
        rows("decisions", 2 * MOST_FILES * each, start=START, step=step).select("at")
    )
    assert len(draw) == MOST_FILES


def test_files_out_of_range_are_not_opened(tmp_path: Path, loop: Loop, rows: Rows) -> None:
    """A restart reads hours out of months; statistics in the log say which files hold them."""
    lake = Lake(LakeConfig(root=str(tmp_path)))
    lake.create(loop)
    table = lake.table(loop.loop, "decisions")
    table.append(rows("decisions", 3), swaps=[])
    kept = set(table.uris())
    table.append(rows("decisions", 3, offset=3, start=START + timedelta(hours=1)), swaps=[])
    for uri in set(table.uris()) - kept:
        Path(uri).write_bytes(b"not opened, so not missed")
    assert table.read(where=pl.col("at") < START + timedelta(minutes=1)).height == 3
    assert table.read(where=pl.col("offset") < 3).height == 3


def test_strings_are_plain_for_every_reader(table: Table, rows: Rows) -> None:
    """Polars' own string views are unknown to many engines."""
    table.append(rows("decisions", 2), swaps=[])
    assert "view" not in str(table.handle().to_pyarrow_dataset().to_table().schema)


def test_an_arrow_dataset_loses_no_row_to_a_filter(table: Table, rows: Rows) -> None:
    """Engines push their filters into it; one whose promises are wrong drops rows silently."""
    table.append(rows("decisions", 3, verdict=[None, "late", "duplicate"]), swaps=[])
    verdict = ds.field("verdict")
    dataset = arrow_dataset(table, table.uris())
    assert dataset.count_rows(filter=verdict.is_null() | (verdict == "late")) == 2
    assert dataset.count_rows(filter=ds.field("event_date") == START.date()) == 3
    assert dataset.count_rows(filter=ds.field("event_date") > START.date()) == 0


def test_the_log_can_be_tailed_commit_by_commit(table: Table, rows: Rows) -> None:
    """The online learner reads every commit once, in order."""
    start = table.version()
    for number in range(3):
        table.append(rows("decisions", 2, offset=2 * number), swaps=[], metadata={"n": str(number)})
    commits = table.commits_since(start)
    assert [commit.metadata["n"] for commit in commits] == ["0", "1", "2"]
    assert [table.rows(commit)["offset"].to_list() for commit in commits] == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]
    assert table.commits_since(commits[-1].version) == []


def test_an_old_version_can_be_read_again(any_table: AnyTable, rows: Rows) -> None:
    """A model names the version it was trained on."""
    first = any_table.append(rows("decisions", 2), swaps=[])
    any_table.append(rows("decisions", 2, offset=2), swaps=[])
    assert any_table.read(version=first).height == 2


def test_the_files_of_an_old_version_are_still_known(table: Table, rows: Rows) -> None:
    """Engines of other kinds read a version by its files."""
    first = table.append(rows("decisions", 2), swaps=[])
    table.append(rows("decisions", 2, offset=2), swaps=[])
    assert len(table.uris(first)) == 1
    assert table.scan(first).select(pl.len()).collect().item() == 2


def test_rows_that_do_not_fit_are_a_mistake_of_the_caller(any_table: AnyTable, rows: Rows) -> None:
    """A wrong type would make every later read fail."""
    wrong = rows("decisions", 1).with_columns(offset=pl.lit("x"), more=pl.lit(1))
    with pytest.raises(ValueError, match=r"offset is String, not Int64, more is Int32, not None"):
        any_table.append(wrong, swaps=[])


def test_a_table_that_is_not_there_says_what_to_do(lake: Lake) -> None:
    """The usual cause is a wrong TIDEMILL_LAKE."""
    with pytest.raises(LakeError, match="has no nothing/decisions") as caught:
        lake.table("nothing", "decisions")
    assert "TIDEMILL_LAKE" in caught.value.hint


def test_threads_share_a_table(any_table: AnyTable, rows: Rows) -> None:
    """A worker commits from an executor while its loop reads progress."""

    def commit(partition: int) -> None:
        for number in range(5):
            swap = CompareAndSwap(f"offset/{partition}", number or None, number + 1)
            any_table.append(rows("decisions", 1, offset=number, partition=partition), swaps=[swap])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(commit, range(4)))
    assert any_table.read().height == 20


def _files(lake: Lake, table: Table) -> int:
    """Count the Parquet files that are there, committed or not."""
    days = [name for name in lake.storage.names(table.folder) if name.startswith("event_date=")]
    return sum(len(lake.storage.names(f"{table.folder}/{day}")) for day in days)


@pytest.mark.slow
@pytest.mark.parametrize("fence", ["fenced", "unfenced"])
def test_two_processes_race_and_nothing_comes_twice(
    lake: Lake, tmp_path: Path, loop: Loop, rows: Rows, fence: str
) -> None:
    """The fence is the compare in the log itself; without it, the same race doubles rows."""
    lake.create(loop)
    frame = tmp_path / "row.arrow"
    rows("decisions", 1).write_ipc(frame)
    arguments = [sys.executable, "-m", RACER, loop.loop, str(frame), fence]
    env = {**os.environ, **lake.storage_options, "TIDEMILL_LAKE": lake.root}
    racers = [
        subprocess.Popen(
            [*arguments, name],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:  # both are ready before the first may start
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate(timeout=300)
        assert racer.returncode == 0
    table = lake.table(loop.loop, "decisions")
    offsets = sorted(table.read(["offset"])["offset"])
    next_offset = table.progress(["offset/0"])["offset/0"] or 0
    assert (offsets == list(range(next_offset))) is (fence == "fenced")
    assert {commit.metadata["racer"] for commit in table.commits_since(0)} == {"one", "two"}


def test_statistics_of_early_years_are_what_other_readers_compare(table: Table, rows: Rows) -> None:
    """A reader compares `0999-` with `0998-`; without the zero it would leave the file out."""
    early = rows("decisions", 2).with_columns(
        at=pl.Series([datetime(3, 2, 1, tzinfo=UTC), datetime(999, 1, 1, 0, 0, 0, 7, tzinfo=UTC)])
    )
    stats = json.loads(statistics(early))
    assert stats["minValues"]["at"] == "0003-02-01T00:00:00.000000Z"
    assert stats["maxValues"]["at"] == "0999-01-01T00:00:00.000007Z"
    table.append(early, swaps=[])
    scanned = pl.scan_delta(table.handle()).filter(
        pl.col("at") < pl.lit(datetime(1000, 1, 1, tzinfo=UTC))
    )
    assert len(scanned.collect()) == 2
    dataset = table.handle().to_pyarrow_dataset()
    before = pc.field("at") < pa.scalar(datetime(1000, 1, 1, tzinfo=UTC), pa.timestamp("us", "UTC"))
    assert dataset.to_table(filter=before).num_rows == 2
