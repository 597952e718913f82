"""The policies of loops whose requests bring the items to choose among.

They are those of fixed actions, and they know items by their places in the request, because their
number and their ids are others each time. Of each item they say how likely it was: in a choice that
it is taken, in a ranking that it gets its position, given those before it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

from tidemill.serving.policies.choice import not_finite
from tidemill.serving.policies.discrete import softmax_weights
from tidemill.serving.policies.exploration import Exploration

_LEAST_TOTAL = 1e-200  # of smaller weights the digits are gone: they are made anew


class ItemChoice(NamedTuple):
    """What a policy made of the items of one request.

    Attributes:
        order: the places of the items that are shown, in their order; of a choice it is one.
        propensities: one for each item of the request. In a choice it is the probability that the
            item is taken; in a ranking that of its position, given those before it, and None for an
            item that has none.
        is_explored: whether chance alone took the order.
    """

    order: list[int]
    propensities: list[float | None]
    is_explored: bool


class ItemPolicy(Protocol):
    """Turns the scores of items into an order; *key* is the id of the decision."""

    def choose(self, scores: Sequence[float], learned_from: int, key: bytes) -> ItemChoice:
        """Return the order of items with *scores*, of a model that learned from so many examples.

        Raises:
            ModelError: a score is not a finite number.
        """

    def without_model(self, default: Sequence[int], count: int, key: bytes) -> ItemChoice:
        """Return the order of *count* items while there is no model: *default*, or explored."""


class BestItem:
    """Takes the item with the best score, and explores the others."""

    def __init__(self, exploration: Exploration) -> None:
        self._exploration = exploration

    def choose(self, scores: Sequence[float], learned_from: int, key: bytes) -> ItemChoice:
        """Choose by the scores; of equal ones the first item of the request wins."""
        check_finite(scores)
        best = max(range(len(scores)), key=scores.__getitem__)
        return self._among(best, len(scores), self._exploration.share(learned_from), key)

    def without_model(self, default: Sequence[int], count: int, key: bytes) -> ItemChoice:
        """Take the first of *default*, or explore."""
        return self._among(default[0], count, self._exploration.epsilon, key)

    def _among(self, best: int, count: int, epsilon: float, key: bytes) -> ItemChoice:
        taken, _, is_explored = self._exploration.among(best, range(count), epsilon, key)
        propensities: list[float | None] = [epsilon / count] * count
        propensities[best] = 1.0 - epsilon + epsilon / count
        return ItemChoice([taken], propensities, is_explored)


class SoftmaxItem(BestItem):
    """Takes each item with a probability that grows with its score, as `SoftmaxPolicy` does."""

    def __init__(self, temperature: float, exploration: Exploration) -> None:
        super().__init__(exploration)
        self.temperature = temperature

    def choose(self, scores: Sequence[float], learned_from: int, key: bytes) -> ItemChoice:
        """Draw one item."""
        check_finite(scores)
        epsilon = self._exploration.share(learned_from)
        weights = softmax_weights(scores, self.temperature)
        total, even = sum(weights), epsilon / len(weights)
        propensities = [(1.0 - epsilon) * weight / total + even for weight in weights]
        (number,) = self._exploration.chance.numbers(key, 1)
        return ItemChoice([place_drawn(weights, epsilon, number)], [*propensities], False)


class RankedItems:
    """Orders the items by their scores, or with probability epsilon at random."""

    def __init__(self, exploration: Exploration) -> None:
        self._exploration = exploration

    def choose(self, scores: Sequence[float], learned_from: int, key: bytes) -> ItemChoice:
        """Order by the scores; of equal ones the first item of the request comes first."""
        check_finite(scores)
        best = sorted(range(len(scores)), key=lambda place: -scores[place])
        return self._ordered(best, len(scores), self._exploration.share(learned_from), key)

    def without_model(self, default: Sequence[int], count: int, key: bytes) -> ItemChoice:
        """Take *default*, or as many items in a random order."""
        return self._ordered(list(default), count, self._exploration.epsilon, key)

    def _ordered(self, best: list[int], count: int, epsilon: float, key: bytes) -> ItemChoice:
        order, _, positions, is_explored = self._exploration.order(best, range(count), epsilon, key)
        certain = [1.0] * len(order)
        return ItemChoice(order, by_item(order, positions or certain, count), is_explored)


class PlackettLuceItems(RankedItems):
    """Draws one position after the other, each by softmax among the items that are left.

    A share epsilon of each position is spread evenly over the items that are left.
    """

    def __init__(self, temperature: float, exploration: Exploration) -> None:
        super().__init__(exploration)
        self.temperature = temperature

    def choose(self, scores: Sequence[float], learned_from: int, key: bytes) -> ItemChoice:
        """Draw an order of all items."""
        check_finite(scores)
        epsilon = self._exploration.share(learned_from)
        left, order, positions = list(range(len(scores))), list[int](), list[float]()
        weights, total = list[float](), 0.0
        for number in self._exploration.chance.numbers(key, len(scores)):
            if total < _LEAST_TOTAL:
                weights = softmax_weights([scores[place] for place in left], self.temperature)
                total = sum(weights)
            at = place_drawn(weights, epsilon, number)
            positions.append((1.0 - epsilon) * weights[at] / total + epsilon / len(left))
            order.append(left.pop(at))
            del weights[at]
            total = sum(weights)
        return ItemChoice(order, by_item(order, positions, len(scores)), False)


def check_finite(scores: Sequence[float]) -> None:
    """Refuse scores that are not finite numbers.

    Raises:
        ModelError: one of them is not.
    """
    for score in scores:
        if score - score != 0.0:  # NaN and infinity, without the cost of a call
            raise not_finite(score)


def place_drawn(weights: Sequence[float], epsilon: float, number: float) -> int:
    """Return the place that *number*, between 0 and 1, draws.

    Up to *epsilon* it draws evenly, and in proportion to the weights from there on.
    """
    if number < epsilon:
        return min(int(number / epsilon * len(weights)), len(weights) - 1)
    up_to = list(accumulate(weights))
    share = (number - epsilon) / (1.0 - epsilon)
    place = min(bisect_right(up_to, share * up_to[-1]), len(weights) - 1)
    while weights[place] == 0.0:  # rounding has led behind the last one that may be drawn
        place -= 1
    return place


def by_item(order: Sequence[int], positions: Sequence[float], count: int) -> list[float | None]:
    """Return the propensity of the position of each of *count* items; None where it has none."""
    found: list[float | None] = [None] * count
    for place, propensity in zip(order, positions, strict=True):
        found[place] = propensity
    return found
