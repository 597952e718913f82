"""Labels: DuckDB computes them from joined feedback, and one bad value harms no other label."""

import numpy as np
import polars as pl

from tidemill.streams.join.labels import GROUP, Labels


def rows(*pairs: tuple[int, float | None]) -> pl.DataFrame:
    """Return joined feedback of (decision, value)."""
    group, values = zip(*pairs, strict=True)
    return pl.DataFrame({GROUP: group, "amount": values}, schema_overrides={"amount": pl.Float64})


def test_each_decision_gets_the_label_of_its_own_feedback() -> None:
    """And a decision without feedback gets none."""
    labels = Labels("sum(amount)", label_type="float").of(rows((0, 1.0), (2, 2.0), (2, 3.0)), 4)
    assert labels[[0, 2]].tolist() == [1.0, 5.0]
    assert np.isnan(labels[[1, 3]]).all()


def test_a_bool_label_is_zero_or_one() -> None:
    """Learners take numbers."""
    labels = Labels("max(amount) > 1", label_type="bool").of(rows((0, 1.0), (1, 2.0)), 2)
    assert labels.tolist() == [0.0, 1.0]


def test_a_value_that_is_not_finite_is_no_label() -> None:
    """An infinite label would end the training; null means that there is no label."""
    given = rows((0, float("inf")), (1, float("nan")), (2, None), (3, 1.0))
    labels = Labels("max(amount)", label_type="float").of(given, 4)
    assert np.isnan(labels[:3]).all()
    assert labels[3] == 1.0


def test_one_impossible_label_leaves_the_others_alone() -> None:
    """A bad record never stops a partition; it is counted."""
    given = rows(*((number, -1.0 if number == 17 else 4.0) for number in range(40)))
    labels = Labels("max(if(amount < 0, error('no'), amount))", label_type="float")
    computed = labels.of(given, 40)
    assert np.isnan(computed[17])
    assert np.delete(computed, 17).tolist() == [4.0] * 39
    assert labels.failed == 1
