"""Files of the lake by name, in a local folder or in an S3 bucket.

It writes the Parquet files of commits, reads entries of Delta logs, stores loop definitions, and
removes the files of refused commits. Everything else is done by `deltalake`, Polars and DuckDB.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import deltalake.exceptions
import polars as pl
import pyarrow as pa
from deltalake._internal import DeltaFileSystemHandler
from pydantic import BaseModel, ValidationError

from tidemill.errors import LakeError
from tidemill.private_folder import PRIVATE, make_private

_COMPRESSION: Final = "snappy"
"""For files that are written every second and soon merged: it takes a third less CPU than zstd, and
every reader supports it. Compaction writes zstd (`compaction.py`)."""
Document = TypeVar("Document", bound=BaseModel)

_LIBRARIES = (
    OSError,
    deltalake.exceptions.DeltaError,
    pl.exceptions.ComputeError,
    pl.exceptions.PanicException,  # of a Parquet file that ends before its footer says
)
_FULL_BYTES = 256 * 1024  # if less than that is free, a write failed for want of space


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The size of one file, and when it was written, in milliseconds since the epoch."""

    size: int
    modified_ms: int


class Storage(Protocol):
    """Files below one root, named by paths with forward slashes."""

    def read(self, path: str) -> bytes:
        """Return the bytes of *path*; raise FileNotFoundError if there is no such file."""

    def make_folder(self, path: str) -> None:
        """Make the folder *path*, and those above it, if folders have to be made."""

    def write(self, path: str, data: bytes) -> None:
        """Replace the content of *path* by *data* atomically."""

    def write_parquet(self, path: str, frame: pl.DataFrame, schema: pa.Schema) -> int:
        """Write *frame* as Parquet with plain strings and return its size in bytes."""

    def remove(self, path: str) -> None:
        """Remove *path*, if it exists."""

    def remove_folder(self, path: str) -> None:
        """Remove everything below *path*, if it exists."""

    def names(self, path: str) -> list[str]:
        """Return the names directly below *path*, sorted; none if it does not exist."""

    def files(self, path: str) -> dict[str, StoredFile]:
        """Return the files directly below *path*, by name; none if it does not exist."""


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, root: Path, mode: int = PRIVATE) -> None:
        self._root = root
        self._mode = mode

    def make_folder(self, path: str) -> None:
        """Make the folder *path*, and those above it, if they are missing."""
        make_private(self._root / path, self._mode)

    def read(self, path: str) -> bytes:
        """Return the bytes of *path*."""
        return (self._root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Write to a temporary file and rename it, so that no reader gets half of it."""
        target = self._root / path
        make_private(target.parent, self._mode)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(data)
        partial.replace(target)

    def write_parquet(self, path: str, frame: pl.DataFrame, schema: pa.Schema) -> int:
        """Write *frame* at *path* and return its size in bytes."""
        target = self._root / path
        make_private(target.parent, self._mode)
        frame.write_parquet(target, compression=_COMPRESSION, arrow_schema=schema)
        return target.stat().st_size

    def remove(self, path: str) -> None:
        """Remove *path* if it exists."""
        (self._root / path).unlink(missing_ok=True)

    def remove_folder(self, path: str) -> None:
        """Remove the folder *path* if it exists."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._root / path)

    def files(self, path: str) -> dict[str, StoredFile]:
        """Return the files directly below *path*, by name."""
        folder, found = self._root / path, {}
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.is_file():
                stat = entry.stat()
                found[entry.name] = StoredFile(stat.st_size, stat.st_mtime_ns // 1_000_000)
        return found

    def names(self, path: str) -> list[str]:
        """Return the names directly below *path*."""
        folder = self._root / path
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


class S3Folder:
    """A prefix of an S3 bucket, reached with the same options as the Delta log."""

    def __init__(self, root: str, options: Mapping[str, str]) -> None:
        self._root = root
        self._options = dict(options)
        # deltalake's public wrapper hands Arrow buffers to a writer that takes bytes only
        self._files = DeltaFileSystemHandler(root, self._options)

    def make_folder(self, path: str) -> None:
        """Do nothing: a bucket has no folders."""

    def read(self, path: str) -> bytes:
        """Return the bytes of *path*."""
        file = self._files.open_input_file(path)
        return bytes(file.read(file.size()))

    def write(self, path: str, data: bytes) -> None:
        """Write *path*; S3 shows an object only once it is complete."""
        file = self._files.open_output_stream(path)
        file.write(data)
        file.close()  # type: ignore[attr-defined]  # the stubs forget it

    def write_parquet(self, path: str, frame: pl.DataFrame, schema: pa.Schema) -> int:
        """Write *frame* at *path* in one request, and return its size in bytes."""
        frame.write_parquet(
            f"{self._root}/{path}",
            compression=_COMPRESSION,
            arrow_schema=schema,
            storage_options=self._options,
        )
        return self._files.open_input_file(path).size()

    def remove(self, path: str) -> None:
        """Remove *path* if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._files.delete_file(path)

    def remove_folder(self, path: str) -> None:
        """Remove every object whose name begins with *path* and a slash."""
        with contextlib.suppress(FileNotFoundError):
            self._files.delete_dir(path)

    def files(self, path: str) -> dict[str, StoredFile]:
        """Return the files directly below *path*, by name."""
        infos = self._files.get_file_info_selector(path, allow_not_found=True, recursive=False)
        return {
            info.base_name: StoredFile(info.size, info.mtime_ns // 1_000_000)
            for info in infos
            if info.is_file
        }

    def names(self, path: str) -> list[str]:
        """Return the names directly below *path*."""
        infos = self._files.get_file_info_selector(path, allow_not_found=True, recursive=False)
        return sorted({info.base_name for info in infos})


def open_storage(root: str, options: Mapping[str, str], mode: int = PRIVATE) -> Storage:
    """Return the storage at *root*: a local path, or ``s3://bucket/prefix``.

    New local folders get *mode*.
    """
    return S3Folder(root, options) if "://" in root else LocalFolder(Path(root), mode)


def read_document(storage: Storage, root: str, path: str, kind: type[Document]) -> Document:
    """Return the JSON file at *path* below *root* as *kind*, say a definition of a loop.

    Raises:
        LakeError: it is damaged.
        FileNotFoundError: there is no such file.
    """
    try:
        return kind.model_validate_json(storage.read(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise LakeError(
            f"{root}/{path} is damaged: {where}: {first['msg']}",
            hint="put the file back from a copy; a worker writes the definition of a loop that is "
            "gone again, as it was published",
        ) from error


@contextlib.contextmanager
def lake_errors(doing: str, root: str) -> Iterator[None]:
    """Turn errors of the libraries while *doing* something at *root* into a `LakeError`."""
    try:
        yield
    except LakeError:
        raise
    except _LIBRARIES as error:
        text = _told(error, root)
        raise LakeError(f"cannot {doing} at {root}: {text}", hint=_hint(text, root)) from error


def _told(error: Exception, root: str) -> str:
    """Return the text of *error*; Parquet writers call a full disk "Invalid thrift"."""
    text = str(error)
    if "://" in root or "no space left" in text.lower():
        return text
    folder = next(path for path in (Path(root), *Path(root).absolute().parents) if path.exists())
    is_full = shutil.disk_usage(folder).free < _FULL_BYTES
    return f"no space left on the disk ({text})" if is_full else text


def _hint(text: str, root: str) -> str:
    """Return what to do about an error, guessed from its *text*."""
    text = text.lower()
    if any(words in text for words in ("no space left", "file too large", "quota exceeded")):
        return f"free disk space for {root}; then start again, nothing is lost"
    if any(words in text for words in ("permission denied", "read-only", "not permitted")):
        return f"give this process the right to write to {root}"
    if "://" in root:
        return "check the bucket, AWS_ENDPOINT_URL and the AWS_* credentials; then start again"
    return f"check the disk that holds {root}; then start again, nothing is lost"
