"""The label-lag curve: which share of feedback a window would keep, of real flights and few."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from tests.features.audited import write_lake
from tests.features.itemlakes import PAGE, write_items
from tests.features.streamlakes import SHOP, write_streams
from tests.monitor.flightlakes import flights_loop, on_the_ground, write_flights
from tests.streams.join_logs import LOOP, SECOND, D, F, Logs, Shell

from tidemill.cli.app import main
from tidemill.features.audit.audit import Effort, audit
from tidemill.features.lake.lake import Lake
from tidemill.monitor.label_lag import LabelLag, label_lags

HOUR = timedelta(hours=1)
FLIGHTS = flights_loop().loop


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """All flights of 2013; feedback comes when they are on the ground."""
    return write_flights(tmp_path_factory.mktemp("lake"), *on_the_ground())


def shares(curve: LabelLag) -> dict[timedelta, float]:
    """Return the curve by delay."""
    return {point.delay: point.share for point in curve.points}


@pytest.mark.slow
def test_four_hours_keep_79_56_percent_of_the_flights_and_eight_99_47(year: Lake) -> None:
    """Figures that were counted from the file itself, departure delay and air time."""
    (curve,) = label_lags(year, year.loop(FLIGHTS))
    assert (curve.decisions, curve.answered) == (336_776, 336_776 - 9_430)
    assert round(shares(curve)[4 * HOUR], 4) == 0.7956
    assert round(shares(curve)[8 * HOUR], 4) == 0.9947
    assert round(curve.kept, 4) == 0.9947
    assert curve.quantiles[0.5] == timedelta(minutes=140)
    assert curve.quantiles[0.99] == timedelta(minutes=420)
    assert curve.longest == timedelta(minutes=1_941)


@pytest.mark.slow
def test_the_chart_marks_the_window_that_is_set(
    year: Lake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who chooses another one sees what it would give."""
    monkeypatch.setenv("TIDEMILL_LAKE", year.root)
    assert main(["lag", "--labels"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (marked,) = (line for line in lines if "<- set now" in line)
    assert marked.split()[:2] == ["8h", "99.47%"]
    (four,) = (line for line in lines if line.split()[:1] == ["4h"])
    assert four.split()[1] == "79.56%"
    assert four.count("█") == 31
    assert any("p50 2h20m" in line for line in lines)


@pytest.mark.slow
def test_json_has_the_curve(
    year: Lake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a notebook: seconds and shares; bounded by the event time of decisions."""
    monkeypatch.setenv("TIDEMILL_LAKE", year.root)
    bounds = ["--from", "2013-02-01T00:00:00-05:00", "--to", "2013-03-01T00:00:00-05:00"]
    assert main(["lag", FLIGHTS, "--labels", "--json", *bounds]) == 0
    (curve,) = json.loads(capsys.readouterr().out)["curves"]
    assert curve["decisions"] == 24_951, "flights of February"
    points = {point["delay_s"]: point["share"] for point in curve["points"]}
    assert 0.7 < points[4 * 3600] < 0.9
    assert curve["within_s"] == 8 * 3600


@pytest.mark.slow
def test_the_join_of_a_year_is_what_the_audit_says(year: Lake) -> None:
    """Real times, real gaps, real delays: 664,122 records, each of them compared."""
    report = audit(year, FLIGHTS, effort=Effort(threads=1))
    assert report.agrees, [str(found) for found in report.first]
    assert (report.records, report.decisions) == (664_122, 336_776)


def curves(folder: Path, logs: Logs) -> dict[str, LabelLag]:
    """Return the curves of small logs, by kind."""
    stream = Shell(logs)
    stream.finish()
    return {curve.kind: curve for curve in label_lags(write_lake(stream, folder), LOOP)}


def test_what_no_window_keeps_today_is_in_the_curve(tmp_path: Path) -> None:
    """Feedback that came after the close is the very reason to ask."""
    feedback = [F("a", "d", 2), F("b", "d", 20), F("c", "d", 900), F("a", "d", 2), F("e", "x", 1)]
    found = curves(tmp_path, Logs([D("d", 0), D("n", 0)], feedback))["click"]
    assert (found.decisions, found.answered) == (2, 1)
    assert (found.feedback, found.unmatched) == (3, 1)
    assert found.kept == pytest.approx(1 / 3)
    assert shares(found)[3 * SECOND] == pytest.approx(1 / 3), "the window that is set"
    assert shares(found)[30 * SECOND] == pytest.approx(2 / 3)
    assert shares(found)[15 * 60 * SECOND] == 1.0
    assert found.longest == 900 * SECOND


def test_in_the_window_but_after_the_grace_is_told(tmp_path: Path) -> None:
    """A longer window would not help; a longer grace would."""
    feedback = [F("a", "d", 2), F("x", "other", 500), F("b", "d", 3)]
    found = curves(tmp_path, Logs([D("d", 0), D("other", 500)], feedback))["click"]
    assert found.kept == 1.0
    assert found.too_late == pytest.approx(1 / 3)


def test_each_kind_has_a_curve_and_each_use_of_an_id_its_own(tmp_path: Path) -> None:
    """Purchases take longer than clicks; an id that is used again starts anew."""
    decisions = [D("d", 0), D("between", 990), D("d", 1_000)]
    feedback = [F("a", "d", 1), F("b", "d", 6, "buy"), F("c", "d", 1_002), F("e", "d", 999)]
    found = curves(tmp_path, Logs(decisions, feedback))
    assert shares(found["click"])[2 * SECOND] == 1.0
    assert found["click"].feedback == 3, "one of them a second early"
    assert found["buy"].longest == 6 * SECOND
    assert found["buy"].answered == 1


def test_an_id_that_two_streams_have_is_two_feedback(tmp_path: Path) -> None:
    """A purchase is no copy of a click, whatever number its own system gave it."""
    found = {curve.kind: curve for curve in label_lags(write_streams(tmp_path), SHOP)}
    assert (found["click"].feedback, found["buy"].feedback) == (4, 2)
    assert found["buy"].longest == 6 * SECOND


def test_without_feedback_there_is_no_curve_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first hour of a loop is no error."""
    found = curves(tmp_path, Logs([D("d", 0)], []))["click"]
    assert (found.feedback, found.longest, found.points) == (0, None, ())
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    assert main(["lag", "--labels"]) == 0
    assert "no feedback of a known decision yet" in capsys.readouterr().out


def test_decisions_are_counted_and_not_the_items_they_have_shown(tmp_path: Path) -> None:
    """A decision of ten items is one that has feedback or none."""
    (curve,) = label_lags(write_items(tmp_path), PAGE)
    assert (curve.decisions, curve.answered, curve.feedback) == (4, 4, 7)
