"""Names that DuckDB has taken, as DuckDB itself lists them.

The views of a loop are in a schema of its name, so a loop must not have the name of a database or
of a schema that is always there. A column whose name is a keyword has to be quoted in SQL.
"""

import re
from collections.abc import Iterable

import duckdb


def schema_name(loop_name: str) -> str:
    """Return the schema that holds the views of a loop.

    >>> schema_name("flight-delay")
    'flight_delay'
    """
    return loop_name.replace("-", "_")


def is_taken(connection: duckdb.DuckDBPyConnection, schema: str) -> bool:
    """Return whether DuckDB has a database or a schema called *schema* from the start."""
    rows = connection.execute(
        "SELECT database_name FROM duckdb_databases() "
        "UNION SELECT schema_name FROM duckdb_schemas()"
    ).fetchall()
    return schema.lower() in {str(name).lower() for (name,) in rows}


def unquoted_keywords(
    connection: duckdb.DuckDBPyConnection, sql: str, columns: Iterable[str]
) -> list[str]:
    """Return those of *columns* that *sql* names without quotes, and that SQL would misread."""
    rows = connection.execute(
        "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'"
    ).fetchall()
    keywords = {str(name).lower() for (name,) in rows}
    bare = re.sub(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""", " ", sql)
    words = set(re.findall(r"\w+", bare.lower()))
    return [name for name in columns if name in keywords & words]


def quoted(name: str) -> str:
    """Return *name* as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
