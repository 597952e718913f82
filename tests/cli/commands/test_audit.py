"""`tidemill audit`: what it prints, and what its exit status says."""

import json
import random
from pathlib import Path

import polars as pl
import pytest
from tests.features.audited import write_lake
from tests.streams.join_logs import LOOP, Shell, random_logs

from tidemill.cli.app import main


def a_lake(folder: Path, *, wrong: bool) -> None:
    """Write the lake of a whole replay; *wrong* changes the label of one example."""
    stream = Shell(random_logs(random.Random(11), 200))
    stream.finish()
    spoiled = pl.col("label").is_not_null().cum_sum() == 1
    label = pl.when(spoiled).then(pl.col("label") + 0.5).otherwise(pl.col("label"))
    spoil = {"examples": lambda frame: frame.with_columns(label.alias("label"))}
    write_lake(stream, folder, spoil=spoil if wrong else None)


@pytest.fixture
def right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lake that is right, named by the environment."""
    a_lake(tmp_path, wrong=False)
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))


@pytest.fixture
def wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lake with one wrong label, named by the environment."""
    a_lake(tmp_path, wrong=True)
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))


@pytest.mark.usefixtures("right")
def test_a_lake_that_is_right_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    """A nightly job asks for nothing but the status."""
    assert main(["audit"]) == 0
    out = capsys.readouterr().out
    assert "the stream wrote what its logs mean" in out
    assert "examples 1" in out


@pytest.mark.usefixtures("wrong")
def test_a_difference_ends_with_1_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Decision, place, column, both values and a hint: enough to start looking."""
    assert main(["audit", LOOP.loop]) == 1
    out = capsys.readouterr().out
    assert "the first difference" in out
    assert ": label is " in out
    assert ".5, the audit says" in out
    assert "hint: " in out


@pytest.mark.slow
@pytest.mark.usefixtures("wrong")
def test_json_has_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """For a program: both values of every column that differs."""
    assert main(["audit", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    (report,) = document["audits"]
    assert (document["agrees"], report["agrees"], report["differences"]) == (False, False, 1)
    (found,) = report["first"]
    assert float(found["columns"]["label"]["stream"]) % 1 == 0.5
    assert float(found["columns"]["label"]["audit"]) % 1 == 0.0
    assert report["versions"].keys() == {"decisions", "feedback", "examples"}


@pytest.mark.usefixtures("wrong")
def test_bounds_leave_the_rest_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The day of the mistake is wrong, the day after it is not."""
    assert main(["audit", "--from", "2026-03-01T00:00:00Z", "--to", "2026-03-02T00:00:00Z"]) == 1
    assert main(["audit", "--from", "2026-03-02T00:00:00Z"]) == 0


@pytest.mark.usefixtures("right")
@pytest.mark.parametrize(
    "bounds",
    [["--from", "yesterday"], ["--from", "2026-03-02T00:00:00Z", "--to", "2026-03-01T00:00:00Z"]],
)
def test_bounds_that_make_no_sense_are_refused(
    bounds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, as for every refused request, with a hint."""
    assert main(["audit", *bounds]) == 2
    assert "hint: " in capsys.readouterr().err
