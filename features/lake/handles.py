"""A Delta table at the version it was last seen at: the only place that opens one.

What a version says about progress, and its columns, are kept until the version changes: asking
`deltalake` again costs a millisecond a number, and a worker has dozens of them in every commit.
Other writers' commits are followed through the log, so it stays true beside them.
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

_FOLLOWED = 32  # commits of others since the last look; beyond, numbers are asked for anew


@dataclass(frozen=True, slots=True)
class LakeLocation:
    """Where a lake is: its root, the options that reach it, and its small files."""

    root: str
    options: dict[str, str] | None
    storage: Storage


class OpenedTable(DeltaTable):
    """A Delta table whose file addresses are paths that can be opened, blanks and all."""

    def file_uris(self, *args: object, **kwargs: object) -> list[str]:
        """Return the addresses of the files; deltalake writes local paths like URLs."""
        found: list[str] = super().file_uris(*args, **kwargs)  # type: ignore[arg-type]
        is_remote = any("://" in path for path in found[:1])
        return found if is_remote else [unquote(path) for path in found]


def open_table(place: LakeLocation, folder: str, version: int | None = None) -> DeltaTable:
    """Return the table in *folder* at *version*, the newest by default.

    Raises:
        LakeError: there is none.
    """
    uri = f"{place.root}/{folder}"
    try:
        return OpenedTable(uri, version=version, storage_options=place.options)
    except deltalake.exceptions.TableNotFoundError as error:
        raise unknown(folder, place.root) from error


def unknown(what: str, root: str) -> LakeError:
    """Return the error for a table or loop that is not there."""
    return LakeError(
        f"the lake at {root} has no {what}",
        hint="start a worker for the loop first, or check TIDEMILL_LAKE",
    )


class Handle:
    """One table, followed from version to version. Not for several threads at once."""

    def __init__(self, place: LakeLocation, folder: str) -> None:
        self._place = place
        self._folder = folder
        self.delta = open_table(place, folder)
        self._numbers: dict[str, int | None] = {}
        self._schema: tuple[str, pl.Schema] | None = None

    @property
    def version(self) -> int:
        """The version it was last seen at."""
        return self.delta.version()

    @property
    def schema(self) -> pl.Schema:
        """The columns of that version."""
        found = self.delta.schema()
        text = found.to_json()  # Schema has no equality of its own
        if self._schema is None or self._schema[0] != text:
            self._schema = (text, to_polars(found))
        return self._schema[1]

    def number(self, app_id: str) -> int | None:
        """Return the number of *app_id* at that version."""
        if app_id not in self._numbers:
            self._numbers[app_id] = self.delta.transaction_version(app_id)
        return self._numbers[app_id]

    def refresh(self) -> None:
        """Go on to the newest version."""
        before = self.version
        try:
            self.delta.update_incremental()
        except deltalake.exceptions.DeltaError:  # so far behind that the log is cut: start anew
            self.delta = open_table(self._place, self._folder)
        self._follow(before)

    def find(self, before: int, commit_id: str) -> int:
        """Return the version after *before* that the commit *commit_id* made.

        Raises:
            LookupError: there is none; the commit has not landed.
        """
        for version, commit in self.commits(before):
            if commit is not None and commit.metadata.get(COMMIT_ID) == commit_id:
                return version
        raise LookupError(commit_id)

    def commits(self, before: int) -> Iterator[tuple[int, Commit | None]]:
        """Yield each version after *before* with its commit, up to the version last seen."""
        for version in range(before + 1, self.version + 1):
            yield version, self._read(version)

    def _follow(self, before: int) -> None:
        """Let the numbers of version *before* follow the commits since, as far as the log goes."""
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
            return read_commit(self._place.storage, self._folder, version)
        except FileNotFoundError as error:
            raise LakeError(
                f"the log of {self._folder} no longer has version {version}",
                hint="it was further behind than the log is kept: start it from a full read",
            ) from error
