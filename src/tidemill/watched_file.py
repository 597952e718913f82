"""A small file that says who is trusted: others may not write it, and a change counts at once."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from tidemill.errors import ConfigError

T = TypeVar("T")

_Stamp = tuple[int, int, int, int, int]


class WatchedFile(Generic[T]):
    """The value of a file, read again whenever the file has changed.

    If the changed file cannot be read, or is wrong, the last good value stays and `trouble` says
    why.

    Args:
        path: the file.
        read: returns the value of the file, or raises ConfigError.

    Raises:
        ConfigError: as *read* does, for the first reading.
    """

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self.path = path
        self.trouble: str | None = None
        self._read = read
        self._stamp = _stamp(path)
        self._value = read(path)

    @property
    def value(self) -> T:
        """The value as of now; a look at the file takes 2 us."""
        stamp = _stamp(self.path)
        if stamp != self._stamp:
            try:
                self._value = self._read(self.path)
                self.trouble = None
            except ConfigError as error:
                self.trouble = f"{error.what}; what it said before still holds"
            self._stamp = stamp
        return self._value


def refuse_others_writing(path: Path) -> None:
    """Return if only the owner of *path* may change the file.

    Raises:
        ConfigError: its group or all others may write it; or it cannot be looked at.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", hint="check the path and its permissions"
        ) from error
    if mode & 0o022:
        raise ConfigError(
            f"{path} has mode {mode:04o}: others may write it, so anybody could be trusted",
            hint=f"chmod go-w {path}, and check what is in it",
        )


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_mode)
