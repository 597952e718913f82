"""The policies of bool and choice decisions: threshold, greedy and softmax."""

import math
from collections.abc import Sequence

from tidemill.serving.policies.choice import (
    Action,
    Choice,
    Features,
    LiveModel,
    Outcome,
    action_scores,
    not_finite,
)
from tidemill.serving.policies.exploration import Exploration


def default_or_other(
    default: Action, actions: Sequence[Action], exploration: Exploration, key: bytes
) -> tuple[Choice, bool]:
    """Return *default* or, by chance, one of *actions*; and whether it was chance."""
    action, propensity, is_explored = exploration.among(
        default,  # type: ignore[type-var]  # an answer of the type of the actions, as was checked
        actions,
        exploration.epsilon,
        key,
    )
    return (action, None, propensity, None), is_explored


def default_outcomes(
    default: Action, actions: Sequence[Action], exploration: Exploration
) -> list[Outcome]:
    """Return what `default_or_other` may return."""
    return exploration.outcomes(
        default,  # type: ignore[type-var]  # as above
        actions,
        exploration.epsilon,
        {},
    )


def drawn_outcomes(
    actions: Sequence[Action],
    weights: Sequence[float],
    epsilon: float,
    scores: Sequence[float | None],
) -> list[Outcome]:
    """Return what `drawn` may draw."""
    total, even = sum(weights), epsilon / len(weights)
    return [
        (action, (1.0 - epsilon) * weight / total + even, score)
        for action, weight, score in zip(actions, weights, scores, strict=True)
    ]


class ThresholdPolicy:
    """Takes *above* if the score is at least *threshold*, else *below*, and explores the two."""

    def __init__(
        self, threshold: float, above: bool | str, below: bool | str, exploration: Exploration
    ) -> None:
        self.threshold = threshold
        self.above = above
        self.below = below
        self._sides = [above, below]
        self._exploration = exploration
        self._explores = exploration.epsilon > 0.0

    def choose(self, model: LiveModel, features: Features, key: bytes) -> Choice:
        """Choose by one score."""
        found = model.score(features)
        if found - found != 0.0:
            raise not_finite(found)
        best = self.above if found >= self.threshold else self.below
        if not self._explores:
            return (best, found, 1.0, None)
        epsilon = self._exploration.share(model.learned_from)
        action, propensity, _ = self._exploration.among(best, self._sides, epsilon, key)
        return (action, found, propensity, None)

    def outcomes(
        self, model: LiveModel | None, features: Features, default: Action
    ) -> list[Outcome]:
        """Return what `choose` or, without a *model*, `without_model` may return."""
        if model is None:
            return default_outcomes(default, self._sides, self._exploration)
        found = model.score(features)
        best = self.above if found >= self.threshold else self.below
        epsilon = self._exploration.share(model.learned_from)
        return self._exploration.outcomes(
            best, self._sides, epsilon, dict.fromkeys(self._sides, found)
        )

    def without_model(self, default: Action, key: bytes) -> tuple[Choice, bool]:
        """Take the default, or explore."""
        return default_or_other(default, self._sides, self._exploration, key)


class GreedyPolicy:
    """Takes the action with the best score, and explores the others.

    An action that the model has not learned is reached by exploration alone, and has no score.
    """

    def __init__(self, actions: list[str], exploration: Exploration) -> None:
        self.actions = actions
        self._exploration = exploration

    def choose(self, model: LiveModel, features: Features, key: bytes) -> Choice:
        """Score each action and choose; of equal scores the first action in the loop file wins."""
        learned = model.actions or self.actions
        scores = action_scores(model.score, features, learned)
        best = max(learned, key=scores.__getitem__)
        epsilon = self._exploration.share(model.learned_from)
        action, propensity, _ = self._exploration.among(best, self.actions, epsilon, key)
        return (action, scores.get(action), propensity, None)

    def outcomes(
        self, model: LiveModel | None, features: Features, default: Action
    ) -> list[Outcome]:
        """Return what `choose` or, without a *model*, `without_model` may return."""
        if model is None:
            return default_outcomes(default, self.actions, self._exploration)
        learned = model.actions or self.actions
        scores = action_scores(model.score, features, learned)
        best = max(learned, key=scores.__getitem__)
        epsilon = self._exploration.share(model.learned_from)
        return self._exploration.outcomes(best, self.actions, epsilon, scores)

    def without_model(self, default: Action, key: bytes) -> tuple[Choice, bool]:
        """Take the default, or explore."""
        return default_or_other(default, self.actions, self._exploration, key)


class SoftmaxPolicy:
    """Takes each action with a probability that grows with its score.

    The probability is proportional to exp(score / temperature), and a share epsilon of the
    decisions is spread evenly over the actions beside. That share alone reaches an action that the
    model has not learned.
    """

    def __init__(self, actions: list[str], temperature: float, exploration: Exploration) -> None:
        self.actions = actions
        self.temperature = temperature
        self._exploration = exploration

    def choose(self, model: LiveModel, features: Features, key: bytes) -> Choice:
        """Score each action and draw one."""
        scores = action_scores(model.score, features, model.actions or self.actions)
        epsilon = self._exploration.share(model.learned_from)
        each = [scores.get(action, -math.inf) for action in self.actions]
        (number,) = self._exploration.chance.numbers(key, 1)
        place, propensity = drawn(softmax_weights(each, self.temperature), epsilon, number)
        action = self.actions[place]
        return (action, scores.get(action), propensity, None)

    def outcomes(
        self, model: LiveModel | None, features: Features, default: Action
    ) -> list[Outcome]:
        """Return what `choose` or, without a *model*, `without_model` may return."""
        if model is None:
            return default_outcomes(default, self.actions, self._exploration)
        scores = action_scores(model.score, features, model.actions or self.actions)
        weights = softmax_weights(
            [scores.get(action, -math.inf) for action in self.actions], self.temperature
        )
        epsilon = self._exploration.share(model.learned_from)
        listed = [scores.get(action) for action in self.actions]
        return drawn_outcomes(self.actions, weights, epsilon, listed)

    def without_model(self, default: Action, key: bytes) -> tuple[Choice, bool]:
        """Take the default, or explore."""
        return default_or_other(default, self.actions, self._exploration, key)


def softmax_weights(scores: Sequence[float], temperature: float) -> list[float]:
    """Return weights in proportion to exp(score / temperature); the largest is 1.

    A score of minus infinity has the weight 0, as long as another one is finite.
    """
    best = max(scores)
    return [math.exp((score - best) / temperature) for score in scores]


def drawn(weights: Sequence[float], epsilon: float, number: float) -> tuple[int, float]:
    """Return the place that *number*, between 0 and 1, draws, and its probability.

    The weights count for a share 1 - *epsilon*; the rest is the same for all places.
    """
    total, even = sum(weights), epsilon / len(weights)
    last, up_to = 0, 0.0
    for place, weight in enumerate(weights):
        share = (1.0 - epsilon) * weight / total + even
        if share > 0.0:
            last, probability = place, share
        up_to += share
        if number < up_to:
            break
    return last, probability
