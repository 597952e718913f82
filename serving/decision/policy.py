"""Policies: they turn the score of a model into an action with its propensity.

The propensity is the probability, given the features, that the policy takes the action it took. It
is 1 for a policy without randomness. It is None where it has no meaning: for a value policy, whose
actions are continuous, and for a ranking without epsilon. Callers pass the random generator.
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
"""The checked features of one decision: all features of the loop, in its order. To score an action,
the action is appended, as in the signature of a greedy model."""
ScoreFunction = Callable[[Features], float]

Choice = tuple[Action, float | None, float | None]
"""Action, score (in a ranking that of the first action) and propensity. It is a plain tuple because
a named one takes 0.2 us more, of the few a decision takes."""


class ActionPolicy(Protocol):
    """Turns scores into an action."""

    def choose(self, score: ScoreFunction, features: Features) -> Choice:
        """Return the action for *features*, by what *score* returns for them.

        Raises:
            ModelError: the model's score is not a finite number.
        """


class ThresholdPolicy:
    """Takes *above* if the score is at least *threshold*, else *below*."""

    def __init__(self, threshold: float, above: bool | str, below: bool | str) -> None:
        self.threshold = threshold
        self.above = above
        self.below = below

    def choose(self, score: ScoreFunction, features: Features) -> Choice:
        """Choose by one score; the propensity is 1."""
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
        """Choose by one score; the logged score is not clipped, and there is no propensity."""
        found = score(features)
        if found - found != 0.0:
            raise _not_finite(found)
        return (min(max(found, self.low), self.high), found, None)


class GreedyPolicy:
    """Takes the action with the best score, or with probability *epsilon* a random one.

    The random action may be the best one, so of n actions the best one has the propensity
    1 - epsilon + epsilon / n, and each other action has epsilon / n.
    """

    def __init__(self, actions: list[str], epsilon: float, random: Random) -> None:
        self.actions = actions
        self.epsilon = epsilon
        self._random = random

    def choose(self, score: ScoreFunction, features: Features) -> Choice:
        """Score each action and choose; of equal scores the first action in the loop file wins."""
        scores = action_scores(score, features, self.actions)
        best = max(self.actions, key=scores.__getitem__)
        by_chance = self.epsilon / len(self.actions)
        action = best
        if self.epsilon and self._random.random() < self.epsilon:
            action = self._random.choice(self.actions)
        propensity = by_chance + (1.0 - self.epsilon if action == best else 0.0)
        return (action, scores[action], propensity)


class RankingPolicy:
    """Ranks all actions by their scores, or with probability *epsilon* in a random order.

    The random order may be any of n!, so the sorted one has the propensity
    1 - epsilon + epsilon / n!, and every other one has epsilon / n!. Without epsilon it is None.
    """

    def __init__(self, actions: list[str], epsilon: float, random: Random) -> None:
        self.actions = actions
        self.epsilon = epsilon
        self._by_chance = epsilon * math.exp(-math.lgamma(len(actions) + 1))
        self._random = random

    def choose(self, score: ScoreFunction, features: Features) -> Choice:
        """Score each action and rank; actions with equal scores keep the order of the loop file."""
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
    """Return the policy of *loop*; it explores with the help of *random*."""
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
    """Return the default action of *loop*, without a score."""
    certain = 1.0 if loop.decision.type in ("bool", "choice") else None
    return (loop.decision.default, None, certain)


def action_scores(score: ScoreFunction, features: Features, actions: list[str]) -> dict[str, float]:
    """Return the score of each action, which is appended to the features.

    Raises:
        ModelError: a score is not a finite number.
    """
    scores = {}
    for action in actions:
        scores[action] = found = score((*features, action))
        if found - found != 0.0:  # NaN and infinity, without the cost of a call
            raise _not_finite(found)
    return scores


def _not_finite(score: float) -> ModelError:
    return ModelError(f"the model's score is {score}", hint="train the model again and publish it")
