"""When the storage did what it was told and the answer got lost, the log is asked what happened."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig
from tidemill.schemas.loop.definition import Loop

pytestmark = pytest.mark.slow  # on a real S3 server

Rows = Callable[..., pl.DataFrame]
PROXY = Path(__file__).with_name("losing_proxy.py")


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """A file that makes the network lose the answer to the next commit; gone once it is lost."""
    return tmp_path / "lose-the-next-answer"


@pytest.fixture
def behind(s3: LakeConfig, flag: Path) -> Iterator[Lake]:
    """The lake as it is seen through that network."""
    server = s3.storage_options["AWS_ENDPOINT_URL"].removeprefix("http://")
    proxy = subprocess.Popen(
        [sys.executable, str(PROXY), server, str(flag)], stdout=subprocess.PIPE, text=True
    )
    assert proxy.stdout is not None
    endpoint = f"http://127.0.0.1:{proxy.stdout.readline().strip()}"
    yield Lake(replace(s3, storage_options={**s3.storage_options, "AWS_ENDPOINT_URL": endpoint}))
    proxy.terminate()
    proxy.wait()
    proxy.stdout.close()


def test_a_commit_whose_answer_is_lost_has_landed_once(
    behind: Lake, flag: Path, s3: LakeConfig, loop: Loop, rows: Rows
) -> None:
    """Taken for a failure it would be committed again, or its files be removed under the table."""
    Lake(s3).create(loop)
    table = behind.table(loop.loop, "decisions")
    table.append(rows("decisions", 2), swaps=[CompareAndSwap("offset/0", None, 2)])
    flag.touch()
    version = table.append(rows("decisions", 2, offset=2), swaps=[CompareAndSwap("offset/0", 2, 4)])
    assert not flag.exists()
    table.append(rows("decisions", 2, offset=4), swaps=[CompareAndSwap("offset/0", 4, 6)])
    direct = Lake(s3).table(loop.loop, "decisions")
    assert sorted(direct.read()["offset"]) == [0, 1, 2, 3, 4, 5]
    assert [commit.version for commit in direct.commits_since(version)] == [version + 1]
