"""Revisions of examples: the newest row of each decision, or of each item that it has shown.

Rows of `examples` are never changed. A row of revision 0 is written when its decision closes; late
feedback adds a row with a higher revision. Readers want the newest. In a table without revisions,
as most are, they need not look for it.
"""

from collections.abc import Sequence

import polars as pl

from tidemill.features.lake.layouts import example_key
from tidemill.features.lake.progress_keys import REVISED
from tidemill.features.lake.tables import Table
from tidemill.schemas.loop.definition import Loop

FIRST = pl.col("revision").fill_null(0) == 0
"""True for rows that were written at the close; rows of earlier releases have no revision."""


def has_revisions(examples: Table, loop: Loop, version: int | None = None) -> bool:
    """Return whether *version* of the table, the newest by default, has any revision above 0.

    Raises:
        LakeError: the lake cannot be read.
    """
    numbers = examples.progress([REVISED.key(n) for n in range(loop.partitions)], version)
    return any(numbers.values())


def newest_sql(rows: str, key: Sequence[str]) -> str:
    """Return a FROM item with the newest revision of each example in the FROM item *rows*.

    *key* is the `example_key` of its columns.
    """
    return f"""(
        SELECT e.* FROM {rows} e WHERE NOT EXISTS (
            FROM {rows} newer
            WHERE newer.revision > 0 AND newer.revision > coalesce(e.revision, 0)
              AND {same_example_sql("newer", "e", key)}
        )
    )"""


def same_example_sql(one: str, other: str, key: Sequence[str]) -> str:
    """Return the condition that rows of *one* and of *other* are of the same example."""
    parts = [f'{one}."{name}" = {other}."{name}"' for name in key[:2]]
    parts += [f'{one}."{name}" IS NOT DISTINCT FROM {other}."{name}"' for name in key[2:]]
    return " AND ".join(parts)


def newest_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return the newest revision of each example in *rows*."""
    key = example_key(rows.collect_schema().names())
    newest = (
        rows.filter(pl.col("revision") > 0)
        .group_by(key)
        .agg(pl.col("revision").max().alias("newest"))
    )
    number = pl.col("revision").fill_null(0)
    return (
        rows.join(newest, on=key, how="left")
        .filter(number == pl.col("newest").fill_null(0))
        .drop("newest")
    )
