"""Read-only SQL queries over the lake.

A query must be a single SELECT (`WITH`, `FROM`, `DESCRIBE`, `SHOW`, `SUMMARIZE` and `VALUES` are
allowed), and DuckDB may open no files but those of the lake.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb

from tidemill.errors import RequestError
from tidemill.features.lake.lake import Lake
from tidemill.features.sql.views import connect


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The columns of a query and its first rows; *is_cut* if there are more."""

    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]
    is_cut: bool

    def records(self) -> Iterator[dict[str, object]]:
        """Return the rows as mappings by column name."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)


def ask(lake: Lake, sql: str, *, limit: int) -> QueryResult:
    """Run *sql* over the views of *lake* and return at most *limit* rows.

    Raises:
        RequestError: *sql* is not a single SELECT, or DuckDB refuses it.
        LakeError: the lake cannot be read.
    """
    with connect(lake) as connection:
        try:
            _check(connection.extract_statements(sql))
            _lock(connection, lake.root)
            result = connection.execute(sql)
            rows = result.fetchmany(limit + 1)
        except duckdb.Error as error:
            raise RequestError(
                f"DuckDB refuses the query: {error}",
                hint='list the views with: tidemill sql "SHOW ALL TABLES"',
            ) from error
        columns = tuple(column[0] for column in result.description or ())
    return QueryResult(columns, rows[:limit], is_cut=len(rows) > limit)


def _check(statements: Sequence[duckdb.Statement]) -> None:
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise RequestError(
            "only a single SELECT is allowed; workers alone write to the lake",
            hint="start the query with SELECT, WITH, FROM, DESCRIBE or SUMMARIZE",
        )


def _lock(connection: duckdb.DuckDBPyConnection, root: str) -> None:
    """Restrict *connection*, irrevocably, to the files of the lake."""
    if "://" not in root:
        connection.execute("SET allowed_directories = [$root]".replace("$root", _literal(root)))
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
