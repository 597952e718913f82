"""The policies of rankings: sorted by score, or drawn by Plackett-Luce."""

from typing import cast

from tidemill.serving.policies.choice import (
    Action,
    Choice,
    Features,
    LiveModel,
    action_scores,
)
from tidemill.serving.policies.discrete import drawn, softmax_weights
from tidemill.serving.policies.exploration import Exploration, probability_of


def default_or_other_order(
    default: Action, actions: list[str], exploration: Exploration, key: bytes
) -> tuple[Choice, bool]:
    """Return *default* or, by chance, as many of *actions* in a random order."""
    order, propensity, positions, is_explored = exploration.order(
        cast(list[str], default), actions, exploration.epsilon, key
    )
    return (order, None, propensity, positions), is_explored


def ranked_scores(model: LiveModel, features: Features, actions: list[str]) -> dict[str, float]:
    """Return the score of each action; one that the model has not learned has their mean.

    So it comes between the better and the worse ones, is shown, and can be learned.

    Raises:
        ModelError: a score is not a finite number.
    """
    scores = action_scores(model.score, features, model.actions or actions)
    if model.actions is None:
        return scores
    mean = sum(scores.values()) / len(scores)
    return {action: scores.get(action, mean) for action in actions}


class RankingPolicy:
    """Ranks all actions by their scores, or with probability epsilon in a random order.

    The random order may be any of n!, so the sorted one has the propensity
    1 - epsilon + epsilon / n!, and every other one has epsilon / n!.
    """

    def __init__(self, actions: list[str], exploration: Exploration) -> None:
        self.actions = actions
        self._exploration = exploration

    def choose(self, model: LiveModel, features: Features, key: bytes) -> Choice:
        """Score each action and rank; actions with equal scores keep the order of the loop file."""
        scores = ranked_scores(model, features, self.actions)
        ranked = sorted(self.actions, key=lambda action: -scores[action])
        epsilon = self._exploration.share(model.learned_from)
        order, propensity, positions, _ = self._exploration.order(
            ranked, self.actions, epsilon, key
        )
        return (order, scores[order[0]], propensity, positions)

    def without_model(self, default: Action, key: bytes) -> tuple[Choice, bool]:
        """Take the default order, or explore."""
        return default_or_other_order(default, self.actions, self._exploration, key)


class PlackettLucePolicy:
    """Draws one position after the other, each by softmax among the actions that are left.

    The propensity of the order is the product of the probabilities of its positions, which are
    exact. A share epsilon of each position is spread evenly over the actions that are left.
    """

    def __init__(self, actions: list[str], temperature: float, exploration: Exploration) -> None:
        self.actions = actions
        self.temperature = temperature
        self._exploration = exploration

    def choose(self, model: LiveModel, features: Features, key: bytes) -> Choice:
        """Score each action and draw an order."""
        scores = ranked_scores(model, features, self.actions)
        epsilon = self._exploration.share(model.learned_from)
        left, order, positions = list(self.actions), list[str](), list[float]()
        for number in self._exploration.chance.numbers(key, len(left)):
            weights = softmax_weights([scores[action] for action in left], self.temperature)
            place, probability = drawn(weights, epsilon, number)
            order.append(left.pop(place))
            positions.append(probability)
        return (order, scores[order[0]], probability_of(positions), positions)

    def without_model(self, default: Action, key: bytes) -> tuple[Choice, bool]:
        """Take the default order, or explore."""
        return default_or_other_order(default, self.actions, self._exploration, key)
