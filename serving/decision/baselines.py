"""The baseline of a request: what the service would have done, checked like an answer."""

import math
from collections.abc import Callable

from tidemill.errors import RequestError
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.policies.choice import Action


class AnswerCheck:
    """Checks that a value is an answer of one loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._actions = frozenset(loop.decision.actions)
        known: dict[str, Callable[[object], Action | None]] = {
            "bool": _as_bool,
            "choice": self._as_choice,
            "ranking": self._as_ranking,
            "float": self._as_number,
        }
        self._read = known[loop.decision.type]

    def checked(self, value: object) -> Action:
        """Return *value* as an answer of the loop.

        Raises:
            RequestError: it is none.
        """
        found = self._read(value)
        if found is None:
            raise RequestError(
                f"baseline {value!r:.100} is no answer of this {self._loop.decision.type} decision",
                hint=f"send {self._hint()}, or leave it out: then it is the default of the loop",
            )
        return found

    def _as_choice(self, value: object) -> Action | None:
        return str(value) if isinstance(value, str) and value in self._actions else None

    def _as_ranking(self, value: object) -> Action | None:
        if not isinstance(value, list | tuple) or not value:
            return None
        listed = [str(item) for item in value if isinstance(item, str) and item in self._actions]
        return listed if len(set(listed)) == len(value) else None

    def _as_number(self, value: object) -> Action | None:
        policy = self._loop.policy
        value = value.item() if getattr(value, "shape", None) == () else value  # type: ignore[attr-defined]  # of numpy
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        low = -math.inf if policy.low is None else policy.low
        high = math.inf if policy.high is None else policy.high
        return float(value) if math.isfinite(value) and low <= value <= high else None

    def _hint(self) -> str:
        policy = self._loop.policy
        match self._loop.decision.type:
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


def _as_bool(value: object) -> Action | None:
    return value if isinstance(value, bool) else None
