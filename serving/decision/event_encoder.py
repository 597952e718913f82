"""Encodes decision events, with a cache for the parts that many events share.

The bytes are those that `schemas/events/schemas.py` makes for the same decision, in half the time:
the fields after the score (propensity, source, versions) have few values, so their bytes are
cached.
"""

import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

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
from tidemill.schemas.events.schemas import CIRCUMSTANCES, decision_schema, decision_subject
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.port import SchemaStore
from tidemill.serving.policies.choice import Action, Choice, Features


class Circumstances(NamedTuple):
    """What else is logged about a decision; None where it does not apply.

    Attributes:
        baseline: what the service would have done.
        propensities: in a ranking, the probability of each position, given those before it.
        policy_action: what the policy had chosen, where something else was done.
        stage, rule_version, experiment, arm: reserved for rules and experiments.
    """

    baseline: Action | None = None
    propensities: list[float] | None = None
    policy_action: Action | None = None
    stage: str | None = None
    rule_version: int | None = None
    experiment: str | None = None
    arm: str | None = None


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
