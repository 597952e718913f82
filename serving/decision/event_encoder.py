"""Encodes decision events, with a cache for the parts that many events share; and feedback events.

The bytes are those that `schemas/events/schemas.py` makes for the same decision, in half the time:
the fields after the score (propensity, source, versions) have few values, so their bytes are
cached.
"""

import struct
from collections.abc import Callable, Mapping
from time import time_ns
from typing import NamedTuple, cast

from tidemill.errors import BrokerError, RequestError
from tidemill.schemas.avro.encoder import compile_values_encoder
from tidemill.schemas.avro.primitives import (
    LENGTHS,
    varint,
    write_boolean,
    write_category,
    write_double,
    write_int,
    write_string,
    write_strings,
    write_timestamp,
)
from tidemill.schemas.avro.wire import Schema
from tidemill.schemas.events.schemas import (
    CIRCUMSTANCES,
    FeedbackEncoder,
    decision_schema,
    decision_subject,
)
from tidemill.schemas.logs import topic_of
from tidemill.schemas.loop.definition import Items, Loop
from tidemill.schemas.registry.port import SchemaStore
from tidemill.serving.decision.counters import DecisionCounters
from tidemill.serving.decision.event_log import Event, EventLog
from tidemill.serving.decision.ids import new_id
from tidemill.serving.decision.requests import FeedbackRequest
from tidemill.serving.policies.choice import Action, Choice, Features


class Circumstances(NamedTuple):
    """What else is logged about a decision; None where it does not apply.

    Attributes:
        baseline: what the service would have done.
        propensities: in a ranking, the probability of each position, given those before it.
        policy_action: what the policy had chosen, where something else was done.
        stage: that of a loop with a rollout.
        rule_version, experiment, arm: reserved for rules and experiments.
    """

    baseline: Action | None = None
    propensities: list[float] | None = None
    policy_action: Action | None = None
    stage: str | None = None
    rule_version: int | None = None
    experiment: str | None = None
    arm: str | None = None


MAX_EVENT_BYTES = 900_000  # Kafka's default limit for a record is 1 MB, headers included
SHORTER = "send shorter texts and lists"
_NULL = b"\x00"
_NOTHING = _NULL * len(CIRCUMSTANCES)
_SOME = b"\x02"
_some_double = struct.Struct("<Bd").pack
_REMEMBERED = 1_000  # cached ends: sources x models x propensities

Write = Callable[[object], bytes]
EncodeDecision = Callable[
    [bytes, object, str | None, Choice, str, str | None, Features, Circumstances | None], bytes
]
"""Takes a decision and returns its payload for Kafka. The arguments are, in this order: its id in
UTF-8, which is the key of the record too; its time, as an aware datetime or microseconds since
1970; its entity, if known; its choice; its source; its model version, if a model decided; all
features of the loop, in the order of the loop, as `DecisionReader` has checked them; and its
circumstances, None if there are none. Items follow the payload where a loop has them
(`item_answers.py`).
Raises ValueError if a text is not valid Unicode, or the time is not in the years 1 to 9999."""


def decision_encoder(loop: Loop, store: SchemaStore) -> EncodeDecision:
    """Return the function that encodes the decisions of *loop*; registers their schema.

    Raises:
        ContractError: an earlier schema of the loop forbids this one.
        BrokerError: the schema store does not answer.
    """
    schema = decision_schema(loop)
    fields = cast(list[Mapping[str, object]], schema["fields"])
    prefix = store.register(decision_subject(loop), schema)
    write_action = _action_writer(loop)
    named = {str(field["name"]): field for field in fields}
    added = [named[name] for name in CIRCUMSTANCES]
    write_features = compile_values_encoder(cast(Schema, named["features"]["type"]))
    write_circumstances = compile_values_encoder({"name": "Circumstances", "fields": added})
    versions = write_int(loop.policy.version) + write_int(loop.version)
    ends: dict[tuple[float | None, str, str | None], bytes] = {}
    join = b"".join

    def encode(
        decision_id: bytes,
        at: object,
        entity: str | None,
        choice: Choice,
        source: str,
        model_version: str | None,
        features: Features,
        circumstances: Circumstances | None,
    ) -> bytes:
        action, score, propensity, _ = choice
        end = (propensity, source, model_version)
        size = len(decision_id)
        return join(
            (
                prefix,
                LENGTHS[size] if size < 4_096 else varint(size),
                decision_id,
                write_timestamp(at),
                _NULL if entity is None else _SOME + write_string(entity),
                write_action(action),
                _NULL if score is None else _some_double(2, score),
                ends.get(end) or remember(end),
                write_features(features),
                _NOTHING if circumstances is None else write_circumstances(circumstances),
            )
        )

    def remember(end: tuple[float | None, str, str | None]) -> bytes:
        """Return the bytes between score and features, and cache them."""
        if len(ends) >= _REMEMBERED:
            ends.clear()
        ends[end] = written = _end(*end) + versions
        return written

    return encode


def _action_writer(loop: Loop) -> Write:
    """Return the function that writes an action of *loop*."""
    if loop.decision.type == "bool":
        return cast(Write, {action: write_boolean(action) for action in (True, False)}.__getitem__)
    if loop.decision.items is not None and loop.decision.type == "choice":
        return cast(Write, write_string)
    if loop.decision.type == "choice":
        written = {action: write_category(action) for action in loop.decision.actions}
        return cast(Write, written.__getitem__)
    return write_double if loop.decision.type == "float" else write_strings


def _end(propensity: float | None, source: str, model_version: str | None) -> bytes:
    return b"".join(
        (
            _NULL if propensity is None else _some_double(2, propensity),
            write_string(source),
            _NULL if model_version is None else _SOME + write_string(model_version),
        )
    )


class FeedbackEvents:
    """Makes the feedback events of one version of one loop, and logs them.

    Args:
        loop: what the feedback is about.
        store: gives the schemas of the events their prefix.
        log: takes the events.
        counters: count what was logged.
    """

    def __init__(
        self, loop: Loop, *, store: SchemaStore, log: EventLog, counters: DecisionCounters
    ) -> None:
        self._encode = FeedbackEncoder(loop, store).encode
        self._write = log.write
        self._counters = counters
        self._topics = {name: topic_of(loop.loop, kind.log) for name, kind in loop.feedback.items()}

    def event(self, request: FeedbackRequest) -> tuple[str, Event]:
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
        payload = self._encode(request.kind, event)
        if len(payload) > MAX_EVENT_BYTES:
            raise too_large(payload, SHORTER)
        return feedback_id, Event(self._topics[request.kind], request.decision_id.encode(), payload)

    def take(self, request: FeedbackRequest) -> str:
        """Log one feedback and return its id.

        Raises:
            RequestError: a text of the request is not valid Unicode, or the event is too large.
            BrokerError: the buffer for the broker is full; the feedback is not logged.
        """
        feedback_id, event = self.event(request)
        if not self._write(*event):
            raise BrokerError(
                "the feedback was not logged: the buffer for Kafka is full",
                hint="send it again later with the same id; check whether the brokers are up",
            )
        self._counters.feedback += 1
        return feedback_id


def too_large(payload: bytes, hint: str) -> RequestError:
    """Return the refusal of a *payload* of more than `MAX_EVENT_BYTES`."""
    what = f"the event would take {len(payload)} bytes, over {MAX_EVENT_BYTES}"
    return RequestError(what, hint=hint)


def shorter(items: Items | None) -> str:
    """Return what makes the event of a decision shorter."""
    if items is None:
        return SHORTER
    less = "send fewer items, or shorter texts"
    return less if items.log == "shown" else f"{less}; `log: shown` logs only what was shown"
