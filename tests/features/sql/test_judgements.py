"""Whose label a row has follows from where the versions of its loop took its partition over."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.features.conftest import START

from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.lake.progress_keys import NOTHING_CLOSED
from tidemill.features.sql.judgements import ALL_ROWS, comparable_rows
from tidemill.features.sql.views import open_duckdb
from tidemill.schemas.loop.definition import Loop

SECONDS = pl.DataFrame(
    {
        "partition": [0] * 4 + [1] * 4,
        "at": [START + timedelta(seconds=second) for second in (0, 9, 10, 20)] * 2,
        "revision": [0, 1, 0, 1] * 2,
    },
    schema_overrides={"partition": pl.Int32, "revision": pl.Int32},
)
OTHER = {"sql": "count(*) > 1"}


def at(second: int) -> int:
    """Return a time in microseconds."""
    return int(START.timestamp() + second) * 1_000_000


def version(loop: Loop, number: int, **changes: object) -> Loop:
    """Return another version of *loop*."""
    return Loop.model_validate(loop.model_dump(mode="json") | {"version": number} | changes)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake."""
    return Lake(LakeConfig(root=str(tmp_path)))


def record(lake: Lake, loop: Loop, begins: Mapping[str, int]) -> None:
    """Record where versions begin, by version and partition."""
    swaps = [CompareAndSwap(f"begin/{key}", None, value) for key, value in begins.items()]
    lake.table(loop.loop, EXAMPLES).append(None, swaps=swaps)


def counted(lake: Lake, loop: Loop) -> list[tuple[int, int]]:
    """Return partition and second of the rows whose label counts; DuckDB and Polars agree."""
    rows = comparable_rows(lake, loop)
    by_polars = SECONDS.filter(rows.expr())
    connection = open_duckdb()
    connection.register("seconds", SECONDS.to_arrow())
    by_duckdb = connection.sql(f"FROM seconds WHERE {rows.sql()}").fetchall()
    assert sorted(by_duckdb) == sorted(by_polars.rows())
    others = SECONDS.filter(rows.other_expr())
    assert sorted(connection.sql(f"FROM seconds WHERE {rows.other_sql()}").fetchall()) == sorted(
        others.rows()
    )
    return [(number, int((when - START).total_seconds())) for number, when, _ in by_polars.rows()]


def test_a_loop_of_one_version_has_no_conditions(lake: Lake, loop: Loop) -> None:
    """As most loops are: nothing is read, and no query becomes slower."""
    lake.create(loop)
    assert comparable_rows(lake, loop) is ALL_ROWS
    assert len(counted(lake, loop)) == len(SECONDS)


def test_a_partition_changes_its_label_where_a_version_took_it_over(lake: Lake, loop: Loop) -> None:
    """Exactly at the frontier: that decision was still open."""
    second = version(loop, 2, label=OTHER)
    for each in (loop, second):
        lake.create(each)
    begins = {"1/0": NOTHING_CLOSED, "1/1": NOTHING_CLOSED, "2/0": at(10)}
    record(lake, loop, begins)
    assert counted(lake, second) == [(0, 10), (0, 20)]
    assert counted(lake, loop) == [(0, 0), (0, 9), *((1, s) for s in (0, 9, 10, 20))]


def test_versions_of_one_label_are_learned_together_and_told_apart(lake: Lake, loop: Loop) -> None:
    """Corrections, grace and features do not change what a label means."""
    second = version(loop, 2, corrections="1h", grace="9m")
    third = version(loop, 3, label=OTHER)
    for each in (loop, second, third):
        lake.create(each)
    begins = {"1/0": NOTHING_CLOSED, "1/1": NOTHING_CLOSED}
    record(lake, loop, begins | {"2/0": at(9), "2/1": at(10), "3/0": at(20), "3/1": at(20)})
    assert counted(lake, second) == [(n, s) for n in (0, 1) for s in (0, 9, 10)]
    rows = comparable_rows(lake, second)
    assert [span.name for span in rows.spans] == ["version 1", "version 2"] * 2
    assert [span.name for span in rows.others] == ["version 3"] * 2


def test_rows_of_an_older_release_count_if_every_version_they_may_be_of_has_the_label(
    lake: Lake, loop: Loop
) -> None:
    """It recorded no beginnings, so the doubt is named and not guessed away."""
    second, third = version(loop, 2), version(loop, 3, label=OTHER)
    lake.create(loop)
    lake.create(second)
    assert len(counted(lake, second)) == len(SECONDS)
    [span, _] = comparable_rows(lake, second).spans
    assert span.name == "version 1 or 2"
    lake.create(third)
    assert counted(lake, second) == []
    assert counted(lake, third) == []


def test_a_row_that_a_later_label_has_corrected_counts_for_neither(lake: Lake, loop: Loop) -> None:
    """Its decision was closed by one label and its newest revision is by another."""
    first, second = version(loop, 1, corrections="1h"), version(loop, 2, label=OTHER)
    corrected = version(loop, 3, label=OTHER, corrections="1h")
    for each in (first, second):
        lake.create(each)
    begins = {"1/0": NOTHING_CLOSED, "1/1": NOTHING_CLOSED, "2/0": at(10), "2/1": at(10)}
    record(lake, loop, begins)
    assert counted(lake, first) == [(0, 0), (0, 9), (1, 0), (1, 9)]
    lake.create(corrected)
    record(lake, loop, {"3/0": at(20), "3/1": at(20)})
    assert counted(lake, first) == [(0, 0), (1, 0)], "the rows at 9 are revisions"
    assert counted(lake, corrected) == [(0, 10), (0, 20), (1, 10), (1, 20)]


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"corrections": "1h"}, True),
        ({"grace": "5m", "remember": "2h", "description": "other"}, True),
        ({"label": {"sql": "count(*) > 0", "missing": "censored"}}, False),
        ({"label": {"sql": "count(*)", "type": "float"}, "gate": {"metric": "mse"}}, False),
        ({"label": {"sql": "count(*) > 0", "depends_on": "action"}}, False),
        ({"activation": "clicked"}, False),
        ({"feedback": {"clicked": {"within": "11m", "early": "5s"}}}, False),
    ],
)
def test_the_label_digest_is_of_what_a_label_depends_on(
    loop: Loop, changes: dict[str, object], is_same: bool
) -> None:
    """Windows of the kinds it counts are part of it, corrections are not."""
    assert (version(loop, 2, **changes).label_digest == loop.label_digest) == is_same
