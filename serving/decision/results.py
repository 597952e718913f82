"""The answer to a request for a decision, and one that is not logged yet."""

from typing import NamedTuple

import msgspec

from tidemill.serving.decision.requests import DecisionRequest


class DecisionResult(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One decision as it was logged.

    Attributes:
        id: the id of the decision; feedback names it.
        action: what to do: a bool, one of the loop's actions, a number, or a list of actions.
        score: the score of the model; None if no model decided.
        propensity: the probability that the policy takes this action; None if it has no meaning.
        source: ``model``, ``default`` (there is no model yet, or the loop is an apprentice),
            ``explore`` (there is no model yet, and chance took the action) or ``fallback`` (the
            model failed, or there was no time left).
        model_version: the model that decided, or of an apprentice the one that would have; None if
            none did.
        policy_version: the version of the policy in the loop file.
        loop_version: the version of the loop file.
        propensities: of a ranking that is explored, the probability of each position, given those
            before it; else None, and not in an answer over HTTP.
        policy_action: what the policy had chosen, if something else was done, as an apprentice
            does; else None, and not in an answer over HTTP.
    """

    id: str
    action: bool | float | str | list[str]
    score: float | None
    propensity: float | None
    source: str
    model_version: str | None
    policy_version: int
    loop_version: int
    propensities: list[float] | None = None
    policy_action: bool | float | str | list[str] | None = None


class Prepared(NamedTuple):
    """A decision that is made and not yet logged: its event, its result, and how long it took.

    *stage* is None in a loop without a rollout.
    """

    request: DecisionRequest
    key: bytes
    payload: bytes
    result: DecisionResult
    stage: str | None
    took_s: float
