"""How a scripted client answers: by its script, by a pinned model, or by the default.

Requests and feedback are checked by the readers of serving. Ids are counted, so that the chance of
a policy falls the same in each run.
"""

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tidemill.errors import BrokerError, RequestError
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.client.calls import Asked, Given, with_item
from tidemill.serving.decision.item_answers import ItemAnswers
from tidemill.serving.decision.items import RequestItems, default_among
from tidemill.serving.decision.requests import (
    DecisionReader,
    DecisionRequest,
    FeedbackReader,
    UnknownError,
)
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.policies.choice import Action, Choice, LiveModel
from tidemill.serving.policies.policies import as_apprentice, certain_choice, policy_of


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
    item: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedDecision:
    """One decision that the service asked for: what it sent, checked, and what it got."""

    features: Mapping[str, object]
    entity: str | None
    baseline: Action | None
    result: DecisionResult
    items: Sequence[Mapping[str, object]] | None = None
    """With id and features; None of a loop without items."""


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

    def decide(self, loop: str, asked: Asked) -> DecisionResult:
        """Return the next answer of the script, that of the model, or the default."""
        served = self.of(loop)
        return self._answered(served, served.requests.check(**asked))  # type: ignore[arg-type]  # it checks them

    def decide_all(self, loop: str, asked: Sequence[Asked]) -> list[DecisionResult]:
        """Return as many answers, in order; nothing is answered unless all requests fit."""
        served = self.of(loop)
        return [self._answered(served, one) for one in served.requests.check_all(asked)]

    def _answered(self, served: ScriptedLoop, request: DecisionRequest) -> DecisionResult:
        """Answer one checked request, and note it."""
        id_ = request.id or f"{served.loop.loop}-{next(self._numbers)}"
        result = self._result(served, id_, request)
        served.asked.append(
            AskedDecision(
                features=dict(zip(served.loop.features, request.features, strict=True)),
                entity=request.entity,
                baseline=request.baseline,
                items=_named_items(served.loop, request.items),
                result=result,
            )
        )
        return result

    def give(self, loop: str, given: Given) -> None:
        """Take one feedback."""
        served = self.of(loop)
        given = with_item(given, served.feedback.record(str(given["kind"])).types)
        checked = served.feedback.check(**given)  # type: ignore[arg-type]  # it checks them
        if self.is_out:
            raise BrokerError("no worker answered: the test says so", hint="send it again later")
        served.given.append(
            GivenFeedback(
                decision_id=checked.decision_id,
                kind=checked.kind,
                values=dict(checked.values),
                id=checked.id or "",
                at=checked.at,
                item=checked.item,
            )
        )

    def close(self) -> None:
        """Nothing was opened."""

    def _result(self, served: ScriptedLoop, id_: str, request: DecisionRequest) -> DecisionResult:
        loop = served.loop
        choice, source, chosen = self._choice(served, id_, request)
        action, score, propensity, propensities = choice
        version = served.model.version if score is not None and served.model else None
        return DecisionResult(
            *(id_, action, score, propensity, source, version),
            *(loop.policy.version, loop.version),
            propensities if isinstance(action, list) else None,
            chosen,
        )

    def _choice(
        self, served: ScriptedLoop, id_: str, request: DecisionRequest
    ) -> tuple[Choice, str, Action | None]:
        default = _default_of(served.loop, request)
        if self.is_out:
            self.unanswered += 1
            return certain_choice(default), "fallback", None
        if served.script is not None:
            if not served.script:
                raise ScriptError(f"the script of {served.loop.loop} has no answer left for {id_}")
            answer = _among(served.loop, served.script.popleft(), request.items)
            return certain_choice(answer), "script", None
        if served.model is None:
            return certain_choice(default), "default", None
        choice = _by_model(served.loop, served.model, request, id_.encode())
        if served.loop.learning == "apprentice":
            return as_apprentice(choice, "model", default)
        return choice, "model", None


def _among(loop: Loop, answer: Action, items: RequestItems | None) -> Action:
    """Return the *answer* of a script; about items it has to name some of the request."""
    if items is None:
        return answer
    try:
        return default_among(items.ids, answer, is_ranking=loop.decision.type == "ranking")
    except RequestError:
        raise ScriptError(
            f"the script of {loop.loop} answers {answer!r}, and the service has asked about the "
            f"items {', '.join(items.ids)}"
        ) from None


def _by_model(loop: Loop, model: LiveModel, request: DecisionRequest, key: bytes) -> Choice:
    """Return what the policy of *loop* chooses by *model*."""
    declared = loop.decision.items
    if declared is None or request.items is None:
        return policy_of(loop).choose(model, request.features, key)
    return ItemAnswers(loop, declared).choose(model, request.features, request.items, key)


def _default_of(loop: Loop, request: DecisionRequest) -> Action:
    if request.items is not None:
        return request.items.default
    return loop.decision.default if request.baseline is None else request.baseline


def _named_items(loop: Loop, items: RequestItems | None) -> list[Mapping[str, object]] | None:
    """Return *items* as the service has sent them, with every feature of the loop file."""
    declared = loop.decision.items
    if declared is None or items is None:
        return None
    return [
        {"id": id, "features": dict(zip(declared.features, row, strict=True))}
        for id, row in zip(items.ids, items.rows, strict=True)
    ]
