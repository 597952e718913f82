"""One process at a time owns a folder: the data of a broker, the state of `tidemill up`."""

import fcntl
import os
from pathlib import Path
from typing import Self

from tidemill.errors import ConfigError
from tidemill.private_folder import make_private

NAME = "owner.lock"


class FolderLock:
    """A lock on a folder; it ends with the process that took it, however that one ends.

    Args:
        folder: what is owned; it is created if it is missing.
        use: what it is owned for, for the error of the second one: "the data of a Kafka".
        hint: what the second one may do.
    """

    def __init__(self, folder: Path, *, use: str, hint: str) -> None:
        self._path = folder / NAME
        self._use = use
        self._hint = hint
        self._file: int | None = None

    def take(self) -> None:
        """Own the folder; do nothing if this object owns it already.

        Raises:
            ConfigError: another process owns it, or it cannot be written.
        """
        if self._file is not None:
            return
        try:
            make_private(self._path.parent)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(
                f"the folder {self._path.parent} cannot be written: {error.strerror}",
                hint="name another one, or give this user the right to write",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(file, 100, 0).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise ConfigError(
                f"{self._path.parent} is {self._use}, of process {owner}", hint=self._hint
            ) from error
        os.truncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        """Let go of the folder."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()
