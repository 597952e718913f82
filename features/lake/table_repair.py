"""Repair of a table: what is left of it, lost rows put back, lost files taken out of its log.

The rows are put back before the files are taken out, so a repair that is interrupted can be
repeated: it finds in the files that are left what is there already.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import unquote

import polars as pl

from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.damage import LostFile, lost_files
from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.progress_keys import RESTORED
from tidemill.features.lake.storage import lake_errors


def surviving_rows(lake: Lake, table: Table, columns: Sequence[str]) -> pl.DataFrame:
    """Return *columns* of the rows of the newest version of *table* whose files are whole.

    Raises:
        LakeError: the storage does not answer.
    """
    gone = {file.path for file in lost_files(lake, table)}
    root = f"{table.location.root}/{table.folder}/"
    schema = pl.Schema({name: table.schema[name] for name in columns})
    with lake_errors(f"read what is left of {table.folder}", lake.root):
        parts = [
            pl.read_parquet(
                uri,
                columns=list(columns),
                hive_partitioning=False,
                storage_options=table.location.options,
            ).cast(schema)
            for uri in table.uris()
            if unquote(uri.removeprefix(root)) not in gone
        ]
    return pl.concat([pl.DataFrame(schema=schema), *parts])


def restored_rows(table: Table, partitions: Sequence[int]) -> dict[int, int | None]:
    """Return how many rows were put back so far, by partition: what `put_back` compares."""
    numbers = table.progress(RESTORED.key(number) for number in partitions)
    return {number: numbers[RESTORED.key(number)] for number in partitions}


def put_back(table: Table, rows: pl.DataFrame, known: Mapping[int, int | None]) -> None:
    """Commit *rows*, which readers of commits have had, unless another repair came before.

    *known* is what `restored_rows` returned before it was found out which rows are lost.

    Raises:
        FencedError: another repair has put rows back since.
        LakeError: the storage refuses.
    """
    counts = dict(rows.group_by("partition").len().iter_rows())
    swaps = [
        CompareAndSwap(RESTORED.key(number), known[number], (known[number] or 0) + count)
        for number, count in counts.items()
    ]
    if swaps:
        table.append(rows, swaps=swaps, is_new=False)


def take_out(lake: Lake, table: Table) -> list[LostFile]:
    """Take the files that are gone or cut off out of the log of *table*; return them.

    Raises:
        LakeError: the storage refuses.
    """
    lost = list(lost_files(lake, table))
    with lake_errors(f"take lost files out of {table.folder}", lake.root):
        for file in lost:
            lake.storage.remove(f"{table.folder}/{file.path}")  # what is left of one cut off
        if lost:
            table.handle().repair()
    return lost
