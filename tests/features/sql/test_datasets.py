"""Training sets: the same rows for the same version, in order, and only rows with a label."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from tidemill.features.lake.lake import Lake
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.loop.definition import Loop

Rows = Callable[..., pl.DataFrame]
START = datetime(2024, 3, 1, 23, tzinfo=UTC)


@pytest.fixture
def filled(lake: Lake, loop: Loop, rows: Rows) -> Lake:
    """Eight examples over midnight; the youngest is censored."""
    lake.create(loop)
    labels = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, None]
    states = ["labeled"] * 7 + ["censored"]
    made = rows("examples", 8, start=START, step=timedelta(minutes=15), label=labels, state=states)
    lake.table(loop.loop, "examples").append(
        made.sample(fraction=1.0, seed=1, shuffle=True), swaps=[]
    )
    return lake


def test_features_are_columns_and_rows_are_in_order(filled: Lake, loop: Loop) -> None:
    """The learner sees what was logged when the decision was made, oldest first."""
    made = training_set(filled, loop)
    beside = ["action", "label", "at", "decision_id", "_propensity", "_source", "_baseline"]
    assert made.table.column_names == [*loop.features, *beside]
    assert made.features == tuple(loop.features)
    assert made.table["decision_id"].to_pylist() == [f"0-{number}" for number in range(7)]
    assert made.table["country"].to_pylist() == ["NL"] * 7


def test_what_has_no_label_is_left_out(filled: Lake, loop: Loop) -> None:
    """A censored example is no negative one."""
    made = training_set(filled, loop)
    assert made.table["label"].null_count == 0
    assert made.table.num_rows == 7


def test_time_splits_are_exact_to_the_row(filled: Lake, loop: Loop) -> None:
    """A row on both sides of a split is a leak; the bound belongs to the later side."""
    middle = START + timedelta(minutes=60)
    before = training_set(filled, loop, until=middle)
    after = training_set(filled, loop, since=middle)
    assert before.table["decision_id"].to_pylist() == ["0-0", "0-1", "0-2", "0-3"]
    assert after.table["decision_id"].to_pylist() == ["0-4", "0-5", "0-6"]


def test_a_version_gives_the_same_rows_for_ever(filled: Lake, loop: Loop, rows: Rows) -> None:
    """A model names its version; whoever doubts it trains it again."""
    first = training_set(filled, loop)
    filled.table(loop.loop, "examples").append(rows("examples", 5, offset=100), swaps=[])
    again = training_set(filled, loop, version=first.version)
    assert again.table.equals(first.table)
    assert training_set(filled, loop).table.num_rows == 12


def test_a_time_without_a_zone_is_refused(filled: Lake, loop: Loop) -> None:
    """It would mean another moment on every machine."""
    with pytest.raises(ValueError, match="no time zone"):
        training_set(filled, loop, until=datetime(2024, 3, 1))  # noqa: DTZ001
