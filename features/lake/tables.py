"""One Delta table of the lake: rows and progress in one atomic commit, and reading it back.

It knows no loop and no meaning of a number. Which columns there are is told by `layouts.py`; small
files are merged in `compaction.py`.

Delivery: exactly once for whoever names its progress. A commit compares every `CompareAndSwap` with the
snapshot it is made from, and the log refuses it if another writer moved one of them since: that is
the fence. After an error of unknown outcome the log is read back, for the commit's own id.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from uuid import uuid4

import deltalake.exceptions
import polars as pl
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.transaction import AddAction

from tidemill.errors import FencedError, LakeError
from tidemill.features.lake.commits import (
    COMMIT_ID,
    Commit,
    CompareAndSwap,
    remove_files,
    write_files,
)
from tidemill.features.lake.handles import Handle, LakeLocation, open_table
from tidemill.features.lake.layouts import PARTITION, fitted, undated
from tidemill.features.lake.storage import lake_errors

BATCH_ROWS = 100_000
CHECKPOINT_EVERY = 10  # commits; each commit replays the log from the last checkpoint on
CLEANED_EVERY = 100  # commits between two looks for expired entries, each at the whole log
_ATTEMPTS = 5  # a commit loses a race that is no fence (a schema grew) this often at most


class Table:
    """One Delta table, with the handle it was last seen through. Safe to share among threads."""

    def __init__(self, place: LakeLocation, folder: str) -> None:
        """Open the table in *folder* of a lake."""
        self.folder = folder
        self.place = place
        self._root = place.root
        self._options = place.options
        self._storage = place.storage
        self._uri = f"{place.root}/{folder}"
        self._lock = threading.RLock()
        self._handle = Handle(place, folder)

    @property
    def schema(self) -> pl.Schema:
        """The columns, as last seen."""
        return self._handle.schema

    def progress(self, app_ids: Iterable[str], version: int | None = None) -> dict[str, int | None]:
        """Return the number of each of *app_ids*; None where there is none.

        They are of one snapshot: the newest, read afresh, unless *version* names another.
        """
        with self._lock, self._errors("read the progress"):
            if version is not None:
                opened = self._open(version)
                return {app_id: opened.transaction_version(app_id) for app_id in app_ids}
            self._handle.refresh()
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
    ) -> int:
        """Commit the rows of *frame* and all *swaps* at once and return the new version.

        Without rows the commit only moves the numbers. `event_date` is made from `at`; columns
        and struct fields of newer loop versions may be absent.

        Raises:
            FencedError: a swap expects another number than the table has, or lost the race.
            LakeError: the storage refuses; nothing of the commit is visible, unless it says so.
            ValueError: *frame* does not fit the table.
        """
        with self._lock, self._errors("commit"):
            self._compare(swaps)
            if not swaps and (frame is None or frame.is_empty()):
                return self._handle.version
            commit_id = uuid4().hex
            actions = self._write(frame, commit_id)
            told = {COMMIT_ID: commit_id, **(metadata or {})}
            return self._commit(actions, swaps, told)

    def read(
        self,
        columns: Sequence[str] | None = None,
        where: pl.Expr | None = None,
        version: int | None = None,
    ) -> pl.DataFrame:
        """Return the rows that fulfil *where*, of the newest version unless another is named.

        Files whose date or statistics rule them out are not opened. Rows come in no order.
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
        """Yield the rows that fulfil *where*, about *rows* at a time, in no order.

        Never are all of them in memory.
        """
        with self._errors("read"):
            found = self.scan()
            if where is not None:
                found = found.filter(where)
            if columns is not None:
                found = found.select(columns)
            yield from found.collect_batches(chunk_size=rows, maintain_order=False)

    def scan(self, version: int | None = None) -> pl.LazyFrame:
        """Return a query over one version, the newest by default; it stays at that version."""
        with self._errors("read"):
            return pl.scan_delta(self._open(version))

    def uris(self, version: int | None = None) -> list[str]:
        """Return the addresses of the Parquet files of a version, for readers of other kinds."""
        with self._lock, self._errors("list the files"):
            if version is not None:
                return sorted(self._open(version).file_uris())
            self._handle.refresh()
            return sorted(self._handle.delta.file_uris())

    def commits_since(self, version: int) -> list[Commit]:
        """Return every commit after *version* that moved rows or numbers in, oldest first.

        Compactions only rearrange rows and are left out.

        Raises:
            LakeError: the log no longer goes back to *version* (see TIDEMILL_LAKE_KEEP).
        """
        with self._lock, self._errors("read the log"):
            self._handle.refresh()
            return [commit for _, commit in self._handle.commits(version) if commit is not None]

    def rows(self, commit: Commit) -> pl.DataFrame:
        """Return the rows one commit added, in the order they were written."""
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
        return pl.concat(parts)

    def handle(self, version: int | None = None) -> DeltaTable:
        """Return a `DeltaTable` of its own at one version, for engines that take one."""
        with self._errors("open"):
            return self._open(version)

    def _open(self, version: int | None = None) -> DeltaTable:
        return open_table(self.place, self.folder, version)

    def _errors(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return lake_errors(f"{doing} ({self.folder})", self._root)

    def _compare(self, swaps: Sequence[CompareAndSwap]) -> None:
        """Check *swaps* on the handle; a handle that is merely behind is brought up first."""
        if self._mismatch(swaps):
            self._handle.refresh()
            wrong = self._mismatch(swaps)
            if wrong:
                raise self._fence(*wrong)

    def _mismatch(
        self, swaps: Sequence[CompareAndSwap]
    ) -> tuple[CompareAndSwap, int | None] | None:
        for swap in swaps:
            found = self._handle.number(swap.app_id)
            if found != swap.expected:
                return swap, found
        return None

    def _fence(self, swap: CompareAndSwap, found: int | None) -> FencedError:
        return FencedError(
            f"{self.folder}: {swap.app_id} is at {found}, this worker expected {swap.expected}",
            hint="another worker has taken over; drop this one's state and read the progress anew",
        )

    def _write(self, frame: pl.DataFrame | None, name: str) -> list[AddAction]:
        if frame is None or frame.is_empty():
            return []
        try:
            rows = fitted(frame, undated(self.schema))
        except ValueError:  # the loop may have grown since this handle was opened
            self._handle.refresh()
            rows = fitted(frame, undated(self.schema))
        return write_files(self._storage, self.folder, rows, self.schema, name)

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
                    post_commithook_properties=_hooks(delta.version() + 1),
                )
            except (OSError, deltalake.exceptions.DeltaError) as error:
                landed = self._read_back(before, metadata[COMMIT_ID], error)
                if landed is not None:
                    return landed
                self._refused(actions, swaps, error, is_last=attempt + 1 == _ATTEMPTS)
            else:
                self._handle.refresh()
                landed = self._handle.find(before, metadata[COMMIT_ID])
                self._thin_checkpoints(landed)
                return landed
        raise AssertionError("the last attempt returns or raises")

    def _thin_checkpoints(self, version: int) -> None:
        """Remove old checkpoints but for one in ten: each names all files of a whole `keep`.

        Those of the last hundred commits stay, for whoever is about to read one, and so do all if
        the log begins later than the hundred before: the versions there need one of them. What is
        not removed now is in nobody's way, and expires.
        """
        first = version - 2 * CLEANED_EVERY
        if version % CLEANED_EVERY or first < 0:
            return
        log = f"{self.folder}/_delta_log"
        with contextlib.suppress(OSError):
            self._storage.read(f"{log}/{first:020d}.json")
            for old in range(first, version - CLEANED_EVERY):
                if (old + 1) % CLEANED_EVERY and (old + 1) % CHECKPOINT_EVERY == 0:
                    self._storage.remove(f"{log}/{old:020d}.checkpoint.parquet")

    def _read_back(self, before: int, commit_id: str, error: Exception) -> int | None:
        """Return the version of our commit if it landed in spite of *error*."""
        try:
            self._handle.refresh()
            return self._handle.find(before, commit_id)
        except LookupError:
            return None
        except (OSError, LakeError, deltalake.exceptions.DeltaError) as second:
            raise LakeError(
                f"{self.folder}: a commit failed ({error}) and it cannot be told if it landed",
                hint="start again once the storage answers: the progress it names is the truth",
            ) from second

    def _refused(
        self,
        actions: Sequence[AddAction],
        swaps: Sequence[CompareAndSwap],
        error: Exception,
        *,
        is_last: bool,
    ) -> None:
        """Decide after a commit that did not land: return to try again, or raise."""
        is_race = isinstance(error, deltalake.exceptions.CommitFailedError)
        wrong = self._mismatch(swaps)
        if is_race and not wrong and not is_last:
            return
        if is_race or "://" not in self._root:  # a late PUT to S3 may still name them
            paths = [action.path for action in actions]
            remove_files(self._storage, self.folder, paths)
        if wrong:
            raise self._fence(*wrong) from error
        raise error


def _hooks(version: int) -> PostCommitHookProperties:
    """Return what is done after a commit: seldom a look for expired entries, as the table says."""
    due = version % CLEANED_EVERY == 0
    return PostCommitHookProperties(cleanup_expired_logs=None if due else False)
