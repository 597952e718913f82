"""Means with confidence intervals for rows that are not independent.

Callers pass the rows in order of time.

Intervals are by batch means: the rows are divided into 30 consecutive runs, and the spread of the
means of the runs gives the interval. Decisions of the same hour share causes, say an outage, so
the spread of single rows would give an interval that is far too narrow.
Source: A. M. Law, "Simulation Modeling and Analysis", 5th ed., section 9.5.3 (batch means).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
RUNS = 30  # enough for a t-interval; few enough that a run outlasts causes that neighbours share


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


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


def difference(first: Floats, second: Floats, confidence: float) -> Interval:
    """Return the mean of *first* minus *second*, row by row, with its interval."""
    if first.shape != second.shape:
        raise ValueError(f"shapes {first.shape} and {second.shape} are not the same rows")
    with np.errstate(invalid="ignore"):
        return interval(first - second, confidence)
