"""Exploration with a share epsilon of the decisions, the same for all policies that take actions.

With probability epsilon one of the actions is taken at random, and the one that would be taken
anyway is among them. So of n actions that one has the propensity 1 - epsilon + epsilon / n, and
each other action has epsilon / n.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from tidemill.serving.policies.chance import Chance
from tidemill.serving.policies.choice import Outcome

A = TypeVar("A", bound=bool | float | str)


class Exploration:
    """How much of the decisions are explored, and by what chance.

    Args:
        epsilon: the share while there is no model, and for good without *decay*.
        decay: after so many examples that the live model has learned from, the share is halved;
            after twice as many it is a third; None for a share that stays.
        chance: gives each decision its numbers.
    """

    def __init__(self, epsilon: float, decay: int | None, chance: Chance) -> None:
        self.epsilon = epsilon
        self.chance = chance
        self._decay = decay

    def share(self, learned_from: int) -> float:
        """Return the share for a model that has learned from so many examples."""
        if self._decay is None:
            return self.epsilon
        return self.epsilon * self._decay / (self._decay + learned_from)

    def among(
        self, best: A, actions: Sequence[A], epsilon: float, key: bytes
    ) -> tuple[A, float, bool]:
        """Return *best* or another of *actions*, its propensity, and whether chance took it."""
        if not epsilon:
            return best, 1.0, False
        action, by_chance = best, epsilon / len(actions)
        first, second = self.chance.pair(key)
        if first < epsilon:
            action = actions[int(second * len(actions))]
        propensity = by_chance if action in actions else 0.0
        return action, propensity + (1.0 - epsilon if action == best else 0.0), first < epsilon

    def outcomes(
        self, best: A, actions: Sequence[A], epsilon: float, scores: Mapping[A, float]
    ) -> list[Outcome]:
        """Return each action with its probability, which may be 0, and its score if it has one."""
        found = dict.fromkeys(actions, epsilon / len(actions))
        found[best] = found.get(best, 0.0) + 1.0 - epsilon
        return [(action, chance, scores.get(action)) for action, chance in found.items()]

    def order(
        self, best: list[A], actions: Sequence[A], epsilon: float, key: bytes
    ) -> tuple[list[A], float | None, list[float] | None, bool]:
        """Return *best*, or as many of *actions* in a random order, and whether chance took it.

        Between them are the propensity of the order, and the probability of each position, given
        those before it. Both are None without exploration.
        """
        if not epsilon:
            return best, None, None, False
        first, *rest = self.chance.numbers(key, 1 + len(best))
        order = shuffled(actions, rest) if first < epsilon else best
        positions = _positions(order, best, len(actions), epsilon)
        return order, probability_of(positions), positions, first < epsilon


def probability_of(positions: Sequence[float]) -> float | None:
    """Return the probability of an order by that of its *positions*, given those before each.

    It is None where it is too small for a double: a zero would say that the order cannot happen.
    """
    return math.prod(positions) or None


def shuffled(actions: Sequence[A], numbers: Sequence[float]) -> list[A]:
    """Return as many of *actions* as there are *numbers*, in an order that the numbers draw."""
    left = list(actions)
    return [left.pop(int(number * len(left))) for number in numbers]


def _positions(order: list[A], best: list[A], count: int, epsilon: float) -> list[float]:
    """Return the probability of each position of *order*, given those before it.

    As long as the positions are those of *best*, either the policy or chance may have taken them;
    `by_chance` is how likely it was chance, given the positions so far.
    """
    positions, by_chance = [], epsilon
    for place, (action, usual) in enumerate(zip(order, best, strict=True)):
        drawn = by_chance / (count - place)
        positions.append(drawn + (1.0 - by_chance if action == usual else 0.0))
        by_chance = drawn / positions[-1]
    return positions
