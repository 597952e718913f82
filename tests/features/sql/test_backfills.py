"""What a lake knows of its backfills, on each kind of storage: begun once, done, shown, dropped."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from tidemill.errors import FencedError, LakeError, RequestError
from tidemill.features.lake.lake import Lake
from tidemill.features.sql.backfills import (
    COUNTS,
    Backfill,
    backfills,
    begin,
    complete,
    complete_table,
    completed,
    done,
    drop,
    read_backfill,
    slice_swaps,
    table_name,
)
from tidemill.schemas.loop.definition import Loop

Rows = Callable[..., pl.DataFrame]
START = datetime(2024, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def begun(lake: Lake, loop: Loop) -> Backfill:
    """A backfill of two slices, of which none is done."""
    lake.create(loop)
    made = Backfill(
        name="wide",
        loop=loop,
        since=None,
        until=START + timedelta(hours=2),
        ends={"decisions": {0: 7, 1: 0}, "feedback": {0: 3, 1: 0}},
        frontiers={0: 12},
        cuts=[START, START + timedelta(hours=1), START + timedelta(hours=2)],
    )
    begin(lake, made)
    return made


def test_it_is_read_back_as_it_was_begun(lake: Lake, begun: Backfill) -> None:
    """Whoever goes on with it tomorrow needs to know what it was to contain."""
    assert backfills(lake, begun.loop.loop) == ["wide"]
    assert read_backfill(lake, begun.loop.loop, "wide") == begun
    assert begun.bounds(1) == (START + timedelta(hours=1), START + timedelta(hours=2))
    assert lake.loops() == [begun.loop.loop], "its file is no loop"


def test_only_one_process_can_begin_it(lake: Lake, begun: Backfill) -> None:
    """Two of them would cut different slices of different rows."""
    with pytest.raises(RequestError, match="is beginning backfill"):
        begin(lake, begun)


def test_a_slice_is_done_with_its_rows_and_once(lake: Lake, begun: Backfill, rows: Rows) -> None:
    """The note and the rows are one commit."""
    table = lake.table(begun.loop.loop, table_name("wide"))
    counts = dict(zip(COUNTS, (2, 1, 0, 4), strict=True))
    table.append(rows("examples", 2), swaps=slice_swaps(1, counts))
    assert done(lake, begun).slices == {1: counts}
    assert done(lake, begun).total("open") == 4
    with pytest.raises(FencedError):
        table.append(rows("examples", 2), swaps=slice_swaps(1, counts))
    assert table.read(["offset"]).height == 2


def test_its_table_is_handed_out_when_it_is_complete(lake: Lake, begun: Backfill) -> None:
    """Half a table looks like a whole one."""
    name = begun.loop.loop
    assert completed(lake, name) == []
    with pytest.raises(LakeError, match="is not complete"):
        complete_table(lake, name, "wide")
    for _ in range(2):
        complete(lake.table(name, table_name("wide")))
    assert completed(lake, name) == ["wide"]
    assert complete_table(lake, name, "wide").folder == f"{name}/examples@wide"


def test_dropping_it_leaves_nothing(lake: Lake, begun: Backfill, rows: Rows) -> None:
    """Neither rows nor a name, and the name is free again."""
    name = begun.loop.loop
    table = lake.table(name, table_name("wide"))
    table.append(rows("examples", 2), swaps=slice_swaps(0, dict.fromkeys(COUNTS, 0)))
    drop(lake, name, "wide")
    assert backfills(lake, name) == []
    assert not lake.has_table(name, table_name("wide"))
    assert lake.has_table(name, "examples")
    with pytest.raises(LakeError, match="no backfill 'wide'"):
        drop(lake, name, "wide")
    begin(lake, begun)
    assert done(lake, begun).slices == {}
