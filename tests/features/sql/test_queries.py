"""`tidemill sql` reads the lake and can do nothing else."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tidemill.errors import RequestError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.sql.queries import ask
from tidemill.schemas.loop.definition import Loop

Rows = Callable[..., pl.DataFrame]


@pytest.fixture
def filled(tmp_path: Path, loop: Loop, rows: Rows) -> Lake:
    """A lake with three decisions."""
    lake = Lake(LakeConfig(root=str(tmp_path / "lake")))
    lake.create(loop)
    lake.table(loop.loop, "decisions").append(rows("decisions", 3), swaps=[])
    return lake


def test_an_answer_has_columns_and_at_most_so_many_rows(filled: Lake) -> None:
    """A terminal is no place for a million rows."""
    answer = ask(filled, 'SELECT id, "offset" AS o FROM decisions ORDER BY o', limit=2)
    assert answer.columns == ("id", "o")
    assert list(answer.records()) == [{"id": "0-0", "o": 0}, {"id": "0-1", "o": 1}]
    assert answer.is_cut
    assert not ask(filled, "FROM decisions", limit=3).is_cut


@pytest.mark.parametrize(
    "statement",
    [
        "COPY decisions TO '{root}/stolen.parquet'",
        "INSERT INTO decisions SELECT * FROM decisions",
        "DROP VIEW decisions",
        "CREATE TABLE t AS FROM decisions",
        "SET enable_external_access = true",
        "ATTACH '{root}/x.db'",
        "EXPLAIN ANALYZE COPY decisions TO '{root}/stolen.parquet'",
        "SELECT 1; DROP VIEW decisions",
        "",
    ],
)
def test_nothing_but_one_select_is_run(filled: Lake, statement: str) -> None:
    """Whoever may ask is not thereby one who may write."""
    with pytest.raises(RequestError, match="only a single SELECT"):
        ask(filled, statement.format(root=filled.root), limit=1)
    assert not Path(filled.root, "stolen.parquet").exists()


def test_files_outside_of_the_lake_cannot_be_read(filled: Lake, tmp_path: Path) -> None:
    """A query may come from a web form one day."""
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(RequestError, match="Cannot access file"):
        ask(filled, f"FROM read_csv('{secret}')", limit=1)


def test_a_mistake_in_the_query_is_told_with_a_hint(filled: Lake) -> None:
    """The views' names are the first thing anyone gets wrong."""
    with pytest.raises(RequestError, match="desicions") as caught:
        ask(filled, "FROM desicions", limit=1)
    assert "SHOW ALL TABLES" in caught.value.hint
