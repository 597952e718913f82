"""One commit of a Delta table: its swaps of numbers, its files, and its entry in the log.

`tables.py` writes commits.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import polars as pl
from deltalake.transaction import AddAction

from tidemill.features.lake.layouts import PARTITION, plain_arrow
from tidemill.features.lake.storage import Storage

COMMIT_ID = "tidemill.commit"  # the id of a commit, to find it after a lost answer
NO_DATE = "__HIVE_DEFAULT_PARTITION__"
"""What Hive, Delta and Arrow write in a path for a date that is null."""

OWN_FILES = 16  # the largest dates of a commit have files of their own
DATE_ROWS = 500  # so do dates with so many rows: the rows of a commit are bounded too
MOST_FILES = 256  # of one commit
_STATISTICS = ("at", "partition", "offset", "ingested_at", "stream_time")


@dataclass(frozen=True, slots=True)
class CompareAndSwap:
    """Move the number of *app_id* from *expected* to *new*, or refuse the whole commit.

    None expects that there is no number yet. Equal numbers only compare.
    """

    app_id: str
    expected: int | None
    new: int


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit that added rows or moved numbers; *files* are paths below the root."""

    version: int
    files: tuple[str, ...]
    metadata: Mapping[str, str]
    numbers: Mapping[str, int]


def write_files(
    storage: Storage,
    folder: str,
    frame: pl.DataFrame,
    schema: pl.Schema,
    name: str,
    *,
    is_new: bool = True,
) -> list[AddAction]:
    """Write *frame* below *folder*, one Parquet file per date; return the actions of the commit.

    Of many dates the large ones get files of their own, and the rest shares a file without a date
    (`split_by_date`). A table whose *schema* has no date gets one file. If one file fails, the
    earlier ones are removed. Readers of commits pass over rows that are not *is_new*.
    """
    arrow = plain_arrow(schema)
    actions: list[AddAction] = []
    paths: list[str] = []
    is_dated = PARTITION in schema
    try:
        for day, rows in split_by_date(frame) if is_dated else [(None, frame)]:
            path = f"{date_folder(day)}/{name}.parquet" if is_dated else f"{name}.parquet"
            paths.append(path)
            size = storage.write_parquet(f"{folder}/{path}", rows, arrow)
            values = {PARTITION: day.isoformat() if day else None} if is_dated else {}
            actions.append(_add_action(path, size, values, rows, is_new=is_new))
    except BaseException:
        remove_files(storage, folder, paths)
        raise
    return actions


def date_folder(day: date | None) -> str:
    """Return the folder of the files of *day*; None for those that have rows of several days."""
    return f"{PARTITION}={day.isoformat() if day else NO_DATE}"


def remove_files(storage: Storage, folder: str, paths: Sequence[str]) -> None:
    """Remove files of no commit; the vacuum removes those that cannot be removed now."""
    for path in paths:
        try:
            storage.remove(f"{folder}/{path}")
        except OSError:
            return


def is_undated(uri: str) -> bool:
    """Return whether the file at *uri* has rows of several dates."""
    return f"/{PARTITION}={NO_DATE}/" in uri


def has_undated(uris: Iterable[str]) -> bool:
    """Return whether one of the files at *uris* has rows of several dates."""
    return any(map(is_undated, uris))


def split_by_date(frame: pl.DataFrame) -> list[tuple[date | None, pl.DataFrame]]:
    """Split *frame* by its event date, which files have in their path and not as a column.

    The number of parts is bounded, whatever event times the rows have: a date with `DATE_ROWS` rows
    or more, and the `OWN_FILES` largest of all, have a part of their own; the others share one
    under None.

    Raises:
        ValueError: a row has no `at`.
    """
    at = frame.get_column("at")
    if at.null_count():
        raise ValueError("a row without `at` cannot be stored: events always have a time")
    first, last = at.min(), at.max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return []
    if first.date() == last.date():
        return [(first.date(), frame)]
    dated = frame.with_columns(at.dt.date().alias(PARTITION))
    is_own = pl.col(PARTITION).is_in(_own_dates(dated).implode())
    parts = dated.filter(is_own).partition_by(
        PARTITION, maintain_order=True, include_key=False, as_dict=True
    )
    found: list[tuple[date | None, pl.DataFrame]] = [
        (day, rows) for (day,), rows in sorted(parts.items())
    ]
    others = dated.filter(~is_own).drop(PARTITION)
    return [*found, (None, others)] if others.height else found


def _own_dates(dated: pl.DataFrame) -> pl.Series:
    """Return the dates that have a file of their own."""
    sizes = dated.group_by(PARTITION).len().sort("len", PARTITION, descending=[True, False])
    rank = pl.col("index")
    is_large = (pl.col("len") >= DATE_ROWS) | (rank < OWN_FILES)
    return sizes.with_row_index().filter(is_large & (rank < MOST_FILES - 1))[PARTITION]


def _add_action(
    path: str, size: int, values: Mapping[str, str | None], rows: pl.DataFrame, *, is_new: bool
) -> AddAction:
    return AddAction(
        path=path,
        size=size,
        partition_values=dict(values),
        modification_time=int(datetime.now(UTC).timestamp() * 1000),
        data_change=is_new,
        stats=statistics(rows),
    )


def statistics(rows: pl.DataFrame) -> str:
    """Return the Delta statistics of one file as JSON, by which readers skip files."""
    columns = [rows.get_column(name) for name in _STATISTICS if name in rows.columns]

    def known(values: Mapping[str, object]) -> dict[str, object]:
        return {name: _json_value(value) for name, value in values.items() if value is not None}

    return json.dumps(
        {
            "numRecords": rows.height,
            "minValues": known({column.name: column.min() for column in columns}),
            "maxValues": known({column.name: column.max() for column in columns}),
            "nullCount": {column.name: column.null_count() for column in columns},
        }
    )


def _json_value(value: object) -> object:
    """Return *value* as Delta writes it: a time in UTC, to the microsecond."""
    if isinstance(value, datetime):
        # strftime would write years below 1000 without zeros, which other readers take for others
        text = value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
        return f"{text}Z"
    return value


def read_commit(storage: Storage, folder: str, version: int) -> Commit | None:
    """Return the commit of *version*; None if it added no rows and moved no numbers.

    Raises:
        FileNotFoundError: the log has no such version, or no longer.
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
                metadata = {str(k): value for k, value in info.items() if isinstance(value, str)}
    return Commit(version, tuple(files), metadata, numbers) if files or numbers else None
