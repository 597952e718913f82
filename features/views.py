"""The lake as SQL: DuckDB views over all tables of all loops, each pinned to one version.

`connect(lake)` gives a schema per loop (``flight-delay`` becomes ``flight_delay``) with the views
`decisions`, `feedback`, `examples`, and two that tell what became of every record:
`decision_states` and `feedback_states`; and `examples_<name>` for each backfill that is complete.
`examples` has the newest revision of each, `example_revisions` all of them. It writes nothing and
knows no dashboard.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
from deltalake.fs import DeltaStorageHandler

from tidemill.features.backfills import completed, table_name, view_name
from tidemill.features.lake import Lake, Table
from tidemill.features.layouts import DECISIONS, EXAMPLES, FEEDBACK, PARTITION, plain_arrow
from tidemill.features.revisions import has_revisions, newest_sql
from tidemill.schemas.loop import Loop

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_DUCK_TYPES = {
    pl.String(): "VARCHAR",
    pl.Boolean(): "BOOLEAN",
    pl.Int32(): "INTEGER",
    pl.Int64(): "BIGINT",
    pl.Float64(): "DOUBLE",
    pl.Date(): "DATE",
    pl.Datetime("us", "UTC"): "TIMESTAMP WITH TIME ZONE",
    pl.Binary(): "BLOB",
}


@dataclass(frozen=True, slots=True)
class Source:
    """One version of a table as DuckDB reads it: a FROM item, and the version it is pinned to."""

    sql: str
    version: int


def schema_name(loop_name: str) -> str:
    """Return the schema that holds the views of a loop.

    >>> schema_name("flight-delay")
    'flight_delay'
    """
    return loop_name.replace("-", "_")


def source(
    connection: duckdb.DuckDBPyConnection, table: Table, version: int | None = None
) -> Source:
    """Return what to select from to read *version* of *table*, the newest by default.

    Local files are read by DuckDB itself. DuckDB's own S3 reader is an extension that cannot be
    had everywhere, so tables on S3 come as an Arrow dataset, registered under a name of its own.
    """
    handle = table.handle(version)
    found, uris = handle.version(), sorted(handle.file_uris())
    if not uris:
        return Source(f"({_empty(table.schema)})", found)
    if "://" in uris[0]:
        name = f"{table.folder}@{found}"
        connection.register(name, arrow_dataset(table, uris))
        return Source(quoted(name), found)
    columns = ", ".join(quoted(name) for name in table.schema)
    files = ", ".join(_literal(uri) for uri in uris)
    # By name costs a look into every file; only a version that added columns makes it necessary.
    by_name = str(_has_grown(table)).lower()
    read = f"read_parquet([{files}], hive_partitioning = true, union_by_name = {by_name})"
    return Source(f"(SELECT {columns} FROM {read})", found)


def _has_grown(table: Table) -> bool:
    """Return whether there may be files that lack columns of today."""
    loop_name = table.folder.split("/")[0]
    return sum(name.startswith("loop-") for name in table.place.storage.names(loop_name)) > 1


def arrow_dataset(table: Table, uris: Sequence[str]) -> "ds.Dataset":
    """Return files of *table* as an Arrow dataset, for engines that read such.

    deltalake's own dataset promises `column >= null` where the log has no bounds, and filters lose
    rows by it; this one promises the date and nothing else.
    """
    place = table.place
    import pyarrow.dataset as ds  # brings pandas, 50 MB: workers that only write do without

    files = pafs.PyFileSystem(DeltaStorageHandler(place.root, place.options))
    return ds.dataset(
        [uri.removeprefix(f"{place.root}/") for uri in uris],
        schema=plain_arrow(table.schema, partition=True),
        format="parquet",
        partitioning=ds.partitioning(pa.schema([(PARTITION, pa.date32())]), flavor="hive"),
        filesystem=files,
    )


def open_duckdb(*, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB in memory, set up for the lake: times in UTC, footers read once."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET parquet_metadata_cache = true")  # files of the lake never change
    connection.execute("SET enable_progress_bar = false")  # it would be printed into logs
    if threads is not None:
        connection.execute(f"SET threads = {threads}")
    return connection


def connect(lake: Lake, *, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Return a connection with the views of every loop in *lake*, as of now.

    If there is only one loop its views are at the top level too.

    Raises:
        LakeError: the lake cannot be read.
    """
    connection = open_duckdb(threads=threads)
    views(lake, [lake.loop(name) for name in lake.loops()], connection)
    return connection


def views(
    lake: Lake,
    loops: Iterable[Loop],
    connection: duckdb.DuckDBPyConnection,
    *,
    versions: Mapping[str, Mapping[str, int]] | None = None,
) -> None:
    """Make the views of *loops* on *connection*.

    *versions* pins tables, by loop and table name; what it leaves out is taken as of now.

    Raises:
        LakeError: the lake cannot be read.
    """
    named = list(loops)
    for loop in named:
        schema = quoted(schema_name(loop.loop))
        pinned = (versions or {}).get(loop.loop) or snapshot(lake, loop)
        queries = _queries(lake, loop, schema, connection, pinned)
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        for name, query in queries.items():
            connection.execute(f"CREATE OR REPLACE VIEW {schema}.{name} AS {query}")
        for name in queries if len(named) == 1 else ():
            connection.execute(f"CREATE OR REPLACE VIEW {name} AS FROM {schema}.{name}")


def _queries(
    lake: Lake,
    loop: Loop,
    schema: str,
    connection: duckdb.DuckDBPyConnection,
    versions: Mapping[str, int],
) -> dict[str, str]:
    tables = {name: lake.table(loop.loop, name) for name in versions}
    queries = {
        name: f"FROM {source(connection, table, versions[name]).sql}"
        for name, table in tables.items()
    }
    for name in completed(lake, loop.loop):
        again = lake.table(loop.loop, table_name(name))
        queries[view_name(name)] = f"FROM {source(connection, again).sql}"
    revised = has_revisions(tables[EXAMPLES], loop, versions[EXAMPLES])
    known = "*" if "revision" in tables[EXAMPLES].schema else "*, 0::INTEGER AS revision"
    queries["example_revisions"] = f"SELECT {known} {queries.pop(EXAMPLES)}"
    every = f"{schema}.example_revisions"
    queries[EXAMPLES] = f"FROM {newest_sql(every) if revised else every}"
    queries["frontiers"] = _frontiers(tables[EXAMPLES], loop, versions[EXAMPLES])
    queries["decision_states"] = decision_states(schema)
    queries["feedback_states"] = feedback_states(schema, loop, revised=revised)
    return queries


def newest_examples(
    connection: duckdb.DuckDBPyConnection, examples: Table, loop: Loop, version: int | None = None
) -> Source:
    """Return what to select from to read the newest revision of each example of *version*."""
    every = source(connection, examples, version)
    if not has_revisions(examples, loop, every.version):
        return every
    return Source(newest_sql(every.sql), every.version)


def snapshot(lake: Lake, loop: Loop) -> dict[str, int]:
    """Return versions of the tables of *loop* that fit together, by table name.

    `examples` is read first: each of its rows then has its decision and its feedback in the others,
    and whatever they have beyond its frontier is open.
    """
    return {name: lake.table(loop.loop, name).version() for name in (EXAMPLES, FEEDBACK, DECISIONS)}


def _frontiers(examples: Table, loop: Loop, version: int) -> str:
    """Return a query of one row a partition: up to which time its decisions are closed.

    *examined* is the offset up to which feedback may have corrected what is closed.
    """
    names = [(f"frontier/{n}", f"examined/{n}") for n in range(loop.partitions)]
    found = examples.progress([name for pair in names for name in pair], version)
    rows = ", ".join(
        f"({number}, {_number(found[frontier])}, {_number(found[examined])})"
        for number, (frontier, examined) in enumerate(names)
    )
    return (
        'SELECT "partition"::INTEGER AS "partition", make_timestamptz(micros::BIGINT) AS frontier,'
        " examined::BIGINT AS examined"
        f' FROM (VALUES {rows}) AS t("partition", micros, examined)'
    )


def _number(value: int | None) -> str:
    return "NULL" if value is None else str(value)


def decision_states(schema: str) -> str:
    """Return the query of what became of every decision record."""
    return f"""
        SELECT d.id, d.topic, d."partition", d."offset", d.at,
               coalesce(d.verdict, e.state, 'open') AS state, e.label, e.feedback_offsets,
               e.revision
        FROM {schema}.decisions d
        LEFT JOIN {schema}.examples e
          ON d.verdict IS NULL AND e."partition" = d."partition" AND e."offset" = d."offset"
    """


def joined_feedback(schema: str, *, revised: bool) -> str:
    """Return the query of which feedback is in an example, and since which revision.

    *revised* says whether there is any revision but the first.
    """
    if not revised:
        return f"""
            SELECT "partition", unnest(feedback_offsets) AS "offset", 0 AS revision
            FROM {schema}.examples"""
    return f"""
        SELECT "partition", "offset", min(revision) AS revision FROM (
            SELECT "partition", unnest(feedback_offsets) AS "offset",
                   coalesce(revision, 0) AS revision
            FROM {schema}.example_revisions
        ) GROUP BY ALL"""


def feedback_states(schema: str, loop: Loop, *, revised: bool = False) -> str:
    """Return the query of what became of every feedback record.

    A record that an example has joined is `corrected` if it came after the close and made a new
    revision. *revised* says whether there are any.

    A record that no example joined has a fate once its time is closed: it is a duplicate if a first
    decision could have taken it; late if an on-time decision of its id, no older than ids are
    remembered, is there; and unmatched otherwise.
    """
    windows = ", ".join(
        f"({_literal(name)}, {_interval(kind.early)}, {_interval(kind.within)})"
        for name, kind in loop.feedback.items()
    )
    close = _interval(loop.wait + loop.grace + loop.corrections)
    memory = _interval(max(loop.remember, loop.wait + loop.grace + loop.early))
    return f"""
        WITH windows(kind, early, within) AS (VALUES {windows}),
        joined AS ({joined_feedback(schema, revised=revised)}),
        hits AS (  -- on-time decisions of the record's id
            SELECT f."partition", f."offset",
                   bool_or(d.verdict IS NULL AND f.at BETWEEN d.at - w.early AND d.at + w.within
                           AND coalesce(f.stream_time <= d.at + {close}, true)) AS is_taken,
                   bool_or(d.at BETWEEN f.at - {memory} AND f.at + w.early) AS is_known
            FROM {schema}.feedback f
            JOIN {schema}.decisions d
              ON d."partition" = f."partition" AND d.id = f.decision_id
             AND (d.verdict IS NULL OR d.verdict = 'duplicate')
            JOIN windows w ON w.kind = f.kind
            WHERE f.verdict IS NULL
            GROUP BY ALL
        )
        SELECT f.id, f.decision_id, f.kind, f.at, f.topic, f."partition", f."offset",
               CASE WHEN f.verdict IS NOT NULL THEN f.verdict
                    WHEN j."offset" IS NOT NULL
                    THEN CASE WHEN j.revision = 0 THEN 'joined' ELSE 'corrected' END
                    WHEN coalesce(f.at + {_interval(loop.early)} >= p.frontier, true)
                      OR coalesce(f."offset" >= p.examined, false) THEN 'open'
                    WHEN h.is_taken THEN 'duplicate'
                    WHEN h.is_known THEN 'late'
                    ELSE 'unmatched' END AS state
        FROM {schema}.feedback f
        LEFT JOIN {schema}.frontiers p ON p."partition" = f."partition"
        LEFT JOIN joined j ON j."partition" = f."partition" AND j."offset" = f."offset"
        LEFT JOIN hits h ON h."partition" = f."partition" AND h."offset" = f."offset"
    """


def quoted(name: str) -> str:
    """Return *name* as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _interval(length: timedelta) -> str:
    return f"INTERVAL {length // timedelta(microseconds=1)} MICROSECONDS"


def _empty(schema: pl.Schema) -> str:
    columns = (f"NULL::{_duck_type(kind)} AS {quoted(name)}" for name, kind in schema.items())
    return f"SELECT {', '.join(columns)} WHERE false"


def _duck_type(kind: pl.DataType) -> str:
    match kind:
        case pl.List():
            return f"{_duck_type(_instance(kind.inner))}[]"
        case pl.Struct():
            inside = (f"{quoted(f.name)} {_duck_type(_instance(f.dtype))}" for f in kind.fields)
            return f"STRUCT({', '.join(inside)})"
    return _DUCK_TYPES[kind]


def _instance(kind: object) -> pl.DataType:
    """Return the type inside a list or struct, which Polars may give as a class."""
    if isinstance(kind, pl.DataType):
        return kind
    if isinstance(kind, type) and issubclass(kind, pl.DataType):
        return kind()
    raise TypeError(f"{kind!r} is no column type")
