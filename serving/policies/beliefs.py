"""The policies that explore by what a model is unsure of: ucb, linucb and thompson.

Their models are posteriors, which say of each action what label they expect and how sure they are.
"""

from statistics import NormalDist
from typing import Protocol, cast

from tidemill.serving.policies.choice import (
    Action,
    Choice,
    Features,
    LiveModel,
    Outcome,
    not_finite,
)
from tidemill.serving.policies.discrete import (
    default_or_other,
    default_outcomes,
    drawn,
    drawn_outcomes,
)
from tidemill.serving.policies.exploration import Exploration

_NORMAL = NormalDist()
_NODES = [_NORMAL.inv_cdf((place + 0.5) / 32) for place in range(32)]
"""Points of equal probability of a standard normal."""
_LEAST = 1e-12  # a deviation of 0 would be certainty, by which nothing can be divided


class Beliefs(Protocol):
    """The score function of a posterior."""

    def __call__(self, features: Features) -> float:
        """Return the label expected after the action that is the last of *features*."""

    def beliefs(self, features: Features) -> tuple[list[float], list[float]]:
        """Return the label expected after each action of the loop, and its deviation."""


def beliefs_of(model: LiveModel, features: Features) -> tuple[list[float], list[float]]:
    """Return mean and deviation of each action; the worker admits posteriors only.

    Raises:
        ModelError: one of them is not finite.
    """
    means, deviations = cast(Beliefs, model.score).beliefs(features)
    total = sum(means) + sum(deviations)
    if total - total != 0.0:
        raise not_finite(total)
    return means, deviations


class UcbPolicy:
    """Takes the action with the best mean plus *width* deviations, and explores the others."""

    def __init__(self, actions: list[str], width: float, exploration: Exploration) -> None:
        self.actions = actions
        self.width = width
        self._exploration = exploration

    def choose(self, model: LiveModel, features: Features, key: bytes) -> Choice:
        """Choose by what may be hoped for; the score logged is the mean of the action taken."""
        means, best = self._best(model, features)
        epsilon = self._exploration.share(model.learned_from)
        action, propensity, _ = self._exploration.among(best, self.actions, epsilon, key)
        return (action, means[self.actions.index(action)], propensity, None)

    def _best(self, model: LiveModel, features: Features) -> tuple[list[float], str]:
        means, deviations = beliefs_of(model, features)
        hopes = [mean + self.width * each for mean, each in zip(means, deviations, strict=True)]
        return means, self.actions[hopes.index(max(hopes))]

    def outcomes(
        self, model: LiveModel | None, features: Features, default: Action
    ) -> list[Outcome]:
        """Return what `choose` or, without a *model*, `without_model` may return."""
        if model is None:
            return default_outcomes(default, self.actions, self._exploration)
        means, best = self._best(model, features)
        epsilon = self._exploration.share(model.learned_from)
        scores = dict(zip(self.actions, means, strict=True))
        return self._exploration.outcomes(best, self.actions, epsilon, scores)

    def without_model(self, default: Action, key: bytes) -> tuple[Choice, bool]:
        """Take the default, or explore."""
        return default_or_other(default, self.actions, self._exploration, key)


class ThompsonPolicy:
    """Takes each action with the probability that it is the best one.

    The probabilities are computed, and the action is drawn from them. So the propensity is exact,
    which it would not be if a posterior were sampled.
    """

    def __init__(self, actions: list[str], exploration: Exploration) -> None:
        self.actions = actions
        self._exploration = exploration

    def choose(self, model: LiveModel, features: Features, key: bytes) -> Choice:
        """Draw an action; the score logged is its mean."""
        means, deviations = beliefs_of(model, features)
        epsilon = self._exploration.share(model.learned_from)
        (number,) = self._exploration.chance.numbers(key, 1)
        place, propensity = drawn(chances_to_be_best(means, deviations), epsilon, number)
        return (self.actions[place], means[place], propensity, None)

    def outcomes(
        self, model: LiveModel | None, features: Features, default: Action
    ) -> list[Outcome]:
        """Return what `choose` or, without a *model*, `without_model` may return."""
        if model is None:
            return default_outcomes(default, self.actions, self._exploration)
        means, deviations = beliefs_of(model, features)
        epsilon = self._exploration.share(model.learned_from)
        return drawn_outcomes(self.actions, chances_to_be_best(means, deviations), epsilon, means)

    def without_model(self, default: Action, key: bytes) -> tuple[Choice, bool]:
        """Take the default, or explore."""
        return default_or_other(default, self.actions, self._exploration, key)


def chances_to_be_best(means: list[float], deviations: list[float]) -> list[float]:
    """Return how likely each of independent normals is the largest, up to a common factor.

    Each is the mean, over points of equal probability of it, of the chance that all others are
    smaller. Two normals alike are each the largest half of the time:

    >>> [round(chance, 6) for chance in chances_to_be_best([0.5, 0.5], [0.1, 0.1])]
    [0.5, 0.5]
    """
    spreads = [max(each, _LEAST) for each in deviations]
    found = []
    for place, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        others = [
            (other, each)
            for at, (other, each) in enumerate(zip(means, spreads, strict=True))
            if at != place
        ]
        total = 0.0
        for node in _NODES:
            value, chance = mean + spread * node, 1.0
            for other, each in others:
                chance *= _NORMAL.cdf((value - other) / each)
            total += chance
        found.append(total / len(_NODES))
    return found if sum(found) > 0.0 else [float(mean == max(means)) for mean in means]
