"""Damage: what the log of a table names and the storage no longer has, in words for people.

A lake is damaged by what removes its files: a hand, a lifecycle rule of a bucket, a broken disk.
The log says which rows a lost file held, so that they can be restored from the topics.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

import deltalake.exceptions
import duckdb
import polars as pl
import pyarrow as pa

from tidemill.errors import LakeError, TidemillError
from tidemill.features.lake.lake import Lake, Table

_LOG = "_delta_log"
_SHOWN = 20  # lost files in an error
_LIBRARIES = (
    OSError,
    deltalake.exceptions.DeltaError,
    duckdb.Error,
    pl.exceptions.PolarsError,
)


@contextmanager
def damage_told(lake: Lake, *loop_names: str) -> Iterator[None]:
    """Turn an error of the block into one that names what the tables have lost, if they have.

    Raises:
        LakeError: a table of the loops (all of them by default) is damaged.
    """
    try:
        yield
    except (TidemillError, *_LIBRARIES) as error:
        found = [line for name in loop_names or lake.loops() for line in damage(lake, name)]
        if found:
            more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
            lines = [f"the lake at {lake.root} is damaged:", *found[:_SHOWN], *more]
            raise LakeError("\n  ".join(lines), hint=_HINT) from error
        raise


_HINT = (
    "put the files back from a backup, or read the topics once more into a new lake: "
    "tidemill lake replay LOOP --into OTHER (docs/howto/restore-a-lake.md)"
)


def damage(lake: Lake, loop_name: str) -> list[str]:
    """Return a sentence for each file that the tables of a loop have lost, and for each log.

    Raises:
        LakeError: the storage does not answer.
    """
    return [
        line for name in lake.table_names(loop_name) for line in _of_table(lake, loop_name, name)
    ]


def _of_table(lake: Lake, loop_name: str, name: str) -> list[str]:
    folder = f"{loop_name}/{name}"
    lost = _lost_versions(lake, folder)
    if lost:
        listed = ", ".join(f"{version:020}.json" for version in lost[:5])
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        return [f"{folder}/{_LOG} has lost {listed}{more}: the table cannot be read"]
    try:
        table = lake.table(loop_name, name)
    except LakeError as error:
        return [f"{folder} cannot be opened: {error.what}"]
    return [
        f"{folder}/{path} is gone, with {rows:,} rows: {held}"
        for path, rows, held in _lost_files(lake, table)
    ]


def _lost_versions(lake: Lake, folder: str) -> list[int]:
    """Return the versions that are missing in the log after the oldest one that it can need."""
    names = [name.partition(".") for name in lake.storage.names(f"{folder}/{_LOG}")]
    versions = {int(number) for number, _, kind in names if number.isdigit() and kind == "json"}
    checkpoints = [int(number) for number, _, kind in names if kind.startswith("checkpoint")]
    if not versions:
        return []
    first = max((at for at in checkpoints if at < max(versions)), default=-1)
    return sorted(set(range(first + 1, max(versions))) - versions)


def _lost_files(lake: Lake, table: Table) -> Iterator[tuple[str, int, str]]:
    """Yield path, number of rows and their places of each file that the storage does not have."""
    actions = pl.DataFrame(pa.table(table.handle().get_add_actions(flatten=True)))
    present: dict[str, set[str]] = defaultdict(set)
    for row in actions.iter_rows(named=True):
        path = unquote(row["path"])
        folder, _, file = path.rpartition("/")
        if folder not in present:
            present[folder] = set(lake.storage.names(f"{table.folder}/{folder}".rstrip("/")))
        if file not in present[folder]:
            yield path, row["num_records"], _places(row)


def _places(row: dict[str, object]) -> str:
    """Return where the rows of a lost file came from, as far as its statistics say."""
    spans = []
    for title, name in (("partitions", "partition"), ("offsets", "offset"), ("times", "at")):
        low, high = row.get(f"min.{name}"), row.get(f"max.{name}")
        if low is not None:
            spans.append(f"{title} {low} to {high}")
    return ", ".join(spans) or "the log has no statistics of them"
