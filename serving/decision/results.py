"""The answer to a request for a decision."""

import msgspec


class DecisionResult(msgspec.Struct, frozen=True, gc=False):
    """One decision as it was logged.

    Attributes:
        id: the id of the decision; feedback names it.
        action: what to do: a bool, one of the loop's actions, a number, or a list of actions.
        score: the score of the model; None if no model decided.
        propensity: the probability that the policy takes this action; None if it has no meaning.
        source: ``model``, ``default`` (there is no model yet) or ``fallback`` (the model failed, or
            there was no time left).
        model_version: the model that decided; None if none did.
        policy_version: the version of the policy in the loop file.
        loop_version: the version of the loop file.
    """

    id: str
    action: bool | float | str | list[str]
    score: float | None
    propensity: float | None
    source: str
    model_version: str | None
    policy_version: int
    loop_version: int
