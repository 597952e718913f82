"""The trace of a decision that has shown items: one block, with each item and its feedback."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.features.audited import PARTITION
from tests.features.itemlakes import PAGE, made, seconds, write_items

from tidemill.cli.app import main
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.monitor.lineage import ListedModel, uses
from tidemill.monitor.trace import trace


def told(folder: Path, id_: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Return what the command says of *id_*."""
    assert main(["trace", id_, *more]) == 0
    return capsys.readouterr().out


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lake with decisions that have shown items, named by the environment."""
    write_items(tmp_path)
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    return tmp_path


def in_order(text: str, parts: Sequence[str]) -> None:
    """Check that *text* has all *parts*, one after the other."""
    at = 0
    for part in parts:
        assert part in text[at:], (part, text)
        at = text.index(part, at)


def test_each_shown_item_stands_with_its_label(
    lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who asks why an item has its label looks at one place."""
    out = told(lake, "a", capsys)
    assert out.count("decided") == 1
    in_order(
        out,
        [
            *("items      4 logged, 2 of them shown", "shown 0    p: propensity 0.5, price 112"),
            *("labeled, label 4, of feedback at offsets [0, 1]", "shown 1    q:", "label 6, of"),
            *("lie in ", "clicked x of item p", ": joined", "of item p", ": duplicate"),
            *("clicked u of item q", ": joined", "clicked y of all shown at", ": joined"),
            *("clicked u of item r", ": unknown_item", "clicked t of item s", ": unknown_item"),
        ],
    )


def test_a_decision_without_shown_items_says_so(
    lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its feedback fell on nothing, and its row says that it was counted."""
    in_order(
        told(lake, "c", capsys),
        ["0 logged, 0 of them shown", ": unknown_item", "example", "label 0"],
    )


def test_programs_get_items_examples_and_feedback(
    lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All columns, as the lake has them."""
    document = json.loads(told(lake, "a", capsys, "--json"))
    (decision,) = document["decisions"]
    assert [item["id"] for item in decision["items"]] == ["p", "r", "q", "s"]
    assert [row["item"] for row in document["examples"]] == ["p", "q"]
    assert [row["item"] for row in document["feedback"]] == ["p", None, "r", "q", "p", "s"]


def test_a_model_has_learned_a_decision_if_any_item_had_a_label(tmp_path: Path) -> None:
    """The first row of several says nothing about the others."""
    labels = made().with_columns(label=pl.Series([None, 6.0, None, None], dtype=pl.Float64))
    lake = write_items(tmp_path, spoil={EXAMPLES: lambda _rows: labels})
    model = ListedModel(
        version="m-1",
        at=seconds(60),
        learner="lightgbm",
        promoted=True,
        reason="better",
        snapshot=1,
        until=None,
        later_from=seconds(0) + timedelta(days=1),
    )
    found = [
        uses(lake, PAGE, [model], partition=PARTITION, offset=offset, at=seconds(offset))
        for offset in (0, 1)
    ]
    assert [[(use.role, use.revision, use.is_sure) for use in each] for each in found] == [
        [("learned", 0, True)],
        [],
    ]
    decision = trace(lake, PAGE, "a", bucket=timedelta(seconds=1))
    assert [entry.row["position"] for entry in decision.examples] == [0, 1]
