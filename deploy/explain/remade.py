"""The answer of a logged decision once more, by the policy and the predictor of serving.

Chance is a hash of the decision's id, so that it falls as it did.
"""

import struct
from collections.abc import Iterator
from dataclasses import fields

from tidemill.deploy.explain.logged import GivenAnswer, LoggedDecision
from tidemill.serving.decision.decider import as_apprentice, certain_choice
from tidemill.serving.policies.choice import LiveModel
from tidemill.serving.policies.policies import policy_of

REMADE = frozenset({"model", "default", "explore", "fallback"})
"""The sources of decisions that a worker made; a history may name any other."""


def remade_answer(logged: LoggedDecision, model: LiveModel | None) -> GivenAnswer:
    """Return what a worker answers to the request of *logged* while *model* is live.

    Raises:
        ModelError: the model gives no finite score.
    """
    key, policy, default = logged.id.encode(), policy_of(logged.loop), logged.default
    policy_action = None
    if logged.answer.source == "fallback":
        choice, source = certain_choice(default), "fallback"
    elif model is not None:
        choice, source = policy.choose(model, logged.values, key), "model"
    else:
        choice, is_explored = policy.without_model(default, key)
        source = "explore" if is_explored else "default"
    if logged.loop.learning == "apprentice":
        choice, source, policy_action = as_apprentice(choice, source, default)
    action, score, propensity, propensities = choice
    return GivenAnswer(
        action=action,
        score=score,
        propensity=propensity,
        propensities=propensities,
        policy_action=policy_action,
        source=source,
        model_version=model.version if model is not None else None,
    )


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
        case list():
            return [bits(each) for each in value]
    return value
