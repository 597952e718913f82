"""Policies: how a model's score becomes an action, and how likely that action was.

The propensity is the probability with which the policy takes the very action it took, given the
features. It is 1 for a policy without chance, and None where it says nothing: the actions of a
value policy are a continuum, and a ranking without epsilon is never any other. Chance comes from
the random generator that is handed in. It knows no model and no Kafka.
"""

import math
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Protocol

from tidemill.errors import ModelError

if TYPE_CHECKING:
    from tidemill.schemas.loop.definition import Loop

Action = bool | float | str | list[str]
Features = tuple[object, ...]
"""The checked features of one decision, all of the loop's and in its order. A score that is asked
for an action gets it behind them, where a greedy model's signature has it."""
ScoreFunction = Callable[[Features], float]

Choice = tuple[Action, float | None, float | None]
"""Action, score (of the action; of the first one in a ranking) and propensity. A plain tuple: a
named one would take 0.2 us of the few that a decision has."""


class ActionPolicy(Protocol):
    """Turns scores into an action."""

    def choose(self, score: ScoreFunction, features: Features) -> Choice:
        """Return the action for *features*, which *score* can be asked about.

        Raises:
            ModelError: the model's score is not a finite number.
        """


class ThresholdPolicy:
    """Takes *above* from a score of *threshold* on, else *below*."""

    def __init__(self, threshold: float, above: bool | str, below: bool | str) -> None:
        self.threshold = threshold
        self.above = above
        self.below = below

    def choose(self, score: ScoreFunction, features: Features) -> Choice:
        """Ask for one score; the propensity is 1."""
        found = score(features)
        if found - found != 0.0:
            raise _not_finite(found)
        return (self.above if found >= self.threshold else self.below, found, 1.0)


class ValuePolicy:
    """Takes the score itself, clipped to *low* and *high*."""

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def choose(self, score: ScoreFunction, features: Features) -> Choice:
        """Ask for one score; it is logged as it was before clipping, without a propensity."""
        found = score(features)
        if found - found != 0.0:
            raise _not_finite(found)
        return (min(max(found, self.low), self.high), found, None)


class GreedyPolicy:
    """Takes the action with the best score, or with probability *epsilon* any one of them.

    The best may also come up by chance, so with n actions its propensity is
    1 - epsilon + epsilon / n, and that of each other action is epsilon / n.
    """

    def __init__(self, actions: list[str], epsilon: float, random: Random) -> None:
        self.actions = actions
        self.epsilon = epsilon
        self._random = random

    def choose(self, score: ScoreFunction, features: Features) -> Choice:
        """Ask for the score of each action; of equal ones the first in the loop file is best."""
        scores = action_scores(score, features, self.actions)
        best = max(self.actions, key=scores.__getitem__)
        by_chance = self.epsilon / len(self.actions)
        action = best
        if self.epsilon and self._random.random() < self.epsilon:
            action = self._random.choice(self.actions)
        propensity = by_chance + (1.0 - self.epsilon if action == best else 0.0)
        return (action, scores[action], propensity)


class RankingPolicy:
    """Ranks all actions by their scores, or with probability *epsilon* shuffles them evenly.

    Each of the n! orders may come up by chance, so the sorted one has propensity
    1 - epsilon + epsilon / n! and every other one epsilon / n!; without epsilon it is None.
    """

    def __init__(self, actions: list[str], epsilon: float, random: Random) -> None:
        self.actions = actions
        self.epsilon = epsilon
        self._by_chance = epsilon * math.exp(-math.lgamma(len(actions) + 1))
        self._random = random

    def choose(self, score: ScoreFunction, features: Features) -> Choice:
        """Ask for the score of each action; equal ones keep the order of the loop file."""
        scores = action_scores(score, features, self.actions)
        ranked = sorted(self.actions, key=lambda action: -scores[action])
        if not self.epsilon:
            return (ranked, scores[ranked[0]], None)
        shown = ranked
        if self._random.random() < self.epsilon:
            shown = self._random.sample(self.actions, len(self.actions))
        propensity = self._by_chance + (1.0 - self.epsilon if shown == ranked else 0.0)
        return (shown, scores[shown[0]], propensity)


def policy_of(loop: "Loop", random: Random) -> ActionPolicy:
    """Return the policy that *loop* names; *random* is where epsilon gets its chance from."""
    settings = loop.policy
    if settings.kind == "value":
        low = -math.inf if settings.low is None else settings.low
        return ValuePolicy(low, math.inf if settings.high is None else settings.high)
    if settings.kind == "threshold":
        if settings.above is None or settings.below is None:
            raise ValueError(f"the policy of {loop.loop} names no actions: {settings}")
        return ThresholdPolicy(settings.threshold, settings.above, settings.below)
    if loop.decision.type == "ranking":
        return RankingPolicy(loop.decision.actions, settings.epsilon, random)
    return GreedyPolicy(loop.decision.actions, settings.epsilon, random)


def default_choice(loop: "Loop") -> Choice:
    """Return what *loop* answers without a model: no score, and nothing left to chance."""
    certain = 1.0 if loop.decision.type in ("bool", "choice") else None
    return (loop.decision.default, None, certain)


def action_scores(score: ScoreFunction, features: Features, actions: list[str]) -> dict[str, float]:
    """Return the score of each action, asked for as one more feature behind the others.

    Raises:
        ModelError: one of them is not a finite number.
    """
    scores = {}
    for action in actions:
        scores[action] = found = score((*features, action))
        if found - found != 0.0:  # NaN and infinity, without the price of a call
            raise _not_finite(found)
    return scores


def _not_finite(score: float) -> ModelError:
    return ModelError(f"the model's score is {score}", hint="train the model again and publish it")
