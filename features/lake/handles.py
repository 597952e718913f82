"""Handles: open a Delta table and follow it from version to version.

A handle caches the progress numbers and the columns of its version, because `deltalake` takes a
millisecond per number and a worker compares dozens in every commit. It reads the commits of other
writers from the log and updates the cache.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import deltalake.exceptions
import polars as pl
from deltalake import DeltaTable

from tidemill.errors import LakeError
from tidemill.features.lake.commits import COMMIT_ID, Commit, read_commit
from tidemill.features.lake.layouts import to_polars
from tidemill.features.lake.storage import Storage

_FOLLOWED = 32  # commits of others since the last refresh; beyond, the cache is cleared


@dataclass(frozen=True, slots=True)
class LakeLocation:
    """Where a lake is: its root, the options of its storage, and its small files."""

    root: str
    options: dict[str, str] | None
    storage: Storage


class OpenedTable(DeltaTable):
    """A Delta table whose file addresses can be opened, also with blanks in them."""

    def file_uris(self, *args: object, **kwargs: object) -> list[str]:
        """Return the addresses of the files; deltalake percent-encodes local paths."""
        uris: list[str] = super().file_uris(*args, **kwargs)  # type: ignore[arg-type]
        is_remote = any("://" in uri for uri in uris[:1])
        return uris if is_remote else [unquote(uri) for uri in uris]


def open_table(location: LakeLocation, folder: str, version: int | None = None) -> DeltaTable:
    """Return the table in *folder* at *version*, the newest by default.

    Raises:
        LakeError: there is no such table.
    """
    uri = f"{location.root}/{folder}"
    try:
        return OpenedTable(uri, version=version, storage_options=location.options)
    except deltalake.exceptions.TableNotFoundError as error:
        raise unknown(folder, location.root) from error
    except deltalake.exceptions.DeltaError as error:
        raise LakeError(
            f"the table {folder} cannot be opened: {error}",
            hint="see what it has lost: tidemill audit",
        ) from error


def unknown(what: str, root: str) -> LakeError:
    """Return the error for a table or loop that the lake does not have."""
    return LakeError(
        f"the lake at {root} has no {what}",
        hint="start a worker for the loop first, or check TIDEMILL_LAKE",
    )


class Handle:
    """One table, followed from version to version. Not thread-safe."""

    def __init__(self, location: LakeLocation, folder: str) -> None:
        self._location = location
        self._folder = folder
        self.delta = open_table(location, folder)
        self._numbers: dict[str, int | None] = {}
        self._schema: tuple[str, pl.Schema] | None = None

    @property
    def version(self) -> int:
        """The version of the last refresh."""
        return self.delta.version()

    @property
    def schema(self) -> pl.Schema:
        """The columns of that version."""
        schema = self.delta.schema()
        text = schema.to_json()  # Schema does not define equality
        if self._schema is None or self._schema[0] != text:
            self._schema = (text, to_polars(schema))
        return self._schema[1]

    def number(self, app_id: str) -> int | None:
        """Return the number at *app_id* in that version."""
        if app_id not in self._numbers:
            self._numbers[app_id] = self.delta.transaction_version(app_id)
        return self._numbers[app_id]

    def refresh(self) -> None:
        """Advance to the newest version."""
        before = self.version
        try:
            self.delta.update_incremental()
        except deltalake.exceptions.DeltaError:  # the log no longer reaches back: open again
            self.delta = open_table(self._location, self._folder)
        self._follow(before)

    def find(self, before: int, commit_id: str) -> int:
        """Return the version after *before* that was made by the commit *commit_id*.

        Raises:
            LookupError: there is none; the commit was not written.
        """
        for version, commit in self.commits(before):
            if commit is not None and commit.metadata.get(COMMIT_ID) == commit_id:
                return version
        raise LookupError(commit_id)

    def commits(self, before: int) -> Iterator[tuple[int, Commit | None]]:
        """Yield each version after *before* with its commit, up to the current version."""
        for version in range(before + 1, self.version + 1):
            yield version, self._read(version)

    def _follow(self, before: int) -> None:
        """Update the cached numbers of version *before* from the commits since, or clear them."""
        moved: dict[str, int] = {}
        if self.version - before <= _FOLLOWED:
            with contextlib.suppress(LakeError):
                for _, commit in self.commits(before):
                    moved |= commit.numbers if commit is not None else {}
                self._numbers |= moved
                return
        self._numbers.clear()

    def _read(self, version: int) -> Commit | None:
        try:
            return read_commit(self._location.storage, self._folder, version)
        except FileNotFoundError as error:
            raise LakeError(
                f"the log of {self._folder} no longer has version {version}",
                hint="the reader is further behind than the log reaches: start it from a full read",
            ) from error
