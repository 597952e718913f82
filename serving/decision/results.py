"""What a service gets back: the decision, and what it needs to be traced."""

import msgspec


class DecisionResult(msgspec.Struct, frozen=True, gc=False):
    """One decision as it was logged.

    Attributes:
        id: by which feedback names it.
        action: what to do: a bool, one of the loop's actions, a number, or a list of actions.
        score: what the model said; None where no model decided.
        propensity: how likely the policy was to take this action; None where that says nothing.
        source: ``model``, ``default`` (there is no model yet) or ``fallback`` (it failed, or there
            was no time left).
        model_version: which model decided; None where none did.
        policy_version: of the policy in the loop file.
        loop_version: of the loop file.
    """

    id: str
    action: bool | float | str | list[str]
    score: float | None
    propensity: float | None
    source: str
    model_version: str | None
    policy_version: int
    loop_version: int
