"""One process owns a folder; the second one is told whose it is."""

import os
from pathlib import Path

import pytest

from tidemill.deploy.local.folder_lock import FolderLock
from tidemill.errors import ConfigError


def lock(folder: Path) -> FolderLock:
    """Return a lock that is not taken yet."""
    return FolderLock(folder, use="the data of a Kafka that runs", hint="name another folder")


def test_the_second_owner_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    """Two brokers over one folder destroy its data."""
    first, second = lock(tmp_path / "new"), lock(tmp_path / "new")
    with first:
        first.take()  # again: it is its own already
        with pytest.raises(ConfigError, match=f"of process {os.getpid()}") as caught:
            second.take()
        assert caught.value.hint == "name another folder"
    second.take()
    second.release()
    second.release()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A file in its place, a read-only disk: no traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        lock(tmp_path / "file" / "below").take()
