"""Training sets: what was logged when decisions were made, and the label that came of them.

One DuckDB query over one version of `examples`, to Arrow. Only closed windows are in that table, so
no row is younger than its label; of an example that was corrected the newest revision counts;
rows whose label is null (censored, dropped, not activated) are left out. It
knows no learner.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.sql.backfills import complete_table
from tidemill.features.sql.views import newest_examples, open_duckdb, quoted
from tidemill.schemas.loop.definition import Loop

BESIDES = ("action", "label", "at", "decision_id")  # no feature can have these names
_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Rows to learn from, oldest first.

    *table* has the loop's features as columns, then `action`, `label`, `at` and `decision_id`,
    ordered by (at, decision_id). *version* of `examples` gives the same rows again: the newest
    revision of each example as of then.
    """

    table: pa.Table
    features: tuple[str, ...]
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatches:
    """The rows of a `TrainingSet` too large to hold at once, as a stream of Arrow batches."""

    reader: pa.RecordBatchReader
    features: tuple[str, ...]
    version: int


def training_set(
    lake: Lake,
    loop: Loop,
    *,
    version: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    backfill: str | None = None,
) -> TrainingSet:
    """Return the labelled examples of *loop* whose decision is in [*since*, *until*).

    They are the live ones, or those of a *backfill* that is complete; *version* is of its table.

    Raises:
        LakeError: the lake cannot be read, or has no such backfill.
    """
    connection = open_duckdb()
    examples = _examples(lake, loop, backfill)
    query, found = _query(connection, examples, loop, version, since, until)
    table = connection.sql(query).to_arrow_table()
    return TrainingSet(table=table, features=tuple(loop.features), version=found)


def training_batches(
    lake: Lake,
    loop: Loop,
    *,
    version: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    backfill: str | None = None,
    rows: int = _BATCH_ROWS,
) -> TrainingBatches:
    """Return what `training_set` returns, as batches of at most *rows* rows.

    Raises:
        LakeError: the lake cannot be read, or has no such backfill.
    """
    connection = open_duckdb()
    examples = _examples(lake, loop, backfill)
    query, found = _query(connection, examples, loop, version, since, until)
    reader = connection.sql(query).to_arrow_reader(rows)
    return TrainingBatches(reader=reader, features=tuple(loop.features), version=found)


def label_count(
    lake: Lake,
    loop: Loop,
    *,
    version: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> int:
    """Return how many rows `training_set` would hold."""
    connection = open_duckdb()
    examples = newest_examples(connection, lake.table(loop.loop, EXAMPLES), loop, version)
    row = connection.execute(
        f"SELECT count(*) FROM {examples.sql} WHERE {_condition(since, until)}"
    ).fetchone()
    return int(row[0]) if row else 0


def _examples(lake: Lake, loop: Loop, backfill: str | None) -> Table:
    if backfill is None:
        return lake.table(loop.loop, EXAMPLES)
    return complete_table(lake, loop.loop, backfill)


def _query(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    loop: Loop,
    version: int | None,
    since: datetime | None,
    until: datetime | None,
) -> tuple[str, int]:
    examples = newest_examples(connection, table, loop, version)
    features = [f"features.{quoted(name)} AS {quoted(name)}" for name in loop.features]
    columns = ", ".join([*features, *map(quoted, BESIDES)])
    return (
        f"SELECT {columns} FROM {examples.sql} WHERE {_condition(since, until)}"
        ' ORDER BY "at", decision_id',
        examples.version,
    )


def _condition(since: datetime | None, until: datetime | None) -> str:
    """Return the WHERE of labelled rows in time; the date lets whole files be left out."""
    parts = ["label IS NOT NULL"]
    if since is not None:
        parts += [f'"at" >= {_moment(since)}', f"event_date >= {_date(since)}"]
    if until is not None:
        parts += [f'"at" < {_moment(until)}', f"event_date <= {_date(until)}"]
    return " AND ".join(parts)


def _moment(at: datetime) -> str:
    if at.tzinfo is None:
        raise ValueError(f"{at} has no time zone; pass an aware datetime")
    return f"TIMESTAMPTZ '{at.isoformat()}'"


def _date(at: datetime) -> str:
    return f"DATE '{at.astimezone(UTC).date().isoformat()}'"
