"""How a scripted client answers: by its script, by a pinned model, or by the default.

Requests and feedback are checked by the readers of serving. Ids are counted, so that the chance of
a policy falls the same in each run.
"""

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tidemill.errors import BrokerError
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.decision.decider import as_apprentice, certain_choice
from tidemill.serving.decision.requests import DecisionReader, FeedbackReader, UnknownError
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.policies.choice import Action, Choice, Features, LiveModel
from tidemill.serving.policies.policies import policy_of


class ScriptError(AssertionError):
    """The script and the calls of the service do not agree.

    It is no TidemillError, so that a service does not handle it like an outage.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenFeedback:
    """One feedback that the service gave, as it was checked."""

    decision_id: str
    kind: str
    values: Mapping[str, object]
    id: str
    at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedDecision:
    """One decision that the service asked for: what it sent, checked, and what it got."""

    features: Mapping[str, object]
    entity: str | None
    baseline: Action | None
    result: DecisionResult


@dataclass(slots=True)
class ScriptedLoop:
    """One loop, how it answers, and what the service has done."""

    loop: Loop
    script: deque[Action] | None = None
    model: LiveModel | None = None
    asked: list[AskedDecision] = field(default_factory=list)
    given: list[GivenFeedback] = field(default_factory=list)
    requests: DecisionReader = field(init=False)
    feedback: FeedbackReader = field(init=False)

    def __post_init__(self) -> None:
        self.requests, self.feedback = DecisionReader(self.loop), FeedbackReader(self.loop)


class ScriptedTransport:
    """Answers the calls of a client from scripts, models and defaults."""

    unanswered = 0

    def __init__(self) -> None:
        self.loops: dict[str, ScriptedLoop] = {}
        self.is_out = False
        self._numbers = itertools.count(1)

    def of(self, name: str) -> ScriptedLoop:
        """Return one loop.

        Raises:
            UnknownError: no loop of that name was added.
        """
        if name in self.loops:
            return self.loops[name]
        known = ", ".join(self.loops) or "none yet: call add(...) with the loop file"
        raise UnknownError(f"this client serves no loop {name!r:.100}", hint=f"its loops: {known}")

    def decide(
        self,
        loop: str,
        features: Mapping[str, object],
        entity: str | None,
        id: str | None,
        at: datetime | None,
        baseline: object,
    ) -> DecisionResult:
        """Return the next answer of the script, that of the model, or the default."""
        item = {"features": features, "entity": entity, "id": id, "at": at, "baseline": baseline}
        return self.decide_all(loop, [item])[0]

    def decide_all(self, loop: str, asked: Sequence[Mapping[str, object]]) -> list[DecisionResult]:
        """Return as many answers, in order; nothing is answered unless all requests fit."""
        served = self.of(loop)
        check = served.requests.check
        requests = [check(**item) for item in asked]  # type: ignore[arg-type]  # it checks them
        results = []
        for request in requests:
            id_ = request.id or f"{loop}-{next(self._numbers)}"
            default = served.loop.decision.default
            default = default if request.baseline is None else request.baseline
            result = self._result(served, id_, request.features, default)
            named = dict(zip(served.loop.features, request.features, strict=True))
            served.asked.append(
                AskedDecision(
                    features=named,
                    entity=request.entity,
                    baseline=request.baseline,
                    result=result,
                )
            )
            results.append(result)
        return results

    def give(
        self,
        loop: str,
        decision_id: str,
        kind: str,
        values: Mapping[str, object],
        id: str,
        at: datetime | None,
    ) -> None:
        """Take one feedback."""
        served = self.of(loop)
        checked = served.feedback.check(decision_id, kind, values, id, at)
        if self.is_out:
            raise BrokerError("no worker answered: the test says so", hint="send it again later")
        served.given.append(
            GivenFeedback(
                decision_id=decision_id, kind=kind, values=dict(checked.values), id=id, at=at
            )
        )

    def close(self) -> None:
        """Nothing was opened."""

    def _result(
        self, served: ScriptedLoop, id_: str, features: Features, default: Action
    ) -> DecisionResult:
        loop = served.loop
        choice, source, chosen = self._choice(served, id_, features, default)
        action, score, propensity, propensities = choice
        version = served.model.version if score is not None and served.model else None
        return DecisionResult(
            *(id_, action, score, propensity, source, version),
            *(loop.policy.version, loop.version, propensities, chosen),
        )

    def _choice(
        self, served: ScriptedLoop, id_: str, features: Features, default: Action
    ) -> tuple[Choice, str, Action | None]:
        if self.is_out:
            self.unanswered += 1
            return certain_choice(default), "fallback", None
        if served.script is not None:
            if not served.script:
                raise ScriptError(f"the script of {served.loop.loop} has no answer left for {id_}")
            return certain_choice(served.script.popleft()), "script", None
        if served.model is None:
            return certain_choice(default), "default", None
        choice = policy_of(served.loop).choose(served.model, features, id_.encode())
        if served.loop.learning == "apprentice":
            return as_apprentice(choice, "model", default)
        return choice, "model", None
