"""The difference of two groups of units, say of visitors in the canary and of all others.

Which group a unit is in is a hash, so the difference of the means is what the groups were given.
The decisions of one unit depend on each other: the interval counts units, not decisions.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from tidemill.features.estimates.intervals import Floats, Interval

MIN_UNITS = 30
"""Units of each group below which the interval is infinite: their spread is not known."""


@dataclass(frozen=True, slots=True)
class GroupMean:
    """The mean of the decisions of some units, and its variance.

    Attributes:
        mean: over all decisions.
        variance: of that mean, by the spread of units.
        rows: decisions.
        units: those that made them.
    """

    mean: float
    variance: float
    rows: int
    units: int


def group_mean(values: Floats, units: Floats) -> GroupMean:
    """Return the mean of *values* over decisions that the *units* have made.

    It is a ratio of two sums over units, with its variance by linearization.
    Source: W. G. Cochran, "Sampling Techniques", 3rd ed., section 6.4 (ratio estimates).

    Args:
        values: shape (n,).
        units: the number of the unit of each value, shape (n,).
    """
    if not values.size:
        return GroupMean(float("nan"), float("inf"), 0, 0)
    _, unit = np.unique(units, return_inverse=True)
    mean, count = float(np.mean(values)), int(unit.max()) + 1
    if count < 2:
        return GroupMean(mean, float("inf"), values.size, count)
    beyond = np.bincount(unit, weights=values - mean)
    spread = float(np.sum(np.square(beyond))) * count / (count - 1)
    return GroupMean(mean, spread / values.size**2, values.size, count)


def gain_over(own: GroupMean, other: GroupMean, confidence: float) -> Interval:
    """Return the mean of *own* minus that of *other*, with its interval by the normal law.

    Its bounds are infinite while a group has fewer than `MIN_UNITS` units.
    """
    gain = own.mean - other.mean
    reach = float("inf")
    if min(own.units, other.units) >= MIN_UNITS:
        reach = float(stats.norm.ppf(0.5 + confidence / 2)) * (own.variance + other.variance) ** 0.5
    return Interval(gain, gain - reach, gain + reach)
