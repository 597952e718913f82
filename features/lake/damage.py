"""Damage: what the log of a table names and the storage no longer has as it was, in words.

A lake is damaged by what removes its files: a hand, a lifecycle rule of a bucket, a broken disk.
The log says which rows a lost file held, so that they can be restored from the topics.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote

import deltalake.exceptions
import duckdb
import polars as pl
import pyarrow as pa

from tidemill.errors import LakeError, TidemillError
from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.storage import StoredFile

_LOG = "_delta_log"
_SHOWN = 20  # lost files in an error
_COMMIT_S = 1.0  # a worker commits a file that it has written long before that
_LIBRARIES = (
    OSError,
    deltalake.exceptions.DeltaError,
    duckdb.Error,
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
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
            raise LakeError("\n  ".join(lines), hint=_hint(found)) from error
        raise


def _hint(found: Sequence[str]) -> str:
    """Return what to do: rows can be put back; a table whose log is damaged cannot be repaired."""
    loops = sorted({line.split("/", 1)[0] for line in found})
    if not any(f"/{_LOG} " in line or "cannot be opened" in line for line in found):
        commands = "; ".join(f"tidemill lake repair {name}" for name in loops)
        return f"put the rows back from the topics: {commands} (docs/howto/repair-a-lake.md)"
    return (
        "put the files back from a backup, or read the topics once more into a new lake: "
        f"tidemill lake replay {loops[0]} --into OTHER (docs/howto/restore-a-lake.md)"
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
        f"{folder}/{file.path} is {file.what}, with {file.rows:,} rows: {file.places}"
        for file in lost_files(lake, table)
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


@dataclass(frozen=True, slots=True)
class LostFile:
    """A data file that is not as it was committed: its path in its table, and what it held."""

    path: str
    what: str
    rows: int
    places: str


def lost_files(lake: Lake, table: Table) -> Iterator[LostFile]:
    """Yield each file of the newest version of *table* that is gone or cut off.

    Raises:
        LakeError: the storage does not answer.
    """
    present: dict[str, dict[str, StoredFile]] = {}
    for row in _committed(table).iter_rows(named=True):
        path, size = unquote(row["path"]), row["size_bytes"]
        folder, _, file = path.rpartition("/")
        if folder not in present:
            present[folder] = lake.storage.files(f"{table.folder}/{folder}".rstrip("/"))
        found = present[folder].get(file)
        if found is None:
            yield LostFile(path, "gone", row["num_records"], _places(row))
        elif found.size != size:
            what = f"cut to {found.size:,} of {size:,} bytes"
            yield LostFile(path, what, row["num_records"], _places(row))


def _committed(table: Table) -> pl.DataFrame:
    """Return the files of the newest version of *table*, with their statistics."""
    return pl.DataFrame(pa.table(table.handle().get_add_actions(flatten=True)))


def uncommitted_files(table: Table) -> list[str]:
    """Return a sentence for each file that is newer than the newest commit, which has it not.

    Its writer was killed before its commit, or the newest commit was taken away.
    """
    return [_uncommitted(table, path) for path in uncommitted_paths(table)]


def uncommitted_paths(table: Table) -> list[str]:
    """Return the paths of these files in their table, sorted."""
    if not _behind_the_log(table):
        return []
    time.sleep(_COMMIT_S)  # a running worker commits what it has written
    return _behind_the_log(table)


def _behind_the_log(table: Table) -> list[str]:
    storage, folder = table.location.storage, table.folder
    found = {}
    for name in ("", *(each for each in storage.names(folder) if "=" in each)):
        below = f"{name}/" if name else ""
        for file, stored in storage.files(f"{folder}/{name}".rstrip("/")).items():
            found[f"{below}{file}"] = stored  # before the log is read: it names what came meanwhile
    entries = storage.files(f"{folder}/{_LOG}").items()
    newest_ms = max(each.modified_ms for name, each in entries if name.endswith(".json"))
    newer = {
        path
        for path, stored in found.items()
        if path.endswith(".parquet") and stored.modified_ms > newest_ms
    }
    return sorted(newer - set(map(unquote, _committed(table)["path"])))


def _uncommitted(table: Table, path: str) -> str:
    address = f"{table.location.root}/{table.folder}/{path}"
    frame = pl.scan_parquet(address, storage_options=table.location.options)
    ends = [
        function(name).alias(f"{side}.{name}")
        for side, function in (("min", pl.min), ("max", pl.max))
        for name in ("partition", "offset", "at")
    ]
    (row,) = frame.select(pl.len().alias("rows"), *ends).collect().to_dicts()
    return f"{table.folder}/{path} is of no commit, with {row['rows']:,} rows: {_places(row)}"


def _places(row: dict[str, object]) -> str:
    """Return where the rows of a lost file came from, as far as its statistics say."""
    spans = []
    for title, name in (("partitions", "partition"), ("offsets", "offset"), ("times", "at")):
        low, high = row.get(f"min.{name}"), row.get(f"max.{name}")
        if low is not None:
            spans.append(f"{title} {low} to {high}")
    return ", ".join(spans) or "the log has no statistics of them"
