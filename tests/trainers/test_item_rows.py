"""Shown items are learned as if each item of each request had been shown as often as any other."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.trainers.shop import Shop, shop_loop

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.sql.datasets import training_set
from tidemill.trainers.item_rows import MAX_WEIGHT, LoggedItems
from tidemill.trainers.rows import LabeledRows, training_weights


def logged(chances: Sequence[float | None]) -> LoggedItems:
    """Return rows with these propensities."""
    return LoggedItems(pl.DataFrame({"_propensity": chances}, schema={"_propensity": pl.Float64}))


def test_a_weight_is_one_over_the_propensity_and_one_on_average() -> None:
    """By hand; a row without a chance was certain."""
    assert logged([0.5, 0.25, None]).weights() == pytest.approx(np.array([2.0, 4.0, 1.0]) * 3 / 7)
    assert logged([]).weights().size == 0


def test_a_rare_item_is_clipped() -> None:
    """One row in a thousand does not outweigh the others together."""
    found = logged([1.0] * 999 + [1e-4]).weights()
    assert found.max() == MAX_WEIGHT
    assert found.mean() == pytest.approx(1.0)
    assert found.min() > 0.9


@given(st.lists(st.none() | st.floats(0.0, 1.0), min_size=1, max_size=30))
def test_weights_are_finite_and_above_zero(chances: list[float | None]) -> None:
    """Whatever was logged: a propensity of zero is an error of the log, and counts as certain."""
    found = logged(chances).weights()
    assert ((found > 0.0) & (found <= MAX_WEIGHT)).all()


@pytest.mark.parametrize("kind", ["choice", "ranking"])
def test_both_readers_of_examples_give_the_same_rows(lake: Lake, kind: str) -> None:
    """The batch learner reads by SQL, the watch and the online learner by commits."""
    loop = shop_loop(kind)
    lake.create(loop)
    Shop(loop).fill(lake, 60)
    by_sql = LabeledRows.of(training_set(lake, loop), loop)
    examples = lake.table("shop", EXAMPLES).read()
    by_commit = LabeledRows.of_examples(examples, loop, by_sql.snapshot)
    assert len(by_sql) == (60 if kind == "choice" else 300)
    assert by_sql.features.columns == ["segment", "kind", "price"]
    assert by_sql.features.equals(by_commit.features)
    assert by_sql.shown is not None
    assert by_commit.shown is not None
    assert by_sql.shown.frame.equals(by_commit.shown.frame)
    assert by_sql.label.tolist() == by_commit.label.tolist()
    weights = by_sql.weights()
    assert weights is not None
    in_order = examples.sort("at", "decision_id", "position")
    assert training_weights(in_order, loop).tolist() == weights.tolist()


def test_a_decision_that_has_shown_nothing_is_no_row(lake: Lake) -> None:
    """Its example has no item, so there is nothing whose label it could be."""
    loop = shop_loop()
    lake.create(loop)
    shown = Shop(loop).fill(lake, 5)
    nothing = shown.with_columns(
        pl.lit(None, dtype=shown.schema[name]).alias(name)
        for name in ("item", "position", "item_propensity", "item_features")
    )
    shown = shown.with_columns(
        pl.lit(0, dtype=pl.Int32).alias("partition"), pl.lit(0).alias("offset")
    )
    rows = pl.concat(
        [shown, nothing.with_columns(partition=0, offset=0).select(shown.columns)],
        how="vertical_relaxed",
    )
    assert len(LabeledRows.of_examples(rows, loop, 0)) == 5
