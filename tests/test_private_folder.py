"""What tidemill makes on a disk is for its owner alone: events are customers' data."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.schemas.loops import minimal

from tidemill.access import add_token
from tidemill.deploy.local.folder_lock import FolderLock
from tidemill.errors import ConfigError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.private_folder import make_private
from tidemill.schemas.models.signing import init_keys
from tidemill.serving.journal import Journal, JournalConfig


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """A process whose umask protects nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    """Return the permissions of *path*."""
    return stat.S_IMODE(path.stat().st_mode)


def reachable(root: Path) -> list[str]:
    """Return what others than the owner can open below *root*, which they can open."""
    found = []
    for folder, folders, files in os.walk(root):
        closed = [name for name in folders if not mode(Path(folder, name)) & 0o077]
        folders[:] = [name for name in folders if name not in closed]
        found += [name for name in files if mode(Path(folder, name)) & 0o077]
    return found


def test_a_lake_is_private(tmp_path: Path) -> None:
    """Also below a folder that everybody may read, as a package or a volume makes it."""
    loop = minimal(loop="shop")
    tmp_path.chmod(0o755)
    Lake(LakeConfig(root=str(tmp_path / "new" / "lake"))).create(loop)
    assert mode(tmp_path / "new") == mode(tmp_path / "new" / "lake") == 0o700
    Lake(LakeConfig(root=str(tmp_path))).create(loop)
    assert mode(tmp_path / "shop") == 0o700
    assert reachable(tmp_path) == []


def test_a_lake_can_be_opened_to_a_group(tmp_path: Path) -> None:
    """Analysts read it with their own tools."""
    env = {"TIDEMILL_LAKE": str(tmp_path / "lake"), "TIDEMILL_LAKE_MODE": "750"}
    Lake(LakeConfig.from_env(env)).create(minimal(loop="shop"))
    assert mode(tmp_path / "lake") == mode(tmp_path / "lake" / "shop" / "examples") == 0o750
    for wrong in ("abc", "650", "77", "1777", "0o750"):
        with pytest.raises(ConfigError, match="TIDEMILL_LAKE_MODE"):
            LakeConfig.from_env(env | {"TIDEMILL_LAKE_MODE": wrong})


def test_keys_tokens_journals_and_the_folder_of_up_are_private(tmp_path: Path) -> None:
    """A journal has features of decisions, and who reads a key can publish models."""
    tmp_path.chmod(0o755)
    init_keys(tmp_path / "etc" / "keys")
    add_token(
        tmp_path / "tokens", name="x", scopes=frozenset(("admin",)), loops=frozenset("*"), rate=None
    )
    journal = Journal(JournalConfig(folder=tmp_path / "state" / "journal"), "127.0.0.1:1")
    lock = FolderLock(tmp_path / "up" / "kafka", use="a folder", hint="name another one")
    lock.take()
    made = ("etc", "etc/keys", "state", "state/journal", "up", "up/kafka")
    assert {name: mode(tmp_path / name) for name in made} == dict.fromkeys(made, 0o700)
    assert reachable(tmp_path) == []
    journal.close(is_delivered=True)


def test_a_folder_that_exists_stays_as_it_is(tmp_path: Path) -> None:
    """Its operator decided; a lake that others read today goes on being read."""
    tmp_path.chmod(0o755)
    make_private(tmp_path)
    assert mode(tmp_path) == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_private(tmp_path / "file" / "x")
