"""Which files of a table hold a row: found by the statistics of the log, then looked up."""

from collections.abc import Iterable
from datetime import datetime

import polars as pl
import pyarrow as pa

from tidemill.features.lake.lake import Table
from tidemill.features.lake.storage import lake_errors

RowLocation = tuple[int, int, datetime]
"""Partition, offset and event time of a row."""


def files_of(
    table: Table, places: Iterable[RowLocation], version: int
) -> dict[tuple[int, int], str]:
    """Return the file that holds each row, by (partition, offset), as a path below the lake.

    A row that is in several files is told with the first of them.

    Raises:
        LakeError: the lake cannot be read.
    """
    wanted = list(places)
    if not wanted:
        return {}
    with lake_errors(f"look into the files of {table.folder}", table.location.root):
        actions = pl.DataFrame(pa.table(table.handle(version).get_add_actions(flatten=True)))
        found: dict[tuple[int, int], str] = {}
        for path, inside in _candidates(actions, wanted):
            rows = pl.read_parquet(
                f"{table.location.root}/{table.folder}/{path}",
                columns=["partition", "offset"],
                storage_options=table.location.options,
                hive_partitioning=False,
            )
            held = rows.filter(pl.col("offset").is_in([offset for _, offset, _ in inside]))
            for place in held.iter_rows():
                if place in {(partition, offset) for partition, offset, _ in inside}:
                    found.setdefault(place, f"{table.folder}/{path}")
    return found


def _candidates(
    actions: pl.DataFrame, wanted: list[RowLocation]
) -> list[tuple[str, list[RowLocation]]]:
    """Return the files that may hold some of *wanted*, and which."""
    columns = ("path", "min.at", "max.at", "min.partition", "max.partition")
    found = []
    for path, first, last, low, high in actions.select(columns).iter_rows():
        inside = [
            place
            for place in wanted
            if (first is None or first <= place[2] <= last)
            and (low is None or low <= place[0] <= high)
        ]
        if inside:
            found.append((path, inside))
    return found
