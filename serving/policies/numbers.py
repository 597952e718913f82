"""The policies of float decisions: the score itself, a draw around it, or points of a grid."""

from statistics import NormalDist
from typing import cast

from tidemill.serving.policies.chance import Chance
from tidemill.serving.policies.choice import (
    Action,
    Choice,
    Features,
    LiveModel,
    Outcome,
    not_finite,
)
from tidemill.serving.policies.discrete import default_or_other, default_outcomes
from tidemill.serving.policies.exploration import Exploration

_NORMAL = NormalDist()
_LEAST = 2.0**-53  # the inverse is not defined at 0 and 1, where rounding may lead


class ValuePolicy:
    """Takes the score itself, clipped to *low* and *high*."""

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def choose(self, model: LiveModel, features: Features, key: bytes) -> Choice:
        """Choose by one score; the logged score is not clipped, and there is no propensity."""
        found = finite_score(model, features)
        return (min(max(found, self.low), self.high), found, None, None)

    def without_model(self, default: Action, key: bytes) -> tuple[Choice, bool]:
        """Take the default."""
        return (default, None, None, None), False


class NormalPolicy:
    """Draws a number around the score, from a normal that is truncated to *low* and *high*.

    The propensity is the density of that distribution at the number drawn. Without a model the
    number is drawn around the default.
    """

    def __init__(self, low: float, high: float, spread: float, chance: Chance) -> None:
        self.low = low
        self.high = high
        self.spread = spread
        self._chance = chance

    def choose(self, model: LiveModel, features: Features, key: bytes) -> Choice:
        """Draw around one score; the logged score is not clipped."""
        found = finite_score(model, features)
        action, density = self._drawn(min(max(found, self.low), self.high), key)
        return (action, found, density, None)

    def without_model(self, default: Action, key: bytes) -> tuple[Choice, bool]:
        """Draw around the default."""
        action, density = self._drawn(cast(float, default), key)
        return (action, None, density, None), True

    def _drawn(self, middle: float, key: bytes) -> tuple[float, float]:
        below = _NORMAL.cdf((self.low - middle) / self.spread)
        inside = _NORMAL.cdf((self.high - middle) / self.spread) - below
        (number,) = self._chance.numbers(key, 1)
        step = _NORMAL.inv_cdf(min(max(below + number * inside, _LEAST), 1.0 - _LEAST))
        action = min(max(middle + self.spread * step, self.low), self.high)
        density = _NORMAL.pdf((action - middle) / self.spread) / (self.spread * inside)
        return action, density


class GridPolicy:
    """Takes the point of a grid that is next to the score, and explores the other points."""

    def __init__(self, low: float, high: float, points: int, exploration: Exploration) -> None:
        step = (high - low) / (points - 1)
        self.points = [low + place * step for place in range(points - 1)] + [high]
        self._exploration = exploration

    def choose(self, model: LiveModel, features: Features, key: bytes) -> Choice:
        """Choose by one score; of two points as near the lower one is taken."""
        found = finite_score(model, features)
        best = min(self.points, key=lambda point: abs(point - found))
        epsilon = self._exploration.share(model.learned_from)
        action, propensity, _ = self._exploration.among(best, self.points, epsilon, key)
        return (action, found, propensity, None)

    def outcomes(
        self, model: LiveModel | None, features: Features, default: Action
    ) -> list[Outcome]:
        """Return what `choose` or, without a *model*, `without_model` may return."""
        if model is None:
            return default_outcomes(default, self.points, self._exploration)
        found = finite_score(model, features)
        best = min(self.points, key=lambda point: abs(point - found))
        epsilon = self._exploration.share(model.learned_from)
        scores = dict.fromkeys(self.points, found)
        return self._exploration.outcomes(best, self.points, epsilon, scores)

    def without_model(self, default: Action, key: bytes) -> tuple[Choice, bool]:
        """Take the default, which need not be a point, or explore."""
        return default_or_other(default, self.points, self._exploration, key)


def finite_score(model: LiveModel, features: Features) -> float:
    """Return the model's score.

    Raises:
        ModelError: it is not a finite number.
    """
    found = model.score(features)
    if found - found != 0.0:
        raise not_finite(found)
    return found
