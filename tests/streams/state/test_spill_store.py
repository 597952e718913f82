"""The contract of a spill store, for each of them: memory, files of a local disk, the raw table."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.streams.join_logs import LOOP, RULES, D, decision_frame

from tidemill.errors import LakeError, ScratchError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.streams.commit.spill_to_lake import RawTableSpill, RawTableSpillStore, fetch
from tidemill.streams.id_hashes import id_keys
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.state.spill_files import SpillFiles
from tidemill.streams.state.spill_store import MemorySpillStore, SpillHandle, SpillStore

COLUMNS = [*RULES.open_columns, "#at", "#key", "#check"]
LOG = [*(D(f"d{number}", number // 3) for number in range(90)), D("d7", 30), D("late", 0)]
FIRST = 90  # rows of LOG that are first decisions


def segmented() -> pl.DataFrame:
    """Return the first decisions of LOG as a join spills them."""
    frame = decision_frame(LOG[:FIRST]).select(RULES.open_columns)
    ids = id_keys(frame["id"])
    return frame.with_columns(
        pl.Series("#at", frame["at"].to_physical()),
        pl.Series("#key", ids.key),
        pl.Series("#check", ids.check),
    )


def committed(folder: Path) -> RawTableSpillStore:
    """Return the raw-table store of one of two partitions whose logs are committed to a lake."""
    lake = Lake(LakeConfig(root=str(folder)))
    lake.create(LOOP)
    table = lake.table(LOOP.loop, "decisions")
    for partition in (0, 1):
        join = PartitionJoin(RULES)
        for start in range(0, len(LOG), 30):
            rows = join.take_decisions(decision_frame(LOG[start : start + 30], start))
            more = {"topic": pl.lit("t"), "partition": pl.lit(partition, dtype=pl.Int32)}
            more["ingested_at"] = pl.col("at")
            swaps = [CompareAndSwap(f"offset/{partition}", start or None, start + len(rows))]
            table.append(rows.with_columns(**more), swaps=swaps)
    store = RawTableSpillStore(table, 1, RULES)
    store.committed = len(LOG)
    return store


@pytest.fixture(params=["memory", "files", "raw"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SpillStore:
    """Each store in turn."""
    stores: dict[str, Callable[[Path], SpillStore]] = {
        "memory": lambda _: MemorySpillStore(),
        "files": SpillFiles,
        "raw": committed,
    }
    return stores[request.param](tmp_path)


def spilled(store: SpillStore, rows: pl.DataFrame) -> SpillHandle:
    """Spill *rows*, which *store* has to take."""
    handle = store.spill(rows)
    assert handle is not None
    return handle


def test_what_is_read_back_is_what_was_spilled(store: SpillStore) -> None:
    """Any rows, any columns, in the order they are asked for, and as often as needed."""
    rows = segmented()
    parts = [spilled(store, rows.slice(start, 30)) for start in (0, 30, 60)]
    for part, start in zip(parts, (0, 30, 60), strict=True):
        for numbers in ([0], [29, 3, 3], range(30)):
            positions = np.array(numbers, dtype=np.int64)
            taken = part.take(positions, COLUMNS)
            assert taken.equals(rows.slice(start, 30)[positions])
            assert part.take(positions, ["#at"]).equals(taken.select("#at"))
            part.release()


def test_spilled_rows_take_no_memory(store: SpillStore) -> None:
    """Otherwise spilling gains nothing."""
    part = spilled(store, segmented())
    assert part.nbytes == 0
    part.take(np.arange(FIRST), COLUMNS)
    part.release()
    assert part.nbytes == 0


def test_rows_that_are_not_committed_are_not_spilled_to_the_lake(tmp_path: Path) -> None:
    """They would not be there when their window closes."""
    store = committed(tmp_path)
    store.committed = 30
    assert store.spill(segmented()) is None
    assert store.spill(segmented().slice(0, 31)) is None
    assert store.spill(segmented().slice(0, 30)) is not None


def test_rows_that_are_gone_from_the_lake_stop_the_worker(tmp_path: Path) -> None:
    """Nobody would notice an example that is missing because a file of the lake is missing."""
    store = committed(tmp_path)
    store.committed += 10
    lost = segmented().with_columns(pl.col("offset") + 5)
    with pytest.raises(LakeError, match=r"of 90 open decisions .* has 85") as caught:
        spilled(store, lost).take(np.arange(3), COLUMNS)
    assert "restore" in caught.value.hint


def test_many_stretches_are_read_back_with_one_query(tmp_path: Path) -> None:
    """A close after an outage reads a hundred stretches back, and each query opens many files."""
    rows = segmented()
    store = committed(tmp_path)
    parts = [store.spill(rows.slice(start, 7)) for start in range(0, 84, 7)]
    handles = [part for part in parts if isinstance(part, RawTableSpill)]
    fetch(handles)
    assert len(handles) == 12
    assert all(handle.is_resident and handle.nbytes > 0 for handle in handles)
    assert pl.concat([handle.take(np.arange(7), COLUMNS) for handle in handles]).equals(rows[:84])


def test_spill_files_are_unlinked_and_leave_nothing_behind(tmp_path: Path) -> None:
    """A worker that is killed again and again must not fill the disk."""
    part = spilled(SpillFiles(tmp_path), segmented())
    assert not list(tmp_path.iterdir())
    assert part.take(np.array([5]), ["id"])["id"].to_list() == ["d5"]


def test_the_error_of_a_full_disk_names_the_folder(tmp_path: Path) -> None:
    """Somebody has to free it, and must know which."""
    with pytest.raises(ScratchError, match="nowhere") as caught:
        SpillFiles(tmp_path / "nowhere").spill(segmented())
    assert "TIDEMILL_SCRATCH" in caught.value.hint
