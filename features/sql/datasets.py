"""Training sets: the features that were logged with decisions, and their labels.

A training set is one DuckDB query over one version of `examples`, with Arrow as the result. That
table has closed decisions only, so every label is final, or the newest revision if it was
corrected. Rows without a label (censored, dropped, not activated) are left out, and so are rows
that a version of the loop with another label has judged (`judgements.py`).
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import polars as pl
import pyarrow as pa

from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.layouts import EXAMPLES, layouts
from tidemill.features.sql.backfills import complete_table
from tidemill.features.sql.judgements import comparable_rows
from tidemill.features.sql.views import duck_type, newest_examples, open_duckdb, quoted
from tidemill.schemas.loop.definition import Loop

BESIDES = ("action", "label", "at", "decision_id")  # features cannot have these names
PROPENSITY, SOURCE, BASELINE = "_propensity", "_source", "_baseline"  # nor begin like these
PARTITION, OFFSET, POSITION = "_partition", "_offset", "_position"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Labelled rows to train on, oldest first.

    *table* has the features of the loop as columns, then `action`, `label`, `at` and `decision_id`,
    then `_propensity` (of the action; in a ranking of its first), `_source` and `_baseline`. They
    are ordered by (at, decision_id). The same *version* of `examples` gives the same rows again.

    Where requests bring items, there is a row for each item that was shown. Its features come after
    those of the loop, `_propensity` is its own, and `_partition`, `_offset` and `_position` say of
    which decision it is, and at which position it was shown. The rows of a decision are ordered by
    these positions.
    """

    table: pa.Table
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

    They are of the live table, or of a complete *backfill*; *version* is of that table. Of the live
    table, rows of another label are taken from the backfill that made their labels anew, or left
    out if there is none.

    Raises:
        LakeError: the lake cannot be read, or has no such backfill.
    """
    connection, condition = open_duckdb(), _condition(since, until)
    if backfill is None:
        query, pinned = _comparable(connection, lake, loop, condition, version)
    else:
        made = complete_table(lake, loop.loop, backfill)
        query, pinned = _query(connection, made, loop, condition, version)
    by_position = "" if loop.decision.items is None else f", {POSITION}"
    query += f' ORDER BY "at", decision_id{by_position}'
    table = connection.sql(query).to_arrow_table()
    return TrainingSet(table=table, features=tuple(loop.model_features), version=pinned)


def _comparable(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    loop: Loop,
    condition: str,
    version: int | None,
) -> tuple[str, int]:
    """Return the query of the rows whose label means what that of *loop* means; see `_query`."""
    rows = comparable_rows(lake, loop)
    live = lake.table(loop.loop, EXAMPLES)
    query, pinned = _query(connection, live, loop, f"{condition} AND {rows.sql()}", version)
    if rows.backfill is not None:
        made = complete_table(lake, loop.loop, rows.backfill)
        anew, _ = _query(connection, made, loop, f"{condition} AND {rows.other_sql()}", None)
        query += f" UNION ALL {anew}"
    return query, pinned


def _query(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    loop: Loop,
    condition: str,
    version: int | None,
) -> tuple[str, int]:
    """Return the query of the rows of *table* under *condition*, and the version it reads."""
    examples = newest_examples(connection, table, loop, version)
    features = _features(table, loop, "features")
    chances = _chances(table, loop)
    if loop.decision.items is not None:
        features += _features(table, loop, "item_features")
        chances += [f'"partition" AS {PARTITION}', f'"offset" AS {OFFSET}']
        chances += [f"position AS {POSITION}"]
        condition += " AND position IS NOT NULL"
    columns = ", ".join([*features, *map(quoted, BESIDES), *chances])
    return f"SELECT {columns} FROM {examples.sql} WHERE {condition}", examples.version


def _features(table: Table, loop: Loop, struct: str) -> list[str]:
    """Return the columns of the features; a backfill of an earlier version may lack new ones."""
    known, wanted = table.schema[struct], layouts(loop)[EXAMPLES][struct]
    if not (isinstance(known, pl.Struct) and isinstance(wanted, pl.Struct)):
        raise TypeError(f"the {struct} of {table.folder} are no struct but {known}")
    have = {each.name for each in known.fields}
    return [
        f"{struct}.{quoted(each.name)} AS {quoted(each.name)}"
        if each.name in have
        else f"NULL::{duck_type(each.dtype)} AS {quoted(each.name)}"
        for each in wanted.fields
    ]


def _chances(table: Table, loop: Loop) -> list[str]:
    """Return the columns that say by what chance an action was taken; null in older lakes."""
    propensity = "propensity"
    if loop.decision.items is not None:
        propensity = "item_propensity"
    elif loop.decision.type == "ranking":
        propensity = "propensities[1]" if "propensities" in table.schema else "NULL::DOUBLE"
    baseline = "baseline" if "baseline" in table.schema else "NULL"
    return [f"{propensity} AS {PROPENSITY}", f"source AS {SOURCE}", f"{baseline} AS {BASELINE}"]


def _condition(since: datetime | None, until: datetime | None) -> str:
    """Return the condition of labelled rows in time; the date lets files be skipped."""
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
