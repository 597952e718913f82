"""Merging small files changes no row, disturbs nobody, and forgets no file that is needed."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.features.lake.compaction import compact, compact_table, maintain
from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig
from tidemill.schemas.loop.definition import Loop

Rows = Callable[..., pl.DataFrame]
START = datetime(2024, 3, 1, 12, tzinfo=UTC)


def test_small_files_of_a_day_become_one(lake: Lake, loop: Loop, rows: Rows) -> None:
    """A commit a second makes 86,400 files a day; a reader wants a few."""
    lake.create(loop)
    table = lake.table(loop.loop, "decisions")
    for number in range(6):
        start = START + timedelta(days=number % 2)
        table.append(rows("decisions", 2, offset=2 * number, start=start), swaps=[])
    before = table.read().sort("offset")
    done = {found.table: found for found in compact(lake, loop.loop)}
    assert (done["decisions"].merged, done["decisions"].made) == (6, 2)
    assert (done["examples"].merged, done["examples"].made) == (0, 0)
    assert len(table.uris()) == 2
    assert table.read().sort("offset").equals(before)


def test_the_online_learner_does_not_see_it(lake: Lake, loop: Loop, rows: Rows) -> None:
    """It has learned those rows already; and rows it has not reached yet are still there."""
    lake.create(loop)
    table = lake.table(loop.loop, "examples")
    first = table.append(rows("examples", 2), swaps=[])
    table.append(rows("examples", 2, offset=2), swaps=[])
    compact(lake, loop.loop)
    table.append(rows("examples", 2, offset=4), swaps=[])
    tailed = table.commits_since(first)
    assert [table.rows(commit)["offset"].to_list() for commit in tailed] == [[2, 3], [4, 5]]


def test_a_writer_goes_on_from_its_old_handle(lake: Lake, loop: Loop, rows: Rows) -> None:
    """Compaction is another process, any time."""
    lake.create(loop)
    table = lake.table(loop.loop, "decisions")
    for number in range(3):
        table.append(
            rows("decisions", 1, offset=number),
            swaps=[CompareAndSwap("offset/0", number or None, number + 1)],
        )
    compact(lake, loop.loop)
    table.append(rows("decisions", 1, offset=3), swaps=[CompareAndSwap("offset/0", 3, 4)])
    assert sorted(table.read()["offset"]) == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_writer_and_a_compaction_at_once_lose_nothing(lake: Lake, loop: Loop, rows: Rows) -> None:
    """Neither waits for the other; the log settles who was first."""
    lake.create(loop)
    table = lake.table(loop.loop, "decisions")
    commits = 12

    def write() -> None:
        for number in range(commits):
            swap = CompareAndSwap("offset/0", number or None, number + 1)
            table.append(rows("decisions", 1, offset=number), swaps=[swap])

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            compact_table(lake, loop.loop, "decisions")
        writing.result()
    assert sorted(table.read()["offset"]) == list(range(commits))
    tailed = [table.rows(commit)["offset"].to_list() for commit in table.commits_since(0)]
    assert tailed == [[number] for number in range(commits)]


def test_maintenance_waits_until_there_is_something_to_merge(
    lake: Lake, loop: Loop, rows: Rows
) -> None:
    """It is asked every few minutes, and rewrites files only when it pays."""
    lake.create(loop)
    table = lake.table(loop.loop, "feedback")
    for number in range(4):
        table.append(rows("feedback", 1, offset=number), swaps=[])
    assert maintain(lake, loop.loop, files=3) == []
    (done,) = maintain(lake, loop.loop, files=2)
    assert (done.table, done.merged, done.made) == ("feedback", 4, 1)


def test_a_file_that_is_being_committed_is_not_taken_for_litter(
    tmp_path: Path, loop: Loop, rows: Rows
) -> None:
    """Files are there before the commit that names them; only old ones can be litter."""
    lake = Lake(LakeConfig(root=str(tmp_path)))
    lake.create(loop)
    table = lake.table(loop.loop, "decisions")
    table.append(rows("decisions", 1), swaps=[])
    folder = Path(table.uris()[0]).parent
    fresh, old = folder / "fresh.parquet", folder / "old.parquet"
    for path in (fresh, old):
        path.write_bytes(Path(table.uris()[0]).read_bytes())
    week = time.time() - 7 * 86_400
    os.utime(old, (week, week))
    done = compact_table(lake, loop.loop, "decisions")
    assert (fresh.exists(), old.exists(), done.removed) == (True, False, 1)
    assert table.read().height == 1


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.one_of(st.just("compact"), st.tuples(st.integers(0, 4), st.integers(0, 2))), max_size=12
    )
)
def test_rows_and_their_order_by_commit_survive_any_history(
    tmp_path_factory: pytest.TempPathFactory,
    loop: Loop,
    rows: Rows,
    steps: list[str | tuple[int, int]],
) -> None:
    """Appends of any size on any day, compactions in between: a tail sees each row once."""
    root = tmp_path_factory.mktemp("lake")
    lake = Lake(LakeConfig(root=str(root)))
    lake.create(loop)
    table = lake.table(loop.loop, "examples")
    sent, reached, seen = 0, table.version(), list[int]()
    for step in steps:
        if isinstance(step, str):
            compact_table(lake, loop.loop, "examples")
            continue
        count, day = step
        made = rows("examples", count, offset=sent, start=START + timedelta(days=day))
        table.append(made, swaps=[])
        sent += count
        for commit in table.commits_since(reached):
            seen += table.rows(commit)["offset"].to_list()
            reached = commit.version
    assert seen == list(range(sent))
    assert sorted(table.read()["offset"]) == list(range(sent))
