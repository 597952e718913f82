"""What the lake needs of an S3 server, whether it runs in Docker or as a child process."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from uuid import uuid4

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from tidemill.deploy.local.jars import cache_dir
from tidemill.deploy.local.s3 import embedded_s3
from tidemill.errors import TidemillError
from tidemill.features.lake.lake import LakeConfig
from tidemill.features.lake.storage import open_storage
from tidemill.testing.docker import docker_s3, why_no_docker
from tidemill.testing.missing import unavailable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["embedded", "docker"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LakeConfig]:
    """A server of each kind in turn; a machine without Docker says so."""
    if request.param == "docker" and (why := why_no_docker()):
        pytest.skip(why)
    with ExitStack() as running:
        try:
            config = running.enter_context(
                docker_s3()
                if request.param == "docker"
                else embedded_s3(cache_dir(os.environ), tmp_path_factory.mktemp("s3"))
            )
        except TidemillError as error:
            unavailable("an S3 server", error)
        yield config


@pytest.fixture
def prefix(server: LakeConfig) -> LakeConfig:
    """A prefix of its own in the server's bucket."""
    return replace(server, root=f"{server.root}/{uuid4().hex}")


def test_of_two_commits_of_one_version_one_becomes_the_next(prefix: LakeConfig) -> None:
    """A server that ignores `If-None-Match` lets the second commit overwrite the first."""
    uri, options = f"{prefix.root}/table", dict(prefix.storage_options)
    write_deltalake(uri, rows(0), storage_options=options)
    one, other = (DeltaTable(uri, storage_options=options) for _ in range(2))
    write_deltalake(one, rows(1), mode="append")
    write_deltalake(other, rows(2), mode="append")
    table = DeltaTable(uri, storage_options=options)
    assert table.version() == 2
    found = pl.read_delta(table)
    assert sorted(found["number"]) == [0, 1, 2]


def rows(number: int) -> pl.DataFrame:
    """Return one row."""
    return pl.DataFrame({"number": [number]})


def test_small_files_are_written_listed_read_and_removed(prefix: LakeConfig) -> None:
    """Loop definitions and the Delta log are read by name and listed by folder."""
    storage = open_storage(prefix.root, prefix.storage_options)
    assert storage.names("loops") == []
    for name in ("b.json", "a.json"):
        storage.write(f"loops/{name}", name.encode())
    storage.write("loops/a.json", b"again")
    assert storage.names("loops") == ["a.json", "b.json"]
    assert storage.read("loops/a.json") == b"again"
    storage.remove("loops/a.json")
    storage.remove("loops/a.json")
    assert storage.names("loops") == ["b.json"]
    with pytest.raises(FileNotFoundError):
        storage.read("loops/a.json")


def test_without_the_right_key_nothing_is_read(prefix: LakeConfig) -> None:
    """A server that lets everybody in would hide credentials that never arrive."""
    stranger = dict(prefix.storage_options) | {"AWS_SECRET_ACCESS_KEY": "a guess"}
    with pytest.raises(OSError, match=r"(?i)denied|forbidden|signature"):
        open_storage(prefix.root, stranger).read("loops/a.json")
