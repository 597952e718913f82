"""`tidemill explain` and `tidemill model importance`: what a person types and reads."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.deploy.explain.decided import LOOPS, DecidedLake, examples, labelled, trained

from tidemill.cli.app import main
from tidemill.features.lake.layouts import EXAMPLES

PNG = b"\x89PNG\r\n"
LOOP = LOOPS["greedy"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> DecidedLake:
    """Five decisions without a model, five with one, and one whose score was changed."""
    made = DecidedLake.of(LOOP, tmp_path_factory.mktemp("lake"))
    made.decide(5, seed=1)
    made.live(trained(LOOP, "lightgbm"))
    made.decide(5, seed=2)
    request = made.decider.decisions.check(
        {"country": "c01", "visits": 3, "amount": 1.5, "member": True}, None, "changed"
    )
    made.decider.decide(request)
    made.write(score=pl.col("score") + 1e-12)
    later = labelled(LOOP, 200, seed=9)
    rows = examples(LOOP, later).drop("event_date").with_columns(pl.col("at") + timedelta(days=1))
    made.lake.table(LOOP.loop, EXAMPLES).append(rows, swaps=[])
    return made


@pytest.fixture(autouse=True)
def its_lake(decided: DecidedLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names the lake."""
    monkeypatch.setenv("TIDEMILL_LAKE", decided.lake.root)


@pytest.mark.slow
def test_a_decision_is_shown_with_its_parts_and_the_models_record(capsys: Captured) -> None:
    """One page answers why, for the person who was asked."""
    assert main(["explain", "d2-0"]) == 0
    shown = capsys.readouterr().out
    for word in ("computed again", "propensity", "visits", "without any", "raw score", "adds to "):
        assert word in shown
    assert "promoted: it earns more than the default" in shown
    assert "the best score wins" in shown
    assert main(["explain", "d2-0", "--json", "--loop", LOOP.loop]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == []
    assert found["logged"] == found["remade"]
    first, second = found["scored"]
    assert first["action"] != second["action"]
    assert sum(first["contributions"].values()) + first["base"] == pytest.approx(first["raw"])


@pytest.mark.slow
def test_a_log_that_does_not_agree_ends_with_1_and_names_the_value(capsys: Captured) -> None:
    """A difference of the last bits is one: the row is not what was decided."""
    assert main(["explain", "changed"]) == 1
    assert "score is not what the log says" in capsys.readouterr().out


def test_a_decision_by_default_says_why_there_is_nothing_more(capsys: Captured) -> None:
    """Nothing to see is an answer, if it has a reason."""
    assert main(["explain", "d1-0"]) == 0
    assert "no model was live" in capsys.readouterr().out
    assert main(["explain", "nobody"]) == 2
    assert "tidemill trace nobody" in capsys.readouterr().err


@pytest.mark.slow
def test_importance_is_a_table_or_a_document(capsys: Captured) -> None:
    """The most important feature comes first, with its spread."""
    assert main(["model", "importance", LOOP.loop, "--repeats", "2"]) == 0
    shown = capsys.readouterr().out
    assert "log loss grows by" in shown
    assert "200 rows" in shown
    assert main(["model", "importance", LOOP.loop, "--json", "--model", "lightgbm-1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["features"][0]["name"] == "visits"
    assert found["metric"] == "log_loss"


@pytest.mark.slow
def test_both_are_drawn_as_png(tmp_path: Path) -> None:
    """For a ticket or a talk."""
    why, worth = tmp_path / "why.png", tmp_path / "worth.png"
    assert main(["explain", "d2-0", "--png", str(why)]) == 0
    assert main(["model", "importance", LOOP.loop, "--png", str(worth)]) == 0
    assert why.read_bytes().startswith(PNG)
    assert worth.read_bytes().startswith(PNG)


@pytest.mark.slow
def test_what_cannot_be_drawn_says_what_to_do(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No model, no folder, no matplotlib: a sentence each, and no traceback."""
    assert main(["explain", "d1-0", "--png", str(tmp_path / "a.png")]) == 2
    assert "nothing to draw" in capsys.readouterr().err
    assert main(["explain", "d2-0", "--png", str(tmp_path / "no" / "a.png")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["explain", "d2-0", "--png", str(tmp_path / "a.png")]) == 2
    assert "tidemill[plot]" in capsys.readouterr().err
