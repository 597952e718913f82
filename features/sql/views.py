"""The lake as SQL: DuckDB views over all tables of all loops, each pinned to one version.

`connect(lake)` makes a schema per loop (``flight-delay`` becomes ``flight_delay``) with the views
`decisions`, `feedback` and `examples`; `decision_states` and `feedback_states` with the state of
every record; `items` with each logged item, if decisions have some; and `examples_<name>` for each
complete backfill. `examples` has the newest revision
of each example, `example_revisions` has all.

Longer than 300 lines because the views of a loop are made of one another.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
from deltalake.fs import DeltaStorageHandler

from tidemill.errors import LakeError, TidemillError
from tidemill.features.lake.commits import has_undated, is_undated
from tidemill.features.lake.lake import GROWN, Lake, Table
from tidemill.features.lake.layouts import (
    DECISIONS,
    EXAMPLES,
    FEEDBACK,
    PARTITION,
    example_key,
    plain_arrow,
)
from tidemill.features.lake.layouts import duck_type as duck_type
from tidemill.features.sql.backfills import completed, table_name, view_name
from tidemill.features.sql.frontiers import examined_sql, frontiers_sql
from tidemill.features.sql.logged_items import items_sql
from tidemill.features.sql.positions import KAFKA_OFFSET, has_streams, offset_sql
from tidemill.features.sql.revisions import has_revisions, newest_sql
from tidemill.features.sql.states import decision_states, feedback_states
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.sql.names import quoted as quoted
from tidemill.schemas.loop.sql.names import schema_name as schema_name

if TYPE_CHECKING:
    import pyarrow.dataset as ds

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TableSource:
    """One version of a table for DuckDB: a FROM item, and the version it is pinned to."""

    sql: str
    version: int


def source(
    connection: duckdb.DuckDBPyConnection, table: Table, version: int | None = None
) -> TableSource:
    """Return the FROM item of *version* of *table*, the newest by default.

    DuckDB reads local files itself. Its S3 reader is an extension that is not available everywhere,
    so a table on S3 is registered as an Arrow dataset.
    """
    pinned = table.version() if version is None else version
    uris = table.uris(pinned)
    if not uris:
        return TableSource(f"({_empty(table.schema)})", pinned)
    if "://" in uris[0]:
        name = f"{table.folder}@{pinned}"
        connection.register(name, arrow_dataset(table, uris))
        read = quoted(name)
        parts = _with_dates(read, read) if has_undated(uris) else [f"FROM {read}"]
        return TableSource(f"({' UNION ALL '.join(parts)})", pinned)
    dated = [uri for uri in uris if not is_undated(uri)]
    undated = [uri for uri in uris if is_undated(uri)]
    parts = [f"SELECT * FROM {_read_parquet(table, dated)}"] if dated else []
    parts += [f"SELECT * {_DATED} FROM {_read_parquet(table, undated)}"] if undated else []
    if _has_grown(table):  # columns and fields that no file has yet
        parts.append(_empty(table.schema))
    columns = ", ".join(quoted(name) for name in table.schema)
    return TableSource(f"(SELECT {columns} FROM ({' UNION ALL BY NAME '.join(parts)}))", pinned)


_DATED = f'REPLACE (CAST("at" AS DATE) AS {PARTITION})'


def _with_dates(dated: str, undated: str) -> list[str]:
    """Return the two queries of a table with files of several dates, which have none of their own.

    They are two, so that a filter by date still skips the files of other dates.
    """
    return [
        f"SELECT * FROM {dated} WHERE {PARTITION} IS NOT NULL",
        f"SELECT * {_DATED} FROM {undated} WHERE {PARTITION} IS NULL",
    ]


def _read_parquet(table: Table, uris: Sequence[str]) -> str:
    files = ", ".join(_literal(uri) for uri in uris)
    # By name, every file is opened; only a version that added columns makes that necessary.
    by_name = str(_has_grown(table)).lower()
    return f"read_parquet([{files}], hive_partitioning = true, union_by_name = {by_name})"


def _has_grown(table: Table) -> bool:
    """Return whether files may lack columns of the newest version, or of this release."""
    names = table.location.storage.names(table.folder.split("/")[0])
    return GROWN in names or sum(name.startswith("loop-") for name in names) > 1


def arrow_dataset(table: Table, uris: Sequence[str]) -> "ds.Dataset":
    """Return files of *table* as an Arrow dataset, for engines that read one.

    deltalake's own dataset asserts `column >= null` where the log has no bounds, so filters lose
    rows; this dataset asserts only the date.
    """
    location = table.location
    import pyarrow.dataset as ds  # imports pandas, 50 MB, which workers do not need

    files = pafs.PyFileSystem(DeltaStorageHandler(location.root, location.options))
    return ds.dataset(
        [uri.removeprefix(f"{location.root}/") for uri in uris],
        schema=plain_arrow(table.schema, partition=True),
        format="parquet",
        partitioning=ds.partitioning(pa.schema([(PARTITION, pa.date32())]), flavor="hive"),
        filesystem=files,
    )


def open_duckdb(*, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB in memory with the settings for a lake: UTC, and cached footers."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET parquet_metadata_cache = true")  # files of the lake never change
    connection.execute("SET enable_progress_bar = false")  # it would be printed to logs
    if threads is not None:
        connection.execute(f"SET threads = {threads}")
    return connection


def connect(lake: Lake, *, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Return a connection with the views of every loop in *lake*, as of now.

    The views of an only loop are in the main schema too. A view that cannot be made is left out,
    with a warning.

    Raises:
        LakeError: no loop of the lake can be read.
    """
    connection = open_duckdb(threads=threads)
    names = lake.loops()
    for name in names:
        try:
            failures = _create(lake, lake.loop(name), connection, is_only=len(names) == 1)
        except TidemillError as error:
            if len(names) == 1:
                raise
            failures = [error]
        if failures:
            logger.warning("%s: %d views are left out. %s", name, len(failures), failures[0])
    return connection


def views(
    lake: Lake,
    loops: Iterable[Loop],
    connection: duckdb.DuckDBPyConnection,
    *,
    versions: Mapping[str, Mapping[str, int]] | None = None,
) -> None:
    """Create the views of *loops* on *connection*.

    *versions* pins tables by loop and table name; a loop that it lacks is read as of now.

    Raises:
        LakeError: the lake cannot be read, or a view cannot be made.
    """
    named = list(loops)
    for loop in named:
        pinned = (versions or {}).get(loop.loop)
        for failure in _create(lake, loop, connection, pinned, is_only=len(named) == 1):
            raise failure


def _create(
    lake: Lake,
    loop: Loop,
    connection: duckdb.DuckDBPyConnection,
    versions: Mapping[str, int] | None = None,
    *,
    is_only: bool,
) -> Sequence[TidemillError]:
    """Create the views of *loop*, in the main schema too if it *is_only*; return what failed."""
    schema = quoted(schema_name(loop.loop))
    queries = _queries(lake, loop, schema, connection, versions)
    statements = {
        name: [f"CREATE OR REPLACE VIEW {schema}.{name} AS {query}"]
        + ([f"CREATE OR REPLACE VIEW {name} AS FROM {schema}.{name}"] if is_only else [])
        for name, query in queries.items()
    }
    failures = []
    for name, listed in {"": [f"CREATE SCHEMA IF NOT EXISTS {schema}"], **statements}.items():
        try:
            for statement in listed:
                connection.execute(statement)
        except duckdb.Error as error:
            view = f"{schema_name(loop.loop)}.{name}".removesuffix(".")
            failures.append(
                LakeError(
                    f"there is no view {view}: {str(error).splitlines()[0]}",
                    hint="if DuckDB has that name for itself, publish the loop under another one",
                )
            )
    return failures


def _queries(
    lake: Lake,
    loop: Loop,
    schema: str,
    connection: duckdb.DuckDBPyConnection,
    versions: Mapping[str, int] | None,
) -> dict[str, str]:
    tables = open_tables(lake, loop)
    rows = row_queries(tables, loop, connection, versions or versions_of(tables), f"{schema}.")
    revised = rows.is_revised
    queries = dict(rows.queries)
    for name in completed(lake, loop.loop):
        again = lake.table(loop.loop, table_name(name))
        queries[view_name(name)] = f"FROM {source(connection, again).sql}"
    if loop.decision.items is not None:
        queries["items"] = items_sql(f"{schema}.decisions")
    queries["decision_states"] = decision_states(schema, loop)
    queries["feedback_states"] = feedback_states(schema, loop, revised=revised)
    return queries


@dataclass(frozen=True, slots=True)
class RowQueries:
    """The queries for the rows of a loop, by view, each after those that it reads.

    *is_revised* says whether any example has a revision above 0.
    """

    queries: Mapping[str, str]
    is_revised: bool


def row_queries(
    tables: Mapping[str, Table],
    loop: Loop,
    connection: duckdb.DuckDBPyConnection,
    versions: Mapping[str, int],
    prefix: str = "",
) -> RowQueries:
    """Return the queries for the rows and the frontiers of *loop*, at *versions* of its *tables*.

    With *prefix* before their names they read one another: the schema of views and a dot, or
    nothing, as in a WITH.

    Raises:
        LakeError: the lake cannot be read.
    """
    queries = {
        name: f"FROM {source(connection, table, versions[name]).sql}"
        for name, table in tables.items()
    }
    if has_streams(loop):
        queries[FEEDBACK] = f"SELECT *, {offset_sql()} AS {KAFKA_OFFSET} {queries[FEEDBACK]}"
    revised = has_revisions(tables[EXAMPLES], loop, versions[EXAMPLES])
    known = "*" if "revision" in tables[EXAMPLES].schema else "*, 0::INTEGER AS revision"
    queries["example_revisions"] = f"SELECT {known} {queries.pop(EXAMPLES)}"
    every = f"{prefix}example_revisions"
    key = example_key(tables[EXAMPLES].schema)
    queries[EXAMPLES] = f"FROM {newest_sql(every, key) if revised else every}"
    queries["frontiers"] = frontiers_sql(tables[EXAMPLES], loop, versions[EXAMPLES])
    queries["examined"] = examined_sql(tables[EXAMPLES], loop, versions[EXAMPLES])
    return RowQueries(queries, is_revised=revised)


def newest_examples(
    connection: duckdb.DuckDBPyConnection, examples: Table, loop: Loop, version: int | None = None
) -> TableSource:
    """Return the FROM item of the newest revision of each example of *version*."""
    every = source(connection, examples, version)
    if not has_revisions(examples, loop, every.version):
        return every
    return TableSource(newest_sql(every.sql, example_key(examples.schema)), every.version)


def open_tables(lake: Lake, loop: Loop) -> dict[str, Table]:
    """Return the tables of *loop* at versions that are consistent, by table name.

    The version of `examples` is read first. So the decision and the feedback of each of its rows
    are in the versions of the other tables, and what those have beyond its frontier is open.
    """
    return {name: lake.table(loop.loop, name) for name in (EXAMPLES, FEEDBACK, DECISIONS)}


def versions_of(tables: Mapping[str, Table]) -> dict[str, int]:
    """Return the version of each of *tables* that was read last."""
    return {name: table.version_read for name, table in tables.items()}


def snapshot(lake: Lake, loop: Loop) -> dict[str, int]:
    """Return consistent versions of the tables of *loop*, by table name; see `open_tables`."""
    return versions_of(open_tables(lake, loop))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _empty(schema: pl.Schema) -> str:
    columns = (f"NULL::{duck_type(kind)} AS {quoted(name)}" for name, kind in schema.items())
    return f"SELECT {', '.join(columns)} WHERE false"
