"""The policy of a loop: `policy_of`, or `item_policy_of` where its requests bring items."""

import math
from typing import TYPE_CHECKING

from tidemill.serving.policies.beliefs import ThompsonPolicy, UcbPolicy
from tidemill.serving.policies.chance import Chance
from tidemill.serving.policies.choice import Action, ActionPolicy, Choice
from tidemill.serving.policies.discrete import GreedyPolicy, SoftmaxPolicy, ThresholdPolicy
from tidemill.serving.policies.exploration import Exploration
from tidemill.serving.policies.item_policies import (
    BestItem,
    ItemPolicy,
    PlackettLuceItems,
    RankedItems,
    SoftmaxItem,
)
from tidemill.serving.policies.numbers import GridPolicy, NormalPolicy, ValuePolicy
from tidemill.serving.policies.rankings import PlackettLucePolicy, RankingPolicy

if TYPE_CHECKING:
    from tidemill.schemas.loop.definition import Loop


def policy_of(loop: "Loop") -> ActionPolicy:
    """Return the policy of *loop*."""
    settings, actions = loop.policy, loop.decision.actions
    chance = Chance(loop.loop, settings.version, loop.salt)
    exploration = Exploration(settings.epsilon, settings.decay, chance)
    is_ranking = loop.decision.type == "ranking"
    match settings.kind:
        case "value":
            return _of_numbers(loop, exploration)
        case "threshold":
            if settings.above is None or settings.below is None:
                raise ValueError(f"the policy of {loop.loop} names no actions: {settings}")
            return ThresholdPolicy(settings.threshold, settings.above, settings.below, exploration)
        case "softmax":
            draw = PlackettLucePolicy if is_ranking else SoftmaxPolicy
            return draw(actions, settings.temperature, exploration)
        case "thompson":
            return ThompsonPolicy(actions, exploration)
        case "ucb" | "linucb":
            return UcbPolicy(actions, settings.width, exploration)
        case "greedy":
            return (RankingPolicy if is_ranking else GreedyPolicy)(actions, exploration)


def item_policy_of(loop: "Loop") -> ItemPolicy:
    """Return the policy of *loop*, whose requests bring items."""
    settings = loop.policy
    exploration = Exploration(
        settings.epsilon, settings.decay, Chance(loop.loop, settings.version, loop.salt)
    )
    is_ranking = loop.decision.type == "ranking"
    if settings.kind == "softmax":
        draw = PlackettLuceItems if is_ranking else SoftmaxItem
        return draw(settings.temperature, exploration)
    return (RankedItems if is_ranking else BestItem)(exploration)


def _of_numbers(loop: "Loop", exploration: Exploration) -> ActionPolicy:
    settings = loop.policy
    low = -math.inf if settings.low is None else settings.low
    high = math.inf if settings.high is None else settings.high
    if settings.spread is not None:
        return NormalPolicy(low, high, settings.spread, exploration.chance)
    if settings.grid is not None:
        return GridPolicy(low, high, settings.grid, exploration)
    return ValuePolicy(low, high)


def certainty(action: Action) -> float | None:
    """Return the propensity of an *action* that was certain; None where it has no meaning."""
    return 1.0 if isinstance(action, bool | str) else None


def certain_choice(action: Action) -> Choice:
    """Return the choice of an *action* that no policy took: there is no score."""
    return (action, None, certainty(action), None)


def as_apprentice(
    choice: Choice, source: str, default: Action
) -> tuple[Choice, str, Action | None]:
    """Return what an apprentice answers and logs: the default, and what its model had chosen.

    Without a model it explores nothing, because what it answers is what the service would do.
    """
    if source == "model":
        return (default, choice[1], certainty(default), None), "default", choice[0]
    return certain_choice(default), "fallback" if source == "fallback" else "default", None
