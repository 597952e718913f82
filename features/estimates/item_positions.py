"""Values of rankings from the log of another policy, by the items at their positions.

The item-position model says that what an item earns at a position does not depend on the items
around it. So the value of a policy is the sum, over positions and items, of the chance that it
shows the item there times what the item earns there, and a row of the log weighs that chance
divided by the chance of the logging policy to show the item there.
Source: S. Li, Y. Abbasi-Yadkori, B. Kveton, S. Muthukrishnan, V. Vinay, Z. Wen, "Offline evaluation
of ranking policies with click models", KDD 2018, section 4.2.

The log has the probability of each position given those before it, which is not that chance: to
know it, one would have to know what the policy would have done after other beginnings. So rows are
weighted in two steps. The first makes them rows of a policy that orders the items evenly at random,
by the probabilities of both for the beginning up to the position (importance sampling). Under that
policy each of n items is at each position with the chance 1 / n, which is the second step.
"""

import numpy as np

from tidemill.features.estimates.intervals import Floats
from tidemill.features.estimates.off_policy import Integers


def position_weights(propensity: Floats, items: Integers) -> Floats:
    """Return what a position weighs for a policy that certainly shows its item there.

    Args:
        propensity: the logged probability of the item at each position, given those before it,
            shape (decisions, positions); nan behind the last one that was shown.
        items: how many items could have been shown, shape (decisions,).

    Returns:
        n times the product, up to the position, of the even probability 1 / (n - k) over the
        logged one; at the first position that is 1 / propensity.

    >>> position_weights(np.array([[0.5, 0.25]]), np.array([4])).tolist()
    [[2.0, 2.6666666666666665]]
    """
    left = items[:, None] - np.arange(propensity.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = 1.0 / (left * propensity)
    return np.asarray(items[:, None] * np.cumprod(ratios, axis=1))
