"""Answers that do not come from a policy: the baseline of a request, and the actions of a history.

`answer_of` reads a value as an answer of a decision; `AnswerCheck` asks for the bounds of the
policy, too.
"""

import math
from collections.abc import Sequence

from tidemill.errors import RequestError
from tidemill.schemas.loop.definition import Decision, Loop
from tidemill.serving.policies.choice import Action


def answer_of(decision: Decision, value: object) -> Action | None:
    """Return *value* as an answer of *decision*, whatever policy gave it; None if it is none.

    Any text may be the id of an item: which items there are is said by each request.
    """
    match decision.type:
        case "choice" if decision.items is not None:
            return str.__str__(value) if isinstance(value, str) and value else None
        case "ranking" if decision.items is not None:
            return _order(value, None)
        case "bool":
            return value if isinstance(value, bool) else None
        case "choice":
            is_known = isinstance(value, str) and value in decision.actions
            return str(value) if is_known else None
        case "ranking":
            return _order(value, decision.actions)
        case "float":
            return _number(value)


class AnswerCheck:
    """Checks that a value is an answer of one loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def checked(self, value: object) -> Action:
        """Return *value* as an answer of the loop.

        Raises:
            RequestError: it is none.
        """
        found = answer_of(self._loop.decision, value)
        if found is None or (isinstance(found, float) and not self._is_within(found)):
            raise RequestError(
                f"baseline {value!r:.100} is no answer of this {self._loop.decision.type} decision",
                hint=f"send {self._hint()}, or leave it out: then it is the default of the loop",
            )
        return found

    def _is_within(self, number: float) -> bool:
        """Return whether *number* is within the bounds of the policy."""
        low, high = self._loop.policy.low, self._loop.policy.high
        return (low is None or low <= number) and (high is None or number <= high)

    def _hint(self) -> str:
        policy = self._loop.policy
        match self._loop.decision.type:
            case "choice" if self._loop.decision.items is not None:
                return "the id of an item"
            case "ranking" if self._loop.decision.items is not None:
                return "a list of ids of items, each once"
            case "bool":
                return "true or false"
            case "choice":
                return f"one of {', '.join(self._loop.decision.actions)}"
            case "ranking":
                names = ", ".join(self._loop.decision.actions)
                return f"a list of some of {names}, each once"
            case "float":
                low = "" if policy.low is None else f" from {policy.low}"
                return f"a number{low}" + ("" if policy.high is None else f" to {policy.high}")


def _order(value: object, actions: Sequence[str] | None) -> list[str] | None:
    """Return *value* if it lists some of *actions*, each once; None for any texts."""
    if not isinstance(value, list | tuple) or not value:
        return None
    listed = [str(item) for item in value if isinstance(item, str) and item]
    if actions is not None:
        known = frozenset(actions)
        listed = [item for item in listed if item in known]
    return listed if len(set(listed)) == len(value) else None


def _number(value: object) -> float | None:
    """Return *value* if it is a finite number, of Python or of numpy."""
    value = value.item() if getattr(value, "shape", None) == () else value  # type: ignore[attr-defined]  # of numpy
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number may be larger than any float
        return None
    return number if math.isfinite(number) else None
