"""One commit of a Delta table: what moves with it, the files it adds, how the log tells it.

It knows how a commit reads in the log, not how it gets there: that is `lake.py`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import polars as pl
from deltalake.transaction import AddAction

from tidemill.features.lake.layouts import PARTITION, plain_arrow
from tidemill.features.lake.storage import Storage

COMMIT_ID = "tidemill.commit"  # our own name for a commit, to find it again after a lost answer
_STATISTICS = ("at", "partition", "offset", "ingested_at", "stream_time")


@dataclass(frozen=True, slots=True)
class CompareAndSwap:
    """Move the number of *app_id* from *expected* to *new*, or refuse the whole commit.

    None expects that the table has never seen *app_id*. Equal numbers only compare.
    """

    app_id: str
    expected: int | None
    new: int


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit that added rows or moved progress: its *files* below the root, and its numbers."""

    version: int
    files: tuple[str, ...]
    metadata: Mapping[str, str]
    numbers: Mapping[str, int]


def write_files(
    storage: Storage, folder: str, frame: pl.DataFrame, schema: pl.Schema, name: str
) -> list[AddAction]:
    """Write *frame* as one Parquet file a date below *folder* and return how to commit them.

    Tables whose *schema* has no date get one file. What has been written is removed again if a
    later file fails.
    """
    arrow = plain_arrow(schema)
    actions: list[AddAction] = []
    paths: list[str] = []
    try:
        for day, rows in _by_date(frame) if PARTITION in schema else [(None, frame)]:
            path = f"{PARTITION}={day.isoformat()}/{name}.parquet" if day else f"{name}.parquet"
            paths.append(path)
            size = storage.write_parquet(f"{folder}/{path}", rows, arrow)
            actions.append(_add_action(path, size, day, rows))
    except BaseException:
        remove_files(storage, folder, paths)
        raise
    return actions


def remove_files(storage: Storage, folder: str, paths: Sequence[str]) -> None:
    """Remove files that no commit names; what cannot be removed now is left to the vacuum."""
    for path in paths:
        try:
            storage.remove(f"{folder}/{path}")
        except OSError:
            return


def _by_date(frame: pl.DataFrame) -> list[tuple[date | None, pl.DataFrame]]:
    """Split *frame* by its event date, which files carry in their path and not as a column."""
    at = frame.get_column("at")
    if at.null_count():
        raise ValueError("a row without `at` cannot be kept: events always have a time")
    first, last = at.min(), at.max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return []
    if first.date() == last.date():
        return [(first.date(), frame)]
    dated = frame.with_columns(at.dt.date().alias(PARTITION))
    parts = dated.partition_by(PARTITION, maintain_order=True, include_key=False, as_dict=True)
    return [(day, rows) for (day,), rows in sorted(parts.items())]


def _add_action(path: str, size: int, day: date | None, rows: pl.DataFrame) -> AddAction:
    return AddAction(
        path=path,
        size=size,
        partition_values={PARTITION: day.isoformat()} if day else {},
        modification_time=int(datetime.now(UTC).timestamp() * 1000),
        data_change=True,
        stats=statistics(rows),
    )


def statistics(rows: pl.DataFrame) -> str:
    """Return the Delta statistics of one file as JSON, so that readers can leave it unopened."""
    columns = [rows.get_column(name) for name in _STATISTICS if name in rows.columns]

    def told(found: Mapping[str, object]) -> dict[str, object]:
        return {name: _json_value(value) for name, value in found.items() if value is not None}

    return json.dumps(
        {
            "numRecords": rows.height,
            "minValues": told({column.name: column.min() for column in columns}),
            "maxValues": told({column.name: column.max() for column in columns}),
            "nullCount": {column.name: column.null_count() for column in columns},
        }
    )


def _json_value(value: object) -> object:
    """Write times the way Delta does: UTC, to the microsecond."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return value


def read_commit(storage: Storage, folder: str, version: int) -> Commit | None:
    """Return the commit that made *version*, or None if it moved no rows in (a compaction).

    Raises:
        FileNotFoundError: the log does not go back that far, or not forward.
    """
    text = storage.read(f"{folder}/_delta_log/{version:020d}.json").decode()
    files: list[str] = []
    metadata: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for line in text.splitlines():
        match json.loads(line):
            case {"add": {"path": str(path), "dataChange": True}}:
                files.append(f"{folder}/{path}")
            case {"txn": {"appId": str(app_id), "version": int(number)}}:
                numbers[app_id] = number
            case {"commitInfo": {**info}}:
                told = ((str(key), value) for key, value in info.items())
                metadata = {key: value for key, value in told if isinstance(value, str)}
    return Commit(version, tuple(files), metadata, numbers) if files or numbers else None
