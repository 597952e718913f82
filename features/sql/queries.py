"""One question to the lake in SQL, answered without any right to change anything.

The statement must be a single SELECT (`WITH`, `FROM`, `DESCRIBE`, `SHOW`, `SUMMARIZE` and `VALUES`
count as such), and DuckDB may open no file but those of the lake. It prints nothing.
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
        RequestError: *sql* is no single SELECT, or DuckDB refuses it.
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
                hint='see which views there are with: tidemill sql "SHOW ALL TABLES"',
            ) from error
        columns = tuple(column[0] for column in result.description or ())
    return QueryResult(columns, rows[:limit], is_cut=len(rows) > limit)


def _check(statements: Sequence[duckdb.Statement]) -> None:
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise RequestError(
            "only one SELECT can be asked; the lake is written by workers alone",
            hint="start the query with SELECT, WITH, FROM, DESCRIBE or SUMMARIZE",
        )


def _lock(connection: duckdb.DuckDBPyConnection, root: str) -> None:
    """Leave *connection* nothing but the lake's own files, for good."""
    if "://" not in root:
        connection.execute("SET allowed_directories = [$root]".replace("$root", _literal(root)))
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
