"""One decision inside a worker: score, choose, log, answer.

A decision never waits, and never fails if its request is valid. Of several that are asked for
together none is logged before all of them can be. Without a model the policy explores around the
default: the baseline of the request, or that of the loop. If the model fails or exceeds the budget
of the loop, the default answers, with the source ``fallback``. An apprentice always answers the
default. The follower swaps a model by assigning `Decider.model`.
"""

from collections.abc import Iterable
from time import perf_counter, time_ns
from typing import NamedTuple

from tidemill.errors import BrokerError, ModelError, RequestError
from tidemill.schemas import topics
from tidemill.schemas.events.schemas import FeedbackEncoder
from tidemill.schemas.logs import topic_of
from tidemill.schemas.loop.definition import Items, Loop
from tidemill.schemas.registry.port import SchemaStore
from tidemill.serving.decision.counters import NOTED, DecisionCounters
from tidemill.serving.decision.event_encoder import Circumstances, decision_encoder
from tidemill.serving.decision.event_log import Event, EventLog
from tidemill.serving.decision.ids import new_id
from tidemill.serving.decision.item_answers import ItemAnswers
from tidemill.serving.decision.items import RequestItems
from tidemill.serving.decision.requests import (
    DecisionReader,
    DecisionRequest,
    FeedbackReader,
    FeedbackRequest,
    RequestLimits,
)
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.policies.choice import Action, Choice, Features, LiveModel
from tidemill.serving.policies.policies import certainty, policy_of

MAX_EVENT_BYTES = 900_000  # Kafka's default limit for a record is 1 MB, headers included
_SHORTER = "send shorter texts and lists"
_SLOW_IN_A_ROW = 3  # one slow decision may be due to the machine, three are due to the model
_REST_S = 1.0  # how long a slow model is not called
_MODEL_FAILURES = (ModelError, ArithmeticError, LookupError, TypeError, ValueError)


class Prepared(NamedTuple):
    """A decision that is made and not yet logged: its event, its result, and how long it took."""

    key: bytes
    payload: bytes
    result: DecisionResult
    took_s: float


class Decider:
    """Decides for one version of one loop; safe to share between threads.

    Args:
        loop: what to decide.
        store: gives the schemas of the events their prefix.
        log: takes the events.
        counters: count its decisions; None for new counters.
        limits: how much one request may bring.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        store: SchemaStore,
        log: EventLog,
        counters: DecisionCounters | None = None,
        limits: RequestLimits | None = None,
    ) -> None:
        self.loop = loop
        self.model: LiveModel | None = None  # assigned by the follower, read once for each decision
        self.last_failure: str | None = None
        self.counters = counters or DecisionCounters()
        self.limits = limits or RequestLimits()
        self.decisions = DecisionReader(loop, self.limits)
        self.feedback = FeedbackReader(loop, self.limits)
        policy = policy_of(loop)
        self._choice, self._without_model = policy.choose, policy.without_model
        items = loop.decision.items
        self._items = None if items is None else ItemAnswers(loop, items)
        self._shorter = _shorter(items)
        self._default: Action = loop.decision.default
        self._is_apprentice = loop.learning == "apprentice"
        self._encode = decision_encoder(loop, store)
        self._encode_feedback = FeedbackEncoder(loop, store).encode
        self._write = log.write
        self._topic = topics.decisions(loop.loop)
        self._feedback_topics = {
            name: topic_of(loop.loop, kind.log) for name, kind in loop.feedback.items()
        }
        self._budget_s = loop.budget_ms / 1e3
        self._policy_version, self._version = loop.policy.version, loop.version
        self._slow = 0
        self._rest_until_s = 0.0

    def decide(self, request: DecisionRequest, started_s: float | None = None) -> DecisionResult:
        """Decide, log the decision, and return it.

        Args:
            request: one that `decisions` has read or checked.
            started_s: the start of the budget, by `time.perf_counter`; now if None.

        Raises:
            RequestError: the request cannot be written as an event, or the event is too large.
        """
        asked_s = perf_counter()
        if started_s is None:
            started_s = asked_s
        key, payload, result = self._made(request, started_s, asked_s)
        self._write(self._topic, key, payload)
        noted = self.counters.took_s[result.source]
        noted.append(perf_counter() - started_s)
        if len(noted) >= NOTED:
            self.counters.count()
        return result

    def prepare(self, request: DecisionRequest, started_s: float | None = None) -> Prepared:
        """Decide, and log nothing yet; the arguments and errors are those of `decide`."""
        asked_s = perf_counter()
        if started_s is None:
            started_s = asked_s
        key, payload, result = self._made(request, started_s, asked_s)
        return Prepared(key, payload, result, perf_counter() - started_s)

    def log_all(self, prepared: Iterable[Prepared]) -> list[DecisionResult]:
        """Log decisions that `prepare` has made, and return them."""
        results = []
        for one in prepared:
            self._write(self._topic, one.key, one.payload)
            self.counters.took_s[one.result.source].append(one.took_s)
            results.append(one.result)
        self.counters.count()
        return results

    def _made(
        self, request: DecisionRequest, started_s: float, asked_s: float
    ) -> tuple[bytes, bytes, DecisionResult]:
        """Return key and payload of a decision's event, and its result; nothing is logged yet."""
        features, baseline = request.features, request.baseline
        default = self._default if baseline is None else baseline
        items = request.items
        if items is not None:
            default = items.default
        now_ns = time_ns()
        decision_id = request.id or new_id(now_ns)
        at = request.at or now_ns // 1_000
        try:
            key = decision_id.encode()
            choice, source, version = self._choose(
                features, default, items, key, started_s, asked_s
            )
            chosen = None
            if self._is_apprentice:
                choice, source, chosen = as_apprentice(choice, source, default)
            action, score, propensity, positions = choice
            more, logged = None, b""
            if self._items is not None and items is not None:
                logged = self._items.written(items, choice)
                positions = None  # each item has its own
            if not (baseline is None and positions is None and chosen is None):
                more = Circumstances(baseline, positions, chosen)
            payload = self._encode(key, at, request.entity, choice, source, version, features, more)
            payload += logged
        except ValueError as error:
            raise RequestError(
                f"the request cannot be written as an event: {error}",
                hint="send texts in valid Unicode, and times of the years 1 to 9999",
            ) from error
        if len(payload) > MAX_EVENT_BYTES:
            raise _too_large(payload, self._shorter)
        return (
            key,
            payload,
            DecisionResult(
                decision_id,
                action,
                score,
                propensity,
                source,
                version,
                self._policy_version,
                self._version,
                choice[3] if isinstance(action, list) else None,
                chosen,
            ),
        )

    def _choose(
        self,
        features: Features,
        default: Action,
        items: RequestItems | None,
        key: bytes,
        started_s: float,
        now_s: float,
    ) -> tuple[Choice, str, str | None]:
        """Return choice, source and model version: the model's if it answers in time."""
        model, among = self.model, self._items
        if model is None:
            if among is None or items is None:
                choice, is_explored = self._without_model(default, key)
            else:
                choice, is_explored = among.without_model(items, key)
            return choice, "explore" if is_explored else "default", None
        deadline_s = started_s + self._budget_s
        if now_s > deadline_s or now_s < self._rest_until_s:
            self.counters.over_budget += 1
            return certain_choice(default), "fallback", None
        try:
            if among is None or items is None:
                choice = self._choice(model, features, key)
            else:
                choice = among.choose(model, features, items, key)
        except _MODEL_FAILURES as error:
            self.counters.failed += 1
            self.last_failure = f"{model.version}: {error}"
            return certain_choice(default), "fallback", None
        now_s = perf_counter()
        if now_s <= deadline_s:
            self._slow = 0
            return choice, "model", model.version
        self.counters.over_budget += 1
        self._slow += 1
        if self._slow >= _SLOW_IN_A_ROW:
            self._rest_until_s = now_s + _REST_S
        return certain_choice(default), "fallback", None

    def feedback_event(self, request: FeedbackRequest) -> tuple[str, Event]:
        """Return the id of a feedback and its event; nothing is logged yet.

        Raises:
            RequestError: a text of the request is not valid Unicode, or the event is too large.
        """
        feedback_id = request.id or new_id()
        event: dict[str, object] = {
            "id": feedback_id,
            "decision_id": request.decision_id,
            "at": request.at or time_ns() // 1_000,
            "values": request.values,
        }
        if request.item is not None:
            event["item"] = request.item
        payload = self._encode_feedback(request.kind, event)
        if len(payload) > MAX_EVENT_BYTES:
            raise _too_large(payload, _SHORTER)
        topic = self._feedback_topics[request.kind]
        return feedback_id, Event(topic, request.decision_id.encode(), payload)

    def take_feedback(self, request: FeedbackRequest) -> str:
        """Log one feedback and return its id.

        Raises:
            RequestError: a text of the request is not valid Unicode, or the event is too large.
            BrokerError: the buffer for the broker is full; the feedback is not logged.
        """
        feedback_id, event = self.feedback_event(request)
        if not self._write(*event):
            raise BrokerError(
                "the feedback was not logged: the buffer for Kafka is full",
                hint="send it again later with the same id; check whether the brokers are up",
            )
        self.counters.feedback += 1
        return feedback_id


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


def _too_large(payload: bytes, hint: str) -> RequestError:
    what = f"the event would take {len(payload)} bytes, over {MAX_EVENT_BYTES}"
    return RequestError(what, hint=hint)


def _shorter(items: Items | None) -> str:
    """Return what makes the event of a decision shorter."""
    if items is None:
        return _SHORTER
    less = "send fewer items, or shorter texts"
    return less if items.log == "shown" else f"{less}; `log: shown` logs only what was shown"
