"""Compares predictions on the same rows: a loss as a metric, with a confidence interval.

Callers pass the rows in order of time.

Intervals are by batch means: the rows are divided into 30 consecutive runs, and the spread of the
means of the runs gives the interval. Decisions of the same hour share causes, say an outage, so
the spread of single rows would give an interval that is far too narrow.
Source: A. M. Law, "Simulation Modeling and Analysis", 5th ed., section 9.5.3 (batch means).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Metric = Literal["log_loss", "mse", "policy_cost"]
METRIC_NAMES: Mapping[str, str] = {
    "log_loss": "log loss",
    "mse": "squared error",
    "policy_cost": "policy cost",
}
RUNS = 30  # enough for a t-interval; few enough that a run outlasts causes that neighbours share
_TINY = 1e-15  # a wrong probability of exactly 0 or 1 costs 34.5, not infinity


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


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


def interval(values: Floats, confidence: float) -> Interval:
    """Return the mean of *values* with its interval by batch means.

    Args:
        values: shape (n,), in order of time, n at least 1.
        confidence: share of such intervals that hold the true mean, in (0, 1).

    Returns:
        The mean; its bounds are infinite if there are fewer than two values.
    """
    if values.size == 0:
        raise ValueError("no rows: a mean of nothing is not a number")
    mean = float(np.mean(values))
    runs = min(RUNS, values.size)
    if runs < 2 or not np.isfinite(mean):
        return Interval(mean, -np.inf, np.inf)
    edges = np.linspace(0, values.size, runs + 1).round().astype(np.int64)
    sizes = np.diff(edges)
    deviations = np.add.reduceat(values - mean, edges[:-1])
    variance = float(np.sum(np.square(deviations))) / float(np.sum(sizes)) ** 2 * runs / (runs - 1)
    reach = float(stats.t.ppf(0.5 + confidence / 2, runs - 1)) * variance**0.5
    return Interval(mean, mean - reach, mean + reach)


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


def difference(first: Floats, second: Floats, confidence: float) -> Interval:
    """Return the mean of *first* minus *second*, row by row; below zero, the first costs less."""
    if first.shape != second.shape:
        raise ValueError(f"shapes {first.shape} and {second.shape} are not the same rows")
    with np.errstate(invalid="ignore"):
        return interval(first - second, confidence)


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
