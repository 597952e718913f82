"""Metrics: one way to compare models, with intervals that allow for chance."""

import math

import numpy as np
import pytest

from tidemill.trainers.evaluation.metrics import (
    Candidate,
    losses,
    roc_auc,
    score,
)

LABELS = np.array([0.0, 1.0, 1.0])


def test_a_loss_is_what_the_textbook_says() -> None:
    """Numbers a person can check by hand."""
    predicted = np.array([0.5, 0.5, 0.25])
    assert losses("log_loss", LABELS, predicted).tolist() == pytest.approx(
        [math.log(2), math.log(2), math.log(4)]
    )
    assert losses("mse", LABELS, predicted).tolist() == [0.25, 0.25, 0.5625]


def test_a_sure_and_wrong_prediction_costs_much_but_not_everything() -> None:
    """One row must not make a mean infinite; one that is no number must."""
    assert losses("log_loss", np.array([1.0]), np.array([0.0]))[0] == pytest.approx(34.54, abs=0.01)
    assert losses("log_loss", np.array([1.0]), np.array([math.nan]))[0] == math.inf
    assert losses("mse", np.array([1.0]), np.array([math.inf]))[0] == math.inf


def test_other_rows_are_refused() -> None:
    """Two models compared on different rows are not compared."""
    with pytest.raises(ValueError, match="same rows"):
        losses("mse", LABELS, np.zeros(2))


def test_a_score_names_what_it_is_of() -> None:
    """The table of an experiment is read by people."""
    found = score(Candidate("lightgbm", "lightgbm-3", LABELS), "mse", LABELS, 0.95)
    assert (found.name, found.version, found.metric, found.rows) == (
        "lightgbm",
        "lightgbm-3",
        "mse",
        3,
    )
    assert found.value.mean == 0.0


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([0.1, 0.8, 0.9], 1.0),
        ([0.9, 0.8, 0.1], 0.0),
        ([0.5, 0.5, 0.5], 0.5),
        ([0.3, 0.3, 0.4], 0.75),
    ],
)
def test_the_area_under_the_curve_counts_pairs(predicted: list[float], expected: float) -> None:
    """Ties are half a pair: a constant model is worth exactly a coin."""
    assert roc_auc(LABELS, np.array(predicted)) == expected


def test_one_label_alone_has_no_curve() -> None:
    """A month without a single late flight must not crash the report."""
    assert math.isnan(roc_auc(np.ones(3), LABELS))
