"""Values of rankings by position: on average the truth of the item-position model."""

from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import pytest

from tidemill.features.estimates.item_positions import position_weights
from tidemill.features.estimates.off_policy import doubly_robust, snips

ITEMS = 4
EARNED = np.random.default_rng(3).random((ITEMS, ITEMS))
"""What an item earns at a position, shape (items, positions)."""
Order = tuple[int, ...]


def greedy(order: Order) -> list[float]:
    """Return the probability of each position of *order*, by 3, 1, 0, 2 with an epsilon of 0.3."""
    usual, by_chance, found = (3, 1, 0, 2), 0.3, []
    for position, item in enumerate(order):
        drawn = by_chance / (ITEMS - position)
        found.append(drawn + (1.0 - by_chance) * (item == usual[position]))
        by_chance = drawn / found[-1]
    return found


def softmax(order: Order) -> list[float]:
    """Return the same of a Plackett-Luce policy."""
    weights, left, found = [1.0, 2.0, 0.5, 4.0], set(range(ITEMS)), []
    for item in order:
        found.append(weights[item] / sum(weights[each] for each in left))
        left.remove(item)
    return found


def expectation(
    policy: Callable[[Order], Sequence[float]], length: int, target: Order, *, naive: bool = False
) -> float:
    """Return what the estimate of *target* is on average over all orders that *policy* logs.

    *naive* weighs by the logged probability of the position alone.
    """
    value = 0.0
    for order in permutations(range(ITEMS), length):
        chances = np.array([policy(order)])
        weight = 1.0 / chances if naive else position_weights(chances, np.array([ITEMS]))
        earned = [EARNED[item, place] * (item == target[place]) for place, item in enumerate(order)]
        value += float(np.prod(chances)) * float(weight[0] @ np.array(earned))
    return value


@pytest.mark.parametrize("policy", [greedy, softmax])
@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("target", [(3, 1, 0, 2), (0, 1, 2, 3), (2, 0, 3, 1)])
def test_the_estimate_is_the_value_on_average(
    policy: Callable[[Order], Sequence[float]], length: int, target: Order
) -> None:
    """Over all orders that could have been logged, each as often as it is: to 1e-9."""
    truth = sum(EARNED[target[place], place] for place in range(length))
    assert expectation(policy, length, target) == pytest.approx(truth, abs=1e-9)


def test_the_probability_of_a_position_given_those_before_is_not_enough() -> None:
    """Negative control: divided by it alone, an estimate is biased from the second position on."""
    truth = sum(EARNED[item, place] for place, item in enumerate((2, 0, 3, 1)))
    assert abs(expectation(greedy, 4, (2, 0, 3, 1), naive=True) - truth) > 0.1


def test_a_choice_is_a_ranking_of_one_position() -> None:
    """So choices and rankings of items are judged by the same lines."""
    chances = np.array([[0.25], [0.6]])
    assert position_weights(chances, np.array([5, 200])).tolist() == [[4.0], [1.0 / 0.6]]


def test_a_decision_earns_the_sum_of_its_positions() -> None:
    """Both estimators, with decisions of two, one and three positions, by hand."""
    reward = np.array([1.0, 0.0, 1.0, 0.5, 0.0, 2.0])
    weight = np.array([2.0, 0.0, 0.5, 1.0, 3.0, 0.0])
    predicted, expected = np.full(6, 0.25), np.array([0.5, 0.5, 0.25, 0.0, 0.0, 0.0])
    first = np.array([0, 2, 3])
    found = snips(reward, weight).summed(first)
    assert found.terms.shape == (3,)
    assert found.value == pytest.approx((weight @ reward) / weight.sum() * 2.0, abs=1e-9)
    robust = doubly_robust(reward, weight, predicted, expected).summed(first)
    by_hand = [1.0 + 2.0 * 0.75, 0.25 + 0.5 * 0.75, 1.0 * 0.25 + 3.0 * -0.25]
    assert robust.terms == pytest.approx(by_hand, abs=1e-9)
