"""The answer of a logged decision once more, by the policy and the predictor of serving.

Chance is a hash of the decision's id, so that it falls as it did.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import fields

from tidemill.deploy.explain.logged import GivenAnswer, LoggedDecision
from tidemill.schemas.loop.rollout import CONTROL
from tidemill.serving.decision.item_answers import ItemAnswers
from tidemill.serving.policies.applied_rules import Rules
from tidemill.serving.policies.choice import Choice, LiveModel
from tidemill.serving.policies.policies import as_apprentice, certain_choice, policy_of

REMADE = frozenset({"model", "default", "explore", "fallback"})
"""The sources of decisions that a worker made; a history may name any other."""


def remade_answer(
    logged: LoggedDecision, model: LiveModel | None, rules: Rules | None = None
) -> GivenAnswer:
    """Return what a worker answers to the request of *logged* while *model* is live.

    Args:
        logged: the decision.
        model: the model of its stage.
        rules: those that were in force.

    Raises:
        ModelError: the model gives no finite score.
    """
    items = logged.loop.decision.items
    among = None if items is None else ItemAnswers(logged.loop, items)
    choice, source = _chosen(logged, model, among)
    policy_action = None
    if logged.loop.learning == "apprentice":
        choice, source, policy_action = as_apprentice(choice, source, logged.default)
    if rules is not None:
        key = logged.id.encode()
        choice, replaced = rules.decided(
            choice, source, logged.stage, model, logged.values, logged.default, key
        )
        policy_action = replaced if policy_action is None else policy_action
    action, score, propensity, propensities = choice
    told: Sequence[float | None] | None = propensities
    positions = None
    if among is not None:
        told, positions = _told(logged, among, choice)
    return GivenAnswer(
        action=action,
        score=score,
        propensity=propensity,
        propensities=told,
        policy_action=policy_action,
        source=source,
        model_version=model.version if model is not None else None,
        positions=positions,
    )


def _chosen(
    logged: LoggedDecision, model: LiveModel | None, among: ItemAnswers | None
) -> tuple[Choice, str]:
    """Return the choice of the policy, *among* the items of the request if it brought some."""
    key, default = logged.id.encode(), logged.default
    if logged.answer.source == "fallback":
        return certain_choice(default), "fallback"
    if logged.stage == CONTROL:
        return certain_choice(default), "default"
    if among is not None:
        items = logged.request_items
        if model is not None:
            return among.choose(model, logged.values, items, key), "model"
        choice, is_explored = among.without_model(items, key)
    else:
        policy = policy_of(logged.loop)
        if model is not None:
            return policy.choose(model, logged.values, key), "model"
        choice, is_explored = policy.without_model(default, key)
    return choice, "explore" if is_explored else "default"


def _told(
    logged: LoggedDecision, among: ItemAnswers, choice: Choice
) -> tuple[list[float | None], list[int | None]]:
    """Return the propensity and the position of each item, as the event has them."""
    action, _, _, known = choice
    shown = action if isinstance(action, list) else [str(action)]
    where = {name: number for number, name in enumerate(shown)}
    positions = [where.get(item.id) for item in logged.items]
    told = [among.propensity(known, place, at) for place, at in enumerate(positions)]
    return told, positions


def differing(logged: GivenAnswer, remade: GivenAnswer) -> Iterator[str]:
    """Yield the names of the values that are not the same, floats by their bits."""
    for field in fields(GivenAnswer):
        if bits(getattr(logged, field.name)) != bits(getattr(remade, field.name)):
            yield field.name


def bits(value: object) -> object:
    """Return *value* so that only floats with the same bits are equal.

    >>> bits(0.0) == bits(-0.0), bits(float("nan")) == bits(float("nan"))
    (False, True)
    """
    match value:
        case float():
            return struct.pack("<d", value)
        case list() | tuple():
            return [bits(each) for each in value]
    return value
