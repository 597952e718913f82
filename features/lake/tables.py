"""One Delta table of the lake: write rows and progress numbers in one atomic commit, and read them.

Delivery: exactly once for a writer that swaps its progress number. A commit compares every
`CompareAndSwap` with the snapshot it is based on, and Delta's log refuses it if another writer has
moved one of the numbers since: that is the fence. After an error with an unknown outcome the log is
searched for the id of the commit.

Longer than 300 lines because a table, its commits and its fence are one class.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from uuid import uuid4

import deltalake.exceptions
import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.transaction import AddAction

from tidemill.errors import FencedError, LakeError
from tidemill.features.lake.commits import (
    COMMIT_ID,
    Commit,
    CompareAndSwap,
    has_undated,
    remove_files,
    write_files,
)
from tidemill.features.lake.handles import Handle, LakeLocation, open_table
from tidemill.features.lake.layouts import PARTITION, dated, fitted, undated
from tidemill.features.lake.log_retention import commit_hooks, thin_checkpoints
from tidemill.features.lake.storage import lake_errors

BATCH_ROWS = 100_000
_ATTEMPTS = 5  # of a commit that loses a race without a mismatch, say to a new column


class Table:
    """One Delta table, followed from version to version. Safe to share among threads."""

    def __init__(self, location: LakeLocation, folder: str) -> None:
        """Open the table in *folder* of a lake."""
        self.folder = folder
        self.location = location
        self._root = location.root
        self._options = location.options
        self._storage = location.storage
        self._uri = f"{location.root}/{folder}"
        self._lock = threading.RLock()
        with self._errors("open"):
            self._handle = Handle(location, folder)

    @property
    def schema(self) -> pl.Schema:
        """The columns of the version that was read last."""
        return self._handle.schema

    @property
    def version_read(self) -> int:
        """The version that was read last; `version` returns the newest."""
        return self._handle.version

    def progress(self, app_ids: Iterable[str], version: int | None = None) -> dict[str, int | None]:
        """Return the number at each of *app_ids* (see `progress_keys`); None where there is none.

        All are of one snapshot: the newest, unless *version* names another.
        """
        with self._lock, self._errors("read the progress"):
            if version is None:
                self._handle.refresh()
            elif version != self._handle.version:
                opened = self._open(version)
                return {app_id: opened.transaction_version(app_id) for app_id in app_ids}
            return {app_id: self._handle.number(app_id) for app_id in app_ids}

    def version(self) -> int:
        """Return the newest version."""
        with self._lock, self._errors("read the version"):
            self._handle.refresh()
            return self._handle.version

    def append(
        self,
        frame: pl.DataFrame | None,
        *,
        swaps: Sequence[CompareAndSwap],
        metadata: Mapping[str, str] | None = None,
        is_new: bool = True,
    ) -> int:
        """Commit the rows of *frame* and all *swaps* at once and return the new version.

        Without rows the commit only moves the numbers. `event_date` is computed from `at`. Columns
        and struct fields of newer loop versions may be absent. Rows that are not *is_new* were
        lost and are put back: readers of commits, say a learner, pass over them.

        Raises:
            FencedError: a swap expects another number than the table has, or lost the race.
            LakeError: the storage refuses; nothing of the commit is visible, unless the error says
                that this is unknown.
            ValueError: *frame* does not fit the table.
        """
        with self._lock, self._errors("commit"):
            self._compare(swaps)
            if not swaps and (frame is None or frame.is_empty()):
                return self._handle.version
            commit_id = uuid4().hex
            actions = self._write(frame, commit_id, is_new=is_new)
            return self._commit(actions, swaps, {COMMIT_ID: commit_id, **(metadata or {})})

    def read(
        self,
        columns: Sequence[str] | None = None,
        where: pl.Expr | None = None,
        version: int | None = None,
    ) -> pl.DataFrame:
        """Return the rows for which *where* is true, of the newest version unless another is named.

        Files that their date or their statistics exclude are not opened. Rows have no order.
        """
        with self._errors("read"):
            rows = self.scan(version)
            if where is not None:
                rows = rows.filter(where)
            return (rows if columns is None else rows.select(columns)).collect()

    def batches(
        self,
        columns: Sequence[str] | None = None,
        where: pl.Expr | None = None,
        *,
        rows: int = BATCH_ROWS,
    ) -> Iterator[pl.DataFrame]:
        """Yield the rows for which *where* is true, about *rows* at a time, in no order.

        They are never all in memory.
        """
        with self._errors("read"):
            query = self.scan()
            if where is not None:
                query = query.filter(where)
            if columns is not None:
                query = query.select(columns)
            yield from query.collect_batches(chunk_size=rows, maintain_order=False)

    def scan(self, version: int | None = None) -> pl.LazyFrame:
        """Return a query over one version, the newest by default, that stays at that version."""
        with self._errors("read"):
            delta = self._open(version)
            rows = pl.scan_delta(delta)
            if not has_undated(delta.file_uris()):
                return rows
            date = pl.col(PARTITION)
            # two queries, so that a filter by date still skips the files of other dates
            return pl.concat([rows.filter(date.is_not_null()), dated(rows.filter(date.is_null()))])

    def uris(self, version: int | None = None) -> list[str]:
        """Return the addresses of the Parquet files of a version, for other engines."""
        with self._lock, self._errors("list the files"):
            if version is None:
                self._handle.refresh()
            is_read = version is None or version == self._handle.version
            opened = self._handle.delta if is_read else self._open(version)
            return sorted(opened.file_uris())

    def committed_ms(self) -> int:
        """Return when the version that was read last was committed, in ms since 1970."""
        with self._lock, self._errors("read the log"):
            return int(self._handle.delta.history(1)[0]["timestamp"])

    def commits_since(self, version: int) -> list[Commit]:
        """Return every commit after *version* that added rows or moved numbers, oldest first.

        Compactions only rearrange rows and are left out.

        Raises:
            LakeError: the log no longer reaches back to *version* (see TIDEMILL_LAKE_KEEP).
        """
        with self._lock, self._errors("read the log"):
            self._handle.refresh()
            return [commit for _, commit in self._handle.commits(version) if commit is not None]

    def rows(self, commit: Commit) -> pl.DataFrame:
        """Return the rows that *commit* added, in the order in which they were written."""
        with self._errors(f"read commit {commit.version}"):
            schema = self.schema
            if not commit.files:
                return pl.DataFrame(schema=schema)
            hive = {PARTITION: pl.Date()} if PARTITION in schema else None
            parts = [
                fitted(
                    pl.read_parquet(
                        f"{self._root}/{file}",
                        hive_partitioning=hive is not None,
                        hive_schema=hive,
                        storage_options=self._options,
                    ),
                    schema,
                )
                for file in commit.files
            ]
        return dated(pl.concat(parts))

    def handle(self, version: int | None = None) -> DeltaTable:
        """Return a new `DeltaTable` at one version, for engines that take one."""
        with self._errors("open"):
            return self._open(version)

    def _open(self, version: int | None = None) -> DeltaTable:
        return open_table(self.location, self.folder, version)

    def _errors(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return lake_errors(f"{doing} ({self.folder})", self._root)

    def _compare(self, swaps: Sequence[CompareAndSwap]) -> None:
        """Check *swaps* at the newest version; refresh the handle only if one does not match."""
        if self._mismatch(swaps):
            self._handle.refresh()
            mismatch = self._mismatch(swaps)
            if mismatch:
                raise self._fence(*mismatch)

    def _mismatch(
        self, swaps: Sequence[CompareAndSwap]
    ) -> tuple[CompareAndSwap, int | None] | None:
        for swap in swaps:
            number = self._handle.number(swap.app_id)
            if number != swap.expected:
                return swap, number
        return None

    def _fence(self, swap: CompareAndSwap, number: int | None) -> FencedError:
        return FencedError(
            f"{self.folder}: {swap.app_id} is at {number}, this worker expected {swap.expected}",
            hint="another worker has taken over; drop this one's state and read the progress again",
        )

    def _write(self, frame: pl.DataFrame | None, name: str, *, is_new: bool) -> list[AddAction]:
        if frame is None or frame.is_empty():
            return []
        try:
            rows = fitted(frame, undated(self.schema))
        except ValueError:  # a loop version may have added columns since
            self._handle.refresh()
            rows = fitted(frame, undated(self.schema))
        return write_files(self._storage, self.folder, rows, self.schema, name, is_new=is_new)

    def _commit(
        self, actions: list[AddAction], swaps: Sequence[CompareAndSwap], metadata: dict[str, str]
    ) -> int:
        numbers = [Transaction(swap.app_id, swap.new) for swap in swaps]
        properties = CommitProperties(custom_metadata=metadata, app_transactions=numbers)
        before = self._handle.version
        for attempt in range(_ATTEMPTS):
            try:
                delta = self._handle.delta
                delta.create_write_transaction(
                    list(actions),
                    "append",
                    delta.schema(),
                    partition_by=delta.metadata().partition_columns,
                    commit_properties=properties,
                    post_commithook_properties=commit_hooks(delta.version() + 1),
                )
            except (OSError, deltalake.exceptions.DeltaError) as error:
                landed = self._read_back(before, metadata[COMMIT_ID], error)
                if landed is not None:
                    return landed
                self._refused(actions, swaps, error, is_last=attempt + 1 == _ATTEMPTS)
            else:
                self._handle.refresh()
                landed = self._handle.find(before, metadata[COMMIT_ID])
                thin_checkpoints(self._storage, self.folder, landed)
                return landed
        raise AssertionError("the last attempt returns or raises")

    def _read_back(self, before: int, commit_id: str, error: Exception) -> int | None:
        """Return the version of our commit if it was written in spite of *error*."""
        try:
            self._handle.refresh()
            return self._handle.find(before, commit_id)
        except LookupError:
            return None
        except (OSError, LakeError, deltalake.exceptions.DeltaError) as second:
            raise LakeError(
                f"{self.folder}: a commit failed ({error}); it is unknown whether it was written",
                hint="start again once the storage answers: its progress shows what was written",
            ) from second

    def _refused(
        self,
        actions: Sequence[AddAction],
        swaps: Sequence[CompareAndSwap],
        error: Exception,
        *,
        is_last: bool,
    ) -> None:
        """Decide after a commit that was not written: return to try again, or raise."""
        is_race = isinstance(error, deltalake.exceptions.CommitFailedError)
        mismatch = self._mismatch(swaps)
        if is_race and not mismatch and not is_last:
            return
        if is_race or "://" not in self._root:  # on S3 a delayed PUT may still refer to them
            paths = [action.path for action in actions]
            remove_files(self._storage, self.folder, paths)
        if mismatch:
            raise self._fence(*mismatch) from error
        raise error
