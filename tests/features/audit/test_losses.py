"""Rows that were committed and are gone: the audit says which, and how to get them back."""

import random
import shutil
from pathlib import Path

import pytest
from tests.features.audited import PARTITION, write_lake
from tests.features.sql.test_revisions import corrected_twice
from tests.streams.join_logs import LOGS, LOOP, Shell, random_logs

from tidemill.features.audit.audit import audit
from tidemill.features.lake.lake import Lake, LakeConfig


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a lake of one partition that is closed."""
    stream = Shell(random_logs(random.Random(11), 200))
    for _ in range(10):
        for log in LOGS:
            stream.poll(log, 20)
        stream.commit()
    stream.finish()
    return Path(write_lake(stream, tmp_path_factory.mktemp("lake")).root)


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """Return a copy of that lake, to be damaged."""
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


def opened(root: Path) -> Lake:
    """Return the lake, without anything that was cached."""
    return Lake(LakeConfig(root=str(root)))


def first_file(root: Path, table: str) -> Path:
    """Return a Parquet file of *table*."""
    return min((root / LOOP.loop / table).rglob("*.parquet"))


def log_entries(root: Path, table: str) -> list[Path]:
    """Return the entries of the log of *table*, oldest first."""
    return sorted((root / LOOP.loop / table / "_delta_log").glob("*.json"))


@pytest.mark.slow
def test_of_a_whole_lake_nothing_is_gone(root: Path) -> None:
    """The negative control of all that follows."""
    report = audit(opened(root), LOOP.loop)
    assert report.agrees
    assert report.losses == ()


@pytest.mark.slow
@pytest.mark.parametrize("table", ["decisions", "feedback"])
def test_a_removed_row_is_named_by_its_offset(root: Path, table: str) -> None:
    """A count that is short by one sends nobody to the right record."""
    lake = opened(root)
    victim = 7
    rows = lake.table(LOOP.loop, table).read().height
    lake.table(LOOP.loop, table).handle().delete(f'"offset" = {victim}')
    assert opened(root).table(LOOP.loop, table).read().height == rows - 1
    report = audit(opened(root), LOOP.loop)
    assert not report.agrees
    (loss,) = report.losses
    assert loss.what == f"{table}, partition {PARTITION}: 1 row was removed, at offset {victim}"
    assert f"`tidemill lake repair {LOOP.loop} --partition {PARTITION}`" in loss.hint


@pytest.mark.slow
def test_the_newest_commit_of_examples_is_missed(root: Path) -> None:
    """Its rows are there and belong to no version; a worker would make them again."""
    log_entries(root, "examples")[-1].unlink()
    file = first_file(root, "examples")
    report = audit(opened(root), LOOP.loop)
    assert not report.agrees
    (loss,) = report.losses
    assert f"examples/{file.parent.name}/{file.name} is of no commit" in loss.what
    assert "newer than the newest commit" in loss.what
    assert f"`tidemill lake repair {LOOP.loop}`" in loss.hint


@pytest.mark.slow
@pytest.mark.parametrize("revision", [0, 1])
def test_a_superseded_revision_that_was_removed_is_missed(tmp_path: Path, revision: int) -> None:
    """The newest one hides it from every other check."""
    lake, _versions = corrected_twice(tmp_path)
    assert audit(lake, LOOP.loop).agrees
    where = f"decision_id = 'a' AND revision = {revision}"
    lake.table(LOOP.loop, "examples").handle().delete(where)
    report = audit(opened(tmp_path), LOOP.loop)
    assert not report.agrees
    (loss,) = report.losses
    assert loss.what == (
        f"examples, partition {PARTITION}: 1 superseded revision was removed, of decisions a"
    )
