"""Values of policies from the log of another one, by the propensities that it logged.

The weight of a row is the probability that the judged policy takes the logged action, divided by
the propensity: the probability that the logging policy took it. Where the log could have taken
every action that the judged policy takes, weights are 1 on average, and weighted rewards are the
reward that the judged policy would have had.

An estimate keeps one term for each row. The mean of the terms is the value, and the difference of
two policies is the mean of the differences of their terms, whose interval is by batch means.

Sources: D. G. Horvitz, D. J. Thompson, "A generalization of sampling without replacement from a
finite universe", JASA 47, 1952 (IPS). A. Swaminathan, T. Joachims, "The self-normalized estimator
for counterfactual learning", NIPS 2015 (SNIPS). M. Dudik, J. Langford, L. Li, "Doubly robust policy
evaluation and learning", ICML 2011 (DR). A. Kong, "A note on importance sampling using standardized
weights", University of Chicago, 1992 (effective sample size).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidemill.features.estimates.intervals import Floats, Interval, difference, interval

_SURE = 0.999  # how sure the support check is before it says that the log lacks actions


Integers = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The value of one policy; *terms*, shape (n,), has the value as its mean."""

    terms: Floats

    @property
    def value(self) -> float:
        """The reward of a decision, on average."""
        return float(np.mean(self.terms))

    def summed(self, first: Integers) -> "Estimate":
        """Return the estimate for groups of rows, whose values add up; see `sums`."""
        return Estimate(sums(self.terms, first))

    def interval(self, confidence: float) -> Interval:
        """Return the value with its interval."""
        return interval(self.terms, confidence)

    def above(self, other: "Estimate", confidence: float) -> Interval:
        """Return by how much the value is above that of *other*, on the same rows."""
        return difference(self.terms, other.terms, confidence)


def sums(values: Floats, first: Integers) -> Floats:
    """Return the sum of each group of rows, whose *first* rows have these numbers.

    >>> sums(np.array([1.0, 2.0, 3.0]), np.array([0, 2])).tolist()
    [3.0, 3.0]
    """
    return np.add.reduceat(values, first) if first.size else np.empty(0)


def ips(reward: Floats, weight: Floats) -> Estimate:
    """Return the value by inverse propensities: unbiased, and of the largest variance.

    Args:
        reward: of the logged action, shape (n,).
        weight: of each row, shape (n,).
    """
    return Estimate(weight * reward)


def snips(reward: Floats, weight: Floats) -> Estimate:
    """Return the self-normalised value: the weighted mean of *reward*.

    It does not change with a constant added to all rewards but by that constant. Its terms are
    linear in the deviation from the value (the delta method), which has the value as its mean.

    Raises:
        ValueError: all weights are 0, so no row says anything about the policy.
    """
    total = float(np.mean(weight)) if weight.size else 0.0
    if total <= 0.0:
        raise ValueError("all weights are 0: the log has no decision that the policy would make")
    value = float(np.mean(weight * reward)) / total
    return Estimate(value + weight * (reward - value) / total)


def doubly_robust(reward: Floats, weight: Floats, predicted: Floats, expected: Floats) -> Estimate:
    """Return the value by a model of the reward, corrected where the log knows better.

    It is unbiased with any model, and a good one makes its variance smaller than that of `ips`.

    Args:
        reward: of the logged action, shape (n,).
        weight: of each row, shape (n,).
        predicted: the model's reward of the logged action, shape (n,). The model must not have
            learned the rows.
        expected: the model's reward of what the judged policy does, shape (n,).
    """
    return Estimate(expected + weight * (reward - predicted))


def clipped(weight: Floats, most: float) -> Floats:
    """Return the weights, those above *most* lowered to it: less variance for some bias.

    Source: E. L. Ionides, "Truncated importance sampling", J. Comp. Graph. Stat. 17(2), 2008.

    >>> clipped(np.array([0.5, 30.0]), 10.0).tolist()
    [0.5, 10.0]
    """
    if not most > 0.0:
        raise ValueError(f"weights cannot be clipped at {most}")
    return np.minimum(weight, most)


def effective_rows(weight: Floats) -> float:
    """Return how many equally weighted rows would say as much, (sum w)^2 / sum w^2; 0 if none do.

    >>> effective_rows(np.array([2.0, 2.0, 0.0, 0.0]))
    2.0
    """
    squares = float(np.sum(np.square(weight)))
    return float(np.sum(weight)) ** 2 / squares if squares else 0.0


def is_supported(weight: Floats) -> bool:
    """Return whether the weights can be 1 on average, as they are if the log has full support.

    They are not if the logging policy never takes an action that the judged one would take, or if
    its propensities are wrong.
    """
    mean = interval(weight, _SURE)
    return mean.low <= 1.0 <= mean.high and float(np.max(weight)) > 0.0
