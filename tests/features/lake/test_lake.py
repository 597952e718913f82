"""Making tables, growing them with the loop, and what a storage that refuses leads to."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tidemill.errors import ConfigError, ContractError, LakeError
from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig
from tidemill.features.lake.storage import lake_errors, open_storage
from tidemill.schemas.loop.definition import Loop

Rows = Callable[..., pl.DataFrame]


def test_creating_twice_changes_nothing(lake: Lake, loop: Loop) -> None:
    """Every worker creates the tables when it starts."""
    lake.create(loop)
    before = lake.table(loop.loop, "examples").version()
    lake.create(loop)
    assert lake.table(loop.loop, "examples").version() == before
    assert lake.loops() == ["home-page"]
    assert lake.loop("home-page") == loop


def test_a_new_version_of_the_loop_adds_columns(
    lake: Lake, loop: Loop, grown: Loop, rows: Rows
) -> None:
    """Old rows stay readable, workers of the old version go on writing, new ones write more."""
    lake.create(loop)
    old_worker = lake.table(loop.loop, "decisions")
    old_worker.append(rows("decisions", 1), swaps=[CompareAndSwap("offset/0", None, 1)])
    lake.create(grown)
    new_worker = lake.table(loop.loop, "decisions")
    newer = rows("decisions", 1, partition=1, of=grown).with_columns(
        pl.col("features").struct.with_fields(age=pl.lit(41, pl.Int64))
    )
    new_worker.append(newer, swaps=[CompareAndSwap("offset/1", None, 1)])
    old_worker.append(rows("decisions", 1, offset=1), swaps=[CompareAndSwap("offset/0", 1, 2)])
    found = new_worker.read().sort("partition", "offset")
    assert found["features"].struct.field("age").to_list() == [None, None, 41]
    assert found["features"].struct.field("country").to_list() == ["NL"] * 3
    assert lake.loop(loop.loop) == grown


def test_a_handle_of_before_takes_rows_of_the_new_version(
    lake: Lake, loop: Loop, grown: Loop, rows: Rows
) -> None:
    """Two workers start with a new version; the second finds the tables grown already."""
    lake.create(loop)
    table = lake.table(loop.loop, "feedback")
    lake.create(grown)
    table.append(rows("feedback", 1, of=grown), swaps=[])
    assert "coupon" in table.read()["values"].struct.fields


def test_other_rooms_keep_tables_of_their_own(lake: Lake) -> None:
    """The registry of models is one; it needs no date and no event time."""
    table = lake.create_table("home-page", "models", pl.Schema({"name": pl.String()}))
    table.append(pl.DataFrame({"name": ["lightgbm-1"]}), swaps=[CompareAndSwap("number", None, 1)])
    assert lake.has_table("home-page", "models")
    (commit,) = table.commits_since(0)
    assert table.rows(commit)["name"].to_list() == table.read()["name"].to_list() == ["lightgbm-1"]


def test_a_changed_type_is_refused(lake: Lake, loop: Loop) -> None:
    """Rows of both versions share one table, for years."""
    lake.create(loop)
    dumped = loop.model_dump(mode="json")
    dumped["version"] = 2
    dumped["features"]["price"] = "category"
    with pytest.raises(
        ContractError, match=r"features.price as Float64.* declares String"
    ) as caught:
        lake.create(Loop.model_validate(dumped))
    assert "another name" in caught.value.hint
    assert lake.loop(loop.loop) == loop


def test_a_version_with_another_content_is_refused(lake: Lake, loop: Loop) -> None:
    """A version never changes, or no row could be read for what it meant."""
    lake.create(loop)
    with pytest.raises(ContractError, match="version 1 of home-page with another content"):
        lake.create(loop.model_copy(update={"description": "other"}))


def test_a_loop_that_is_not_there_says_what_to_do(lake: Lake) -> None:
    """A name mistyped, or an empty lake."""
    with pytest.raises(LakeError, match="has no other-loop"):
        lake.loop("other-loop")
    assert lake.loops() == []


def test_the_lake_is_told_by_the_environment() -> None:
    """One variable for a folder, the usual AWS names for S3."""
    assert LakeConfig.from_env({"TIDEMILL_LAKE": "/data"}) == LakeConfig(root="/data")
    config = LakeConfig.from_env(
        {
            "TIDEMILL_LAKE": "s3://bucket/lake",
            "AWS_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL": "http://localhost:9000",
            "HOME": "/root",
        }
    )
    assert config.root == "s3://bucket/lake"
    assert config.storage_options == {
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://localhost:9000",
        "AWS_ALLOW_HTTP": "true",
    }


def test_how_long_the_log_is_kept_is_told_too_and_reaches_tables_that_are_there(
    lake: Lake, loop: Loop, rows: Rows
) -> None:
    """An operator shortens it for a loop that is never quiet, while a writer goes on."""
    lake.create(loop)
    writer = lake.table(loop.loop, "decisions")
    config = LakeConfig.from_env({"TIDEMILL_LAKE": lake.root, "TIDEMILL_LAKE_KEEP": "6h"})
    assert config.keep == timedelta(hours=6)
    shorter = Lake(replace(config, storage_options=lake.storage_options))
    shorter.create(loop)
    version = shorter.table(loop.loop, "decisions").version()
    shorter.create(loop)  # nothing is left to change, so nothing is committed
    assert shorter.table(loop.loop, "decisions").version() == version
    Lake(replace(shorter.config, keep=None)).create(loop)  # who says nothing changes nothing
    properties = lake.table(loop.loop, "decisions").handle().metadata().configuration
    assert properties["delta.logRetentionDuration"] == "interval 6 hours"
    writer.append(rows("decisions", 1), swaps=[CompareAndSwap("offset/0", None, 1)])
    assert writer.read().height == 1


def test_where_nothing_is_told_a_day_is_kept(lake: Lake, loop: Loop) -> None:
    """Unset and empty are the same, as for every setting."""
    assert LakeConfig.from_env({"TIDEMILL_LAKE": "/d", "TIDEMILL_LAKE_KEEP": ""}).keep is None
    lake.create(loop)
    properties = lake.table(loop.loop, "decisions").handle().metadata().configuration
    assert properties["delta.logRetentionDuration"] == "interval 24 hours"


@pytest.mark.parametrize("keep", ["soon", "30m", "-1h"])
def test_a_log_kept_for_less_than_an_hour_is_refused(keep: str) -> None:
    """A trainer that is started again would find its place gone."""
    with pytest.raises(ConfigError, match="TIDEMILL_LAKE_KEEP") as caught:
        LakeConfig.from_env({"TIDEMILL_LAKE": "/data", "TIDEMILL_LAKE_KEEP": keep})
    assert "6h" in caught.value.hint


@pytest.mark.parametrize("env", [{}, {"TIDEMILL_LAKE": ""}, {"TIDEMILL_LAKE": "ftp://x/y"}])
def test_a_wrong_setting_names_the_variable(env: dict[str, str]) -> None:
    """The process has not started yet: the cheapest moment to say it."""
    with pytest.raises(ConfigError, match="TIDEMILL_LAKE"):
        LakeConfig.from_env(env)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small file system; the file size limit is tested too")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_the_commit_and_leaves_nothing_of_it(
    small_disk: Path, loop: Loop, rows: Rows
) -> None:
    """The error says what to do; with room again the same commit goes through."""
    lake = Lake(LakeConfig(root=str(small_disk)))
    lake.create(loop)
    table = lake.table(loop.loop, "decisions")
    table.append(rows("decisions", 5), swaps=[CompareAndSwap("offset/0", None, 5)])
    log = small_disk / loop.loop / "decisions" / "_delta_log"
    entries = set(log.iterdir())
    filler = small_disk / "filler"
    _fill(filler)
    many = rows("decisions", 2000, offset=5, id=[os.urandom(16).hex()] * 2000)
    for more in (many, rows("decisions", 1, offset=5), None):
        with pytest.raises(LakeError, match=r"[Nn]o space left on") as caught:
            table.append(more, swaps=[CompareAndSwap("offset/0", 5, 2005)])
        assert f"free disk space for {small_disk}" in caught.value.hint
        assert set(log.iterdir()) == entries
    assert table.progress(["offset/0"]) == {"offset/0": 5}
    assert len(list(small_disk.rglob("event_date=*/*"))) == 1
    filler.unlink()
    table.append(rows("decisions", 3, offset=5), swaps=[CompareAndSwap("offset/0", 5, 8)])
    assert table.read().height == 8


def _fill(path: Path) -> None:
    """Leave the file system of *path* without a free byte."""
    with path.open("wb", buffering=0) as file:
        file.write(b"\0" * 2**22)  # as much of it as there is room for
        with pytest.raises(OSError, match="No space"):
            file.write(b"\0")


def test_a_disk_without_a_byte_is_called_full_whatever_the_library_says(small_disk: Path) -> None:
    """The writer of Parquet says "Invalid thrift: transport error" if no header fits."""
    random = np.random.default_rng(1)
    wide = pl.DataFrame({f"c{number}": random.normal(size=500) for number in range(40)})
    filler = small_disk / "filler"
    _fill(filler)
    with (
        pytest.raises(LakeError, match="thrift") as caught,
        lake_errors("write", str(small_disk)),
    ):
        open_storage(str(small_disk), {}).write_parquet("x", wide, wide.to_arrow().schema)
    assert "no space left on the disk" in caught.value.what
    assert f"free disk space for {small_disk}" in caught.value.hint


@pytest.mark.slow
def test_a_file_size_limit_is_told_as_a_full_disk(tmp_path: Path, loop: Loop, rows: Rows) -> None:
    """Quotas look like this; no root is needed to show it."""
    lake = Lake(LakeConfig(root=str(tmp_path)))
    lake.create(loop)
    rows("decisions", 2000).write_ipc(tmp_path / "rows.arrow")
    program = f"""
import resource, signal, polars as pl
from tidemill.errors import LakeError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.storage import lake_errors, open_storage
table = Lake(LakeConfig(root={str(tmp_path)!r})).table("home-page", "decisions")
rows = pl.read_ipc({str(tmp_path / "rows.arrow")!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    table.append(rows, swaps=[])
except LakeError as error:
    print(error.hint)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300
    )
    assert "free disk space" in done.stdout
    assert not list(tmp_path.rglob("event_date=*/*"))


def test_a_folder_that_may_not_be_written_says_so(tmp_path: Path, loop: Loop) -> None:
    """The usual mistake of a first deployment."""
    folder = tmp_path / "file"
    folder.write_text("a file, where the lake's folder should be")
    with pytest.raises(LakeError, match="cannot create the tables"):
        Lake(LakeConfig(root=str(folder))).create(loop)


@pytest.mark.parametrize("text", [b"junk", b"\xff\xfe", b"", b'{"loop": "home-page"}'])
def test_a_damaged_definition_is_named_by_its_file(tmp_path: Path, loop: Loop, text: bytes) -> None:
    """Every command of the lake reads it first, and ended in the traceback of a library."""
    lake = Lake(LakeConfig(root=str(tmp_path)))
    lake.create(loop)
    path = tmp_path / loop.loop / f"loop-{loop.version}.json"
    path.write_bytes(text)
    readers: list[Callable[[], object]] = [
        lambda: lake.definitions(loop.loop),
        lambda: lake.loop(loop.loop),
        lambda: lake.create(loop),
    ]
    for read in readers:
        with pytest.raises(LakeError) as told:
            read()
        assert f"{path} is damaged: " in told.value.what
        assert "put the file back" in told.value.hint


@pytest.mark.parametrize("size", [0, 100])
def test_a_data_file_that_is_cut_off_is_an_error_of_the_lake(
    tmp_path: Path, loop: Loop, rows: Rows, size: int
) -> None:
    """Polars panics on it, which no `except Exception` of a worker catches."""
    lake = Lake(LakeConfig(root=str(tmp_path)))
    lake.create(loop)
    table = lake.table(loop.loop, "decisions")
    table.append(rows("decisions", 3), swaps=[])
    (file,) = map(Path, table.uris())
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(LakeError, match="cannot read"):
        table.read()
