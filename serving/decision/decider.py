"""One decision inside a worker: score, choose, log, answer.

A decision never waits, and never fails if its request is valid. Of several that are asked for
together none is logged before all of them can be. Without a model the policy explores around the
default: the baseline of the request, or that of the loop. If the model fails or exceeds the budget
of the loop, the default answers, with the source ``fallback``. An apprentice always answers the
default. Where the loop has a rollout, the model is that of the stage of the decision. The follower
swaps models by assigning `Decider.models`.
"""

from collections.abc import Iterable
from functools import partial
from time import perf_counter, time_ns

from tidemill.errors import ModelError, RequestError
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.rollout import CONTROL
from tidemill.schemas.registry.port import SchemaStore
from tidemill.serving.decision.counters import NOTED, DecisionCounters
from tidemill.serving.decision.event_encoder import MAX_EVENT_BYTES as MAX_EVENT_BYTES
from tidemill.serving.decision.event_encoder import (
    Circumstances,
    FeedbackEvents,
    decision_encoder,
    shorter,
    too_large,
)
from tidemill.serving.decision.event_log import EventLog
from tidemill.serving.decision.ids import new_id
from tidemill.serving.decision.item_answers import ItemAnswers
from tidemill.serving.decision.items import RequestItems
from tidemill.serving.decision.requests import (
    DecisionReader,
    DecisionRequest,
    FeedbackReader,
    RequestLimits,
)
from tidemill.serving.decision.results import DecisionResult, Prepared
from tidemill.serving.policies.applied_rules import Rules
from tidemill.serving.policies.choice import Action, Choice, Features, LiveModel
from tidemill.serving.policies.policies import as_apprentice, certain_choice, policy_of
from tidemill.serving.stages.decision_stages import DecisionStages
from tidemill.serving.stages.served_models import FailureStreak, ServedModel, ServedModels
from tidemill.serving.stages.shadow import OnFailing, ShadowScorer
from tidemill.serving.stages.shadow_thread import ShadowThread

_USUAL = (None, None, None, None, None)
"""The circumstances of a decision without anything special."""
_MODEL_FAILURES = (ModelError, ArithmeticError, LookupError, TypeError, ValueError)


class Decider:
    """Decides for one version of one loop; safe to share between threads.

    Args:
        loop: what to decide.
        store: gives the schemas of the events their prefix.
        log: takes the events.
        counters: count its decisions; None for new counters.
        limits: how much one request may bring.
        shadows: the thread in which a shadow scores; None if there shall be none.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        store: SchemaStore,
        log: EventLog,
        counters: DecisionCounters | None = None,
        limits: RequestLimits | None = None,
        shadows: ShadowThread | None = None,
    ) -> None:
        self.loop = loop
        self.models = ServedModels()  # assigned by the follower, read once for each decision
        self.on_failing: OnFailing | None = None  # assigned by the follower, too
        self.rules: Rules | None = None  # assigned by the follower, read once for each decision
        self.last_failure: str | None = None
        self.counters = counters or DecisionCounters()
        self.limits = limits or RequestLimits()
        self.decisions = DecisionReader(loop, self.limits)
        self.feedback = FeedbackReader(loop, self.limits)
        policy = policy_of(loop)
        self._choice, self._without_model = policy.choose, policy.without_model
        items = loop.decision.items
        self._items = None if items is None else ItemAnswers(loop, items)
        self._shorter = shorter(items)
        self._default: Action = loop.decision.default
        self._is_apprentice = loop.learning == "apprentice"
        self._encode = decision_encoder(loop, store)
        self._write = log.write
        self._topic = topics.decisions(loop.loop)
        feedback = FeedbackEvents(loop, store=store, log=log, counters=self.counters)
        self.feedback_event, self.take_feedback = feedback.event, feedback.take
        self._budget_s = loop.budget_ms / 1e3
        self._policy_version, self._version = loop.policy.version, loop.version
        rollout, self._stages, self._shadow = loop.rollout, None, None
        if rollout is not None:
            self._stages = DecisionStages(loop.loop, rollout, loop.salt)
            if shadows is not None:
                self._shadow = ShadowScorer(shadows, self.counters.shadow, self._budget_s)

    @property
    def model(self) -> LiveModel | None:
        """The live model; assigning one leaves the other slots as they are."""
        live = self.models.live
        return None if live is None else live.model

    @model.setter
    def model(self, model: LiveModel | None) -> None:
        live = None if model is None else ServedModel(model, FailureStreak())
        self.models = self.models._replace(live=live)

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
        key, payload, result, stage = self._made(request, started_s, asked_s)
        self._write(self._topic, key, payload)
        noted = self.counters.took_s[result.source]
        noted.append(perf_counter() - started_s)
        if len(noted) >= NOTED:
            self.counters.count()
        if stage is not None:
            self._after(request, key, result, stage)
        return result

    def prepare(self, request: DecisionRequest, started_s: float | None = None) -> Prepared:
        """Decide, and log nothing yet; the arguments and errors are those of `decide`."""
        asked_s = perf_counter()
        if started_s is None:
            started_s = asked_s
        made = self._made(request, started_s, asked_s)
        return Prepared(request, *made, perf_counter() - started_s)

    def log_all(self, prepared: Iterable[Prepared]) -> list[DecisionResult]:
        """Log decisions that `prepare` has made, and return them."""
        results = []
        for one in prepared:
            self._write(self._topic, one.key, one.payload)
            self.counters.took_s[one.result.source].append(one.took_s)
            if one.stage is not None:
                self._after(one.request, one.key, one.result, one.stage)
            results.append(one.result)
        self.counters.count()
        return results

    def _made(
        self, request: DecisionRequest, started_s: float, asked_s: float
    ) -> tuple[bytes, bytes, DecisionResult, str | None]:
        """Return key and payload of a decision's event, its result and its stage, unlogged."""
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
            models, stage, chosen = self.models, None, None
            served = models.live
            if self._stages is not None:
                stage, served = self._stages.stage(models, request.entity or decision_id)
            if stage == CONTROL:
                choice, source, version = certain_choice(default), "default", None
            else:
                choice, source, version = self._choose(
                    served, features, default, items, key, started_s, asked_s
                )
            if self._is_apprentice:
                choice, source, chosen = as_apprentice(choice, source, default)
            rules, rule_version = self.rules, None
            if rules is not None:
                rule_version, model = rules.version, served.model if served is not None else None
                choice, replaced = rules.decided(
                    choice, source, stage, model, features, default, key
                )
                chosen = replaced if chosen is None else chosen
            action, score, propensity, positions = choice
            more, logged = None, b""
            if self._items is not None and items is not None:
                logged = self._items.written(items, choice)
                positions = None  # each item has its own
            if (baseline, positions, chosen, stage, rule_version) != _USUAL:
                more = Circumstances(baseline, positions, chosen, stage, rule_version)
            payload = self._encode(key, at, request.entity, choice, source, version, features, more)
            payload += logged
        except ValueError as error:
            raise RequestError(
                f"the request cannot be written as an event: {error}",
                hint="send texts in valid Unicode, and times of the years 1 to 9999",
            ) from error
        if len(payload) > MAX_EVENT_BYTES:
            raise too_large(payload, self._shorter)
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
            stage,
        )

    def _choose(
        self,
        served: ServedModel | None,
        features: Features,
        default: Action,
        items: RequestItems | None,
        key: bytes,
        started_s: float,
        now_s: float,
    ) -> tuple[Choice, str, str | None]:
        """Return choice, source and model version: those of *served* if it answers in time."""
        if served is None:
            among = self._items
            if among is None or items is None:
                choice, is_explored = self._without_model(default, key)
            else:
                choice, is_explored = among.without_model(items, key)
            return choice, "explore" if is_explored else "default", None
        model, streak, _ = served
        deadline_s = started_s + self._budget_s
        if now_s > deadline_s or now_s < streak.rest_until_s:
            self.counters.over_budget += 1
            return certain_choice(default), "fallback", None
        try:
            choice = self._by_model(features, items, key, model)
        except _MODEL_FAILURES as error:
            self.counters.failed += 1
            self.last_failure = f"{model.version}: {error}"
            self._failed(served, perf_counter(), f"{error!r}")
            return certain_choice(default), "fallback", None
        done_s = perf_counter()
        if done_s <= deadline_s:
            streak.failures = 0
            return choice, "model", model.version
        self.counters.over_budget += 1
        if done_s - now_s > self._budget_s:  # by its own time, whatever the request waited before
            self._failed(served, done_s, f"it took {1e3 * (done_s - now_s):.1f} ms")
        return certain_choice(default), "fallback", None

    def _by_model(
        self, features: Features, items: RequestItems | None, key: bytes, model: LiveModel
    ) -> Choice:
        if self._items is None or items is None:
            return self._choice(model, features, key)
        return self._items.choose(model, features, items, key)

    def _failed(self, served: ServedModel, now_s: float, why: str) -> None:
        """Count a failure of *served*, and say so if there are too many in a row."""
        if served.streak.add(now_s) and self.on_failing is not None:
            self.on_failing(served, why)

    def _after(
        self, request: DecisionRequest, key: bytes, result: DecisionResult, stage: str
    ) -> None:
        """Count a decision by its *stage* and give it to the shadow: it is logged."""
        self.counters.count_stage(stage, result.source, is_by_id=not request.entity)
        served = self.models.shadow
        if served is not None and self._shadow is not None:
            choose = partial(self._by_model, request.features, request.items, key)
            self._shadow.take(served, choose, result.action, self.on_failing)
