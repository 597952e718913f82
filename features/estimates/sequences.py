"""Looks again and again: intervals and levels that stay honest however often somebody looks.

An interval of 95 % that is computed each day excludes the truth on some day almost surely. Two
remedies are here. A confidence sequence is one interval for each size of the sample, all of which
hold the truth together. A spent level gives the k-th test of a series a part of the error that all
of them may make together.
"""

import math

import numpy as np

from tidemill.features.estimates.intervals import Floats, Interval

START = 30  # values from which on their deviation is known well enough; below, say nothing
_TIGHT_AT = 100  # the number of values at which the sequence is made to be tightest


def confidence_sequence(values: Floats, confidence: float, tight_at: float = _TIGHT_AT) -> Interval:
    """Return the present interval of the asymptotic confidence sequence for the mean.

    With t values of mean m and standard deviation s it is ::

        m +- s sqrt(2 (t r^2 + 1) / (t^2 r^2) log(sqrt(t r^2 + 1) / a)),  a = 1 - confidence

    where r makes it tightest at *tight_at* values.
    Source: I. Waudby-Smith, D. Arbour, R. Sinha, E. H. Kennedy, A. Ramdas, "Time-uniform central
    limit theory and asymptotic confidence sequences", Annals of Statistics 52(6), 2024, theorem
    2.2 and appendix B.2 (the choice of r).

    Args:
        values: shape (t,), in order of time. Pass means of runs of rows where rows depend on their
            neighbours or are skewed, as weighted rewards are; each run with as many rows.
        confidence: the chance that every interval of the sequence holds the mean, in (0, 1).
        tight_at: the number of values of which it is tightest.

    Returns:
        The mean with its bounds, which are infinite below `START` values.
    """
    count = values.size
    mean = float(np.mean(values)) if count else math.nan
    if count < START:
        return Interval(mean, -math.inf, math.inf)
    error = 1.0 - confidence
    chance = -2.0 * math.log(error)
    rate = (chance + math.log(chance + 1.0)) / tight_at  # r^2
    grown = count * rate + 1.0
    reach = 2.0 * grown / (count**2 * rate) * math.log(math.sqrt(grown) / error)
    half = float(np.std(values, ddof=1)) * math.sqrt(reach)
    return Interval(mean, mean - half, mean + half)


def spent_confidence(look: int, confidence: float) -> float:
    """Return the confidence of the *look*-th test of a series, counted from 1.

    The tests may depend on each other in any way: the k-th may err with the chance
    (1 - confidence) / (k (k + 1)), and these add up to 1 - *confidence* for all tests together.
    Source: D. P. Foster, R. A. Stine, "Alpha-investing", JRSS B 70(2), 2008, section 2 (alpha
    spending), with Bonferroni's inequality.

    >>> [round(spent_confidence(look, 0.95), 4) for look in (1, 2, 20)]
    [0.975, 0.9917, 0.9999]
    """
    if look < 1:
        raise ValueError(f"looks are counted from 1, not {look}")
    return 1.0 - (1.0 - confidence) / (look * (look + 1.0))
