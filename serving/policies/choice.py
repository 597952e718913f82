"""What a policy reads and what it returns.

The propensity is the probability, given the features, that the policy takes the action it took. It
is 1 for a policy without randomness. It is None where it has no meaning: for a number that is not
explored, and for a ranking that is not explored. Of a truncated normal it is the density.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from tidemill.errors import ModelError

Action = bool | float | str | list[str]
Features = tuple[object, ...]
"""The checked features of one decision: all features of the loop, in its order. To score an action,
the action is appended, as in the signature of a model that reads it."""
ScoreFunction = Callable[[Features], float]

Choice = tuple[Action, float | None, float | None, list[float] | None]
"""Action, score (in a ranking that of the first action), propensity, and in a ranking that is
explored the probability of each position, given those before it. It is a plain tuple because a
named one takes 0.2 us more, of the few a decision takes."""


Outcome = tuple[Action, float, float | None]
"""An action that a policy may take for given features, its probability, and its score if any."""


class ItemScore:
    """The scores of a model of items: of one row, or of all items of a request in one call.

    Attributes:
        many: takes the features of the loop and those of each item; returns the score of each.
    """

    def __init__(
        self, one: ScoreFunction, many: Callable[[Features, Sequence[Features]], list[float]]
    ) -> None:
        self._one = one
        self.many = many

    def __call__(self, features: Features) -> float:
        """Return the score of one row: the features of the loop, then those of an item."""
        return self._one(features)


class LiveModel(NamedTuple):
    """The model that decides.

    Attributes:
        version: its name.
        score: scores features with it.
        learned_from: how many examples it has learned from, as its announcement says.
        actions: the actions of the loop that it has learned, in the loop's order; None for all.
    """

    version: str
    score: ScoreFunction
    learned_from: int = 0
    actions: list[str] | None = None


class ActionPolicy(Protocol):
    """Turns scores into an action; *key* is the id of the decision, from which chance comes."""

    def choose(self, model: LiveModel, features: Features, key: bytes) -> Choice:
        """Return the action for *features*, by what *model* scores for them.

        Raises:
            ModelError: the model's score is not a finite number.
        """

    def without_model(self, default: Action, key: bytes) -> tuple[Choice, bool]:
        """Return the action while there is no model, and whether it was taken by chance."""


@runtime_checkable
class ListsOutcomes(Protocol):
    """A policy whose outcomes can be listed."""

    def outcomes(
        self, model: LiveModel | None, features: Features, default: Action
    ) -> list[Outcome]:
        """Return what it may choose with *model*, or without one around *default*."""


def action_scores(score: ScoreFunction, features: Features, actions: list[str]) -> dict[str, float]:
    """Return the score of each action, which is appended to the features.

    Raises:
        ModelError: a score is not a finite number.
    """
    scores = {}
    for action in actions:
        scores[action] = found = score((*features, action))
        if found - found != 0.0:  # NaN and infinity, without the cost of a call
            raise not_finite(found)
    return scores


def not_finite(score: float) -> ModelError:
    """Return the error for a *score* that no policy can use."""
    return ModelError(f"the model's score is {score}", hint="train the model again and publish it")
