"""Compares predictions on the same rows: a loss as a metric, with a confidence interval.

Callers pass the rows in order of time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from tidemill.features.estimates.intervals import Floats, Interval, interval

Metric = Literal["log_loss", "mse", "policy_cost"]
METRIC_NAMES: Mapping[str, str] = {
    "log_loss": "log loss",
    "mse": "squared error",
    "policy_cost": "policy cost",
}
_TINY = 1e-15  # a wrong probability of exactly 0 or 1 costs 34.5, not infinity


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricScore:
    """The metric of one model on some rows. Every metric is a loss: less is better."""

    name: str
    version: str
    metric: Metric
    value: Interval
    rows: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model or the base rate: its name, its version, and its predictions for the rows."""

    name: str
    version: str
    predicted: Floats


def losses(metric: Metric, label: Floats, predicted: Floats) -> Floats:
    """Return the loss of each row.

    Args:
        metric: log_loss, for labels 0 and 1 and predictions in [0, 1]; or mse.
        label: shape (n,).
        predicted: shape (n,); a prediction that is no number costs infinity.
    """
    if label.shape != predicted.shape or label.ndim != 1:
        raise ValueError(f"shapes {label.shape} and {predicted.shape} are not the same rows")
    with np.errstate(invalid="ignore", over="ignore"):
        if metric == "log_loss":
            chance = np.clip(predicted, _TINY, 1.0 - _TINY)
            lost = -(label * np.log(chance) + (1.0 - label) * np.log1p(-chance))
        elif metric == "mse":
            lost = np.square(label - predicted)
        else:
            raise ValueError(f"{metric!r} is not a loss of a prediction")
    return np.where(np.isfinite(lost), lost, np.inf)


def score(candidate: Candidate, metric: Metric, label: Floats, confidence: float) -> MetricScore:
    """Return the *metric* of *candidate* on the rows with this *label*."""
    lost = losses(metric, label, candidate.predicted)
    return MetricScore(
        name=candidate.name,
        version=candidate.version,
        metric=metric,
        value=interval(lost, confidence),
        rows=label.size,
    )


def roc_auc(label: Floats, predicted: Floats) -> float:
    """Return the chance that a row labelled 1 is predicted above one labelled 0; ties count half.

    Returns:
        A number in [0, 1]; nan if all labels are the same.
    """
    positive = label > 0.5
    above, below = int(positive.sum()), int((~positive).sum())
    if not above or not below:
        return float("nan")
    ranks = stats.rankdata(predicted)
    return float((ranks[positive].sum() - above * (above + 1) / 2) / (above * below))
