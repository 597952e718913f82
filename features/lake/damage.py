"""Damage of a lake: files that are gone or cut off, gaps in the log of a table, files of no commit.

It looks at the names and sizes of files and at the statistics that each commit has of its files, so
it can say which rows are concerned without the rows.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

import polars as pl

from tidemill.errors import LakeError
from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.layouts import TABLES
from tidemill.features.lake.storage import StoredFile
from tidemill.schemas.logs import offset_of

_LOG = "_delta_log"
_COMMIT_S = 1.0  # a worker that writes a file commits it long before that
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedFile:
    """One file of a table and its rows; *what* is wrong with it.

    The rows are of *day*, in the partitions and at the Kafka offsets from the first to the last.
    """

    path: str
    what: str
    rows: int
    day: date | None
    partitions: tuple[int, int]
    offsets: tuple[int, int]

    def __str__(self) -> str:
        low, high = self.partitions
        where = f"partition {low}" if low == high else f"partitions {low} to {high}"
        when = "" if self.day is None else f" of {self.day}"
        return (
            f"{self.path} is {self.what} ({self.rows:,} rows{when}, {where}, offsets "
            f"{self.offsets[0]} to {self.offsets[1]})"
        )


def check(lake: Lake, loop_name: str) -> None:
    """Look for damage of the tables of a loop.

    Raises:
        LakeError: a table cannot be read: it says which file, which rows, and how to get them back.
    """
    for name in TABLES:
        if not lake.storage.names(f"{loop_name}/{name}"):
            continue
        gaps = log_gaps(lake, f"{loop_name}/{name}")
        if gaps:
            raise LakeError(
                f"{loop_name}/{name}: its log has no commit {', '.join(map(str, gaps[:_SHOWN]))}, "
                "so nothing after it can be read",
                hint=f"restore {lake.root}/{loop_name}/{name}/{_LOG} from a copy; or "
                f"{replay_hint(loop_name)}",
            )
        damaged = list(damaged_files(lake.table(loop_name, name)))
        if damaged:
            first = "; ".join(map(str, damaged[:_SHOWN]))
            more = f"; and {len(damaged) - _SHOWN} more files" if len(damaged) > _SHOWN else ""
            numbers = {
                n for each in damaged for n in range(each.partitions[0], each.partitions[1] + 1)
            }
            raise LakeError(
                f"{loop_name}/{name}: {first}{more}",
                hint=f"restore it from a copy; or {replay_hint(loop_name, sorted(numbers))}",
            )


def replay_hint(loop_name: str, partitions: list[int] | None = None) -> str:
    """Return how the rows of *partitions*, of all if None, are made again from the topics."""
    chosen = "".join(f" --partition {number}" for number in partitions or ())
    return (
        "make the rows again from the topics, in a lake of its own: "
        f"`tidemill lake replay {loop_name} --into LAKE{chosen}`"
    )


def log_gaps(lake: Lake, folder: str) -> list[int]:
    """Return the versions that the log of a table lacks after its newest checkpoint."""
    names = lake.storage.names(f"{folder}/{_LOG}")
    versions = {int(name[:20]) for name in names if name.endswith(".json") and name[:20].isdigit()}
    checkpoints = [int(name[:20]) for name in names if ".checkpoint" in name and name[0] == "0"]
    first = max(checkpoints, default=-1) + 1
    return sorted(set(range(first, max(versions, default=-1) + 1)) - versions)


def damaged_files(table: Table) -> Iterator[DamagedFile]:
    """Yield the files of the newest version that are gone, or have another size than committed."""
    added = pl.DataFrame(table.handle().get_add_actions(flatten=True))
    stored = stored_files(table)
    for row in added.iter_rows(named=True):
        found = stored.get(row["path"])
        if found is None or found.size != row["size_bytes"]:
            what = "gone" if found is None else f"cut to {found.size} of {row['size_bytes']} bytes"
            yield _damaged(f"{table.folder}/{row['path']}", what, row)


def stored_files(table: Table) -> Mapping[str, StoredFile]:
    """Return the Parquet files below the folder of *table*, by path."""
    storage, folder = table.location.storage, table.folder
    found = {}
    for name in ("", *(each for each in storage.names(folder) if "=" in each)):
        below = f"{folder}/{name}" if name else folder
        for file, stored in storage.files(below).items():
            if file.endswith(".parquet"):
                found[f"{name}/{file}" if name else file] = stored
    return found


def uncommitted_files(table: Table) -> list[DamagedFile]:
    """Return the files that are newer than the newest commit, and that it does not name.

    Their writer was killed before its commit, or the newest commit was taken away.
    """
    if not _behind_the_log(table):
        return []
    time.sleep(_COMMIT_S)  # a running worker commits what it has written
    return [_uncommitted(table, path) for path in _behind_the_log(table)]


def _behind_the_log(table: Table) -> list[str]:
    found = stored_files(table)  # before the log: what is committed meanwhile is named there
    log = table.location.storage.files(f"{table.folder}/{_LOG}")
    newest_ms = max(each.modified_ms for name, each in log.items() if name.endswith(".json"))
    named = set(pl.DataFrame(table.handle().get_add_actions(flatten=True))["path"])
    newer = {path for path, stored in found.items() if stored.modified_ms > newest_ms}
    return sorted(newer - named)


def _uncommitted(table: Table, path: str) -> DamagedFile:
    address = f"{table.location.root}/{table.folder}/{path}"
    ends = [
        function(name).alias(f"{side}.{name}")
        for side, function in (("min", pl.min), ("max", pl.max))
        for name in ("partition", "offset")
    ]
    frame = pl.scan_parquet(address, storage_options=table.location.options)
    row = frame.select(pl.len().alias("num_records"), *ends).collect().row(0, named=True)
    day = path.partition("=")[2].partition("/")[0]
    row["partition.event_date"] = date.fromisoformat(day) if day else None
    return _damaged(f"{table.folder}/{path}", "of no commit", row)


def _damaged(path: str, what: str, row: Mapping[str, object]) -> DamagedFile:
    numbers = {name: value if isinstance(value, int) else 0 for name, value in row.items()}
    day = row.get("partition.event_date")
    return DamagedFile(
        path=path,
        what=what,
        rows=numbers["num_records"],
        day=day if isinstance(day, date) else None,
        partitions=(numbers.get("min.partition", 0), numbers.get("max.partition", 0)),
        offsets=(offset_of(numbers.get("min.offset", 0)), offset_of(numbers.get("max.offset", 0))),
    )
