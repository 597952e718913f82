"""The file that holds a row: candidates by the statistics of the log, then a look into them."""

from collections.abc import Iterable
from datetime import datetime

import polars as pl
import pyarrow as pa

from tidemill.features.lake.lake import Table
from tidemill.features.lake.storage import lake_errors

RowLocation = tuple[int, int, datetime]
"""Partition, offset and event time of a row."""


def files_of(
    table: Table, locations: Iterable[RowLocation], version: int
) -> dict[tuple[int, int], str]:
    """Return, by (partition, offset), the file of each row as a path below the lake.

    Of several files with the same row it is the first.

    Raises:
        LakeError: the lake cannot be read.
    """
    wanted = list(locations)
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
            keys = {(partition, offset) for partition, offset, _ in inside}
            same_offset = pl.col("offset").is_in([offset for _, offset in keys])
            for key in rows.filter(same_offset).iter_rows():
                if key in keys:
                    found.setdefault(key, f"{table.folder}/{path}")
    return found


def _candidates(
    actions: pl.DataFrame, wanted: list[RowLocation]
) -> list[tuple[str, list[RowLocation]]]:
    """Return the files that may hold rows of *wanted*, each with these rows."""
    columns = ("path", "min.at", "max.at", "min.partition", "max.partition")
    found = []
    for path, first, last, low, high in actions.select(columns).iter_rows():
        inside = [
            (partition, offset, at)
            for partition, offset, at in wanted
            if (first is None or first <= at <= last) and (low is None or low <= partition <= high)
        ]
        if inside:
            found.append((path, inside))
    return found
