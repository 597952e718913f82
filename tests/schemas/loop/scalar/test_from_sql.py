"""What workers could not compute alike is refused, in words, when a person writes it."""

from collections.abc import Iterator

import duckdb
import pytest
from tests.schemas.loop.scalar.test_compiled import COLUMNS

from tidemill.errors import LoopError
from tidemill.schemas.loop.scalar.from_sql import parse_scalar


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose parser is used."""
    with duckdb.connect(":memory:") as opened:
        yield opened


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("price >", "is not SQL"),
        ("price > 1; drop table x", "is not SQL"),
        ("price > 1, visits", "more than one expression"),
        ("prize > 1", "no column"),
        ("country > 1", "where a text belongs"),
        ("member + 1 > 2", "where a number belongs"),
        ("lower(country) = 'ch'", "lower cannot be used"),
        ("country like 'C%'", "cannot be used"),
        ("random() > 0.5", "random cannot be used"),
        ("count(*) > 1", "cannot be used"),
        ("epoch(seen_at) > 1", "epoch cannot be used"),
        ("exists (select 1)", "cannot be used"),
        ("tags = tags", "lists are not compared"),
        ("tags < tags", "lists have no order"),
        ("seen_at > timestamptz '2026-01-01'", "no time with a zone"),
        ("cast(country as double) > 1", "a cast to double"),
        ("case when member then 1 else 'a' end", "number or text"),
        ("case when price then 1 else 2 end", "a condition of case"),
        ("round(price, 2) > 1", "given 2 arguments"),
        ("price > ?", "cannot be used"),
        ("(" * 101 + "price" + " + 1)" * 101 + " > 1", "deep"),
    ],
)
def test_what_workers_cannot_run_is_refused(
    sql: str, told: str, connection: duckdb.DuckDBPyConnection
) -> None:
    """It would be found out by a decision otherwise."""
    with pytest.raises(LoopError) as refused:
        parse_scalar(connection, sql, COLUMNS, "condition")
    assert told in str(refused.value)
    assert refused.value.hint
