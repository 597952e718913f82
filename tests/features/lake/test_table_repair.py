"""A table that has lost files: what is left is read, rows are put back, files are taken out."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tidemill.errors import FencedError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.table_repair import put_back, restored_rows, surviving_rows, take_out
from tidemill.schemas.loop.definition import Loop

Rows = Callable[..., pl.DataFrame]


@pytest.fixture
def whole(tmp_path: Path, loop: Loop, rows: Rows) -> Lake:
    """A lake whose decisions are in two files."""
    lake = Lake(LakeConfig(root=str(tmp_path / "the lake")))
    lake.create(loop)
    for offset in (0, 10):
        lake.table(loop.loop, "decisions").append(rows("decisions", 10, offset=offset), swaps=[])
    return lake


def test_lost_rows_are_put_back_and_lost_files_taken_out(whole: Lake, loop: Loop) -> None:
    """Afterwards the table is as it was, and a learner does not learn a row twice."""
    table = whole.table(loop.loop, "decisions")
    before, version = table.read().sort("offset"), table.version()
    lost, cut = sorted(map(Path, table.uris()))
    lost.unlink()
    left = surviving_rows(whole, table, ["partition", "offset"])
    assert left.height == 10
    cut.write_bytes(cut.read_bytes()[:50])
    assert surviving_rows(whole, table, ["partition", "offset"]).is_empty()
    put_back(table, before.drop("event_date"), restored_rows(table, [0, 1]))
    assert {file.rows for file in take_out(whole, table)} == {10}
    assert take_out(whole, table) == []
    assert_frame_equal(table.read().sort("offset"), before)
    assert not any(commit.files for commit in table.commits_since(version))


def test_of_two_repairs_at_the_same_time_one_is_refused(whole: Lake, loop: Loop) -> None:
    """Each would put the same rows back, and the lake would have them twice."""
    table = whole.table(loop.loop, "decisions")
    rows, known = table.read().drop("event_date"), restored_rows(table, [0, 1])
    put_back(table, rows, known)
    with pytest.raises(FencedError):
        put_back(table, rows, known)
    assert restored_rows(table, [0, 1]) == {0: 20, 1: None}
