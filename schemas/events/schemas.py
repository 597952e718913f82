"""The events of a loop: their Avro schemas, their columns, and their encoders.

A loop has one decision event, and one feedback event per kind. Their schemas are generated from the
loop definition alone, so a service in any language can produce events from the published schemas.

Longer than 300 lines because the fields of an event and its columns change together.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import cast

import polars as pl

from tidemill.errors import RequestError
from tidemill.schemas import topics
from tidemill.schemas.avro.encoder import Encode, compile_encoder
from tidemill.schemas.avro.primitives import EPOCH, MICROSECOND
from tidemill.schemas.avro.wire import Schema
from tidemill.schemas.loop.definition import Feature, FieldType, Items, Loop
from tidemill.schemas.registry.port import SchemaStore

TIME = pl.Datetime("us", "UTC")
NO_VALUES: Mapping[str, pl.DataType] = {"_": pl.Boolean()}
"""The only field of the struct ``values`` in a loop whose feedback has no values, because Parquet
and Delta have no struct without fields. It is always null, and no value can have its name."""

_TIMESTAMP = {"type": "long", "logicalType": "timestamp-micros"}
_STRINGS = {"type": "array", "items": "string"}
_DOUBLES = {"type": "array", "items": "double"}
_AVRO: Mapping[FieldType, object] = {
    FieldType.FLOAT: "double",
    FieldType.INT: "long",
    FieldType.BOOL: "boolean",
    FieldType.CATEGORY: "string",
    FieldType.CATEGORIES: _STRINGS,
    FieldType.TIMESTAMP: _TIMESTAMP,
}
_POLARS: Mapping[FieldType, pl.DataType] = {
    FieldType.FLOAT: pl.Float64(),
    FieldType.INT: pl.Int64(),
    FieldType.BOOL: pl.Boolean(),
    FieldType.CATEGORY: pl.String(),
    FieldType.CATEGORIES: pl.List(pl.String),
    FieldType.TIMESTAMP: TIME,
}
_ACTION_AVRO: Mapping[str, object] = {
    "bool": "boolean",
    "choice": "string",
    "float": "double",
    "ranking": _STRINGS,
}
_ACTION_POLARS: Mapping[str, pl.DataType] = {
    "bool": pl.Boolean(),
    "choice": pl.String(),
    "float": pl.Float64(),
    "ranking": pl.List(pl.String),
}
ITEM_FIELDS: Mapping[str, str] = {
    "item": "id",
    "position": "position",
    "item_propensity": "propensity",
    "item_features": "features",
}
"""The columns of the item that an example is about, with the fields of an item that they have."""
CIRCUMSTANCES = (
    *("baseline", "propensities", "policy_action", "stage", "rule_version", "experiment", "arm"),
)
"""The fields of a decision event that the first release did not have, after the features. Each is
null where it does not apply, and in older events."""


def decision_schema(loop: Loop) -> Schema:
    """Return the Avro schema of the decision events of *loop*."""
    return {
        "type": "record",
        "name": "Decision",
        "namespace": _namespace(loop),
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "at", "type": _TIMESTAMP},
            _nullable("entity", "string"),
            {"name": "action", "type": _ACTION_AVRO[loop.decision.type]},
            _nullable("score", "double"),
            _nullable("propensity", "double"),
            {"name": "source", "type": "string"},
            _nullable("model_version", "string"),
            {"name": "policy_version", "type": "int"},
            {"name": "loop_version", "type": "int"},
            {"name": "features", "type": _record("Features", loop.features)},
            _nullable("baseline", _ACTION_AVRO[loop.decision.type]),
            _nullable("propensities", _DOUBLES),
            _nullable("policy_action", _ACTION_AVRO[loop.decision.type]),
            _nullable("stage", "string"),
            _nullable("rule_version", "int"),
            _nullable("experiment", "string"),
            _nullable("arm", "string"),
            *([] if loop.decision.items is None else [_nullable("items", _items(loop))]),
        ],
    }


def feedback_schema(loop: Loop, kind: str) -> Schema:
    """Return the Avro schema of the feedback events of *kind*.

    Raises:
        RequestError: *loop* has no such kind.
    """
    return {
        "type": "record",
        "name": f"Feedback_{kind}",
        "namespace": _namespace(loop),
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "decision_id", "type": "string"},
            {"name": "at", "type": _TIMESTAMP},
            {"name": "values", "type": _record(f"Values_{kind}", _values(loop, kind))},
            *([] if loop.decision.items is None else [_nullable("item", "string")]),
        ],
    }


def event_schemas(loop: Loop) -> dict[str, Schema]:
    """Return all event schemas of *loop* by subject, the name under which each is registered."""
    return {
        decision_subject(loop): decision_schema(loop),
        **{feedback_subject(loop, kind): feedback_schema(loop, kind) for kind in loop.feedback},
    }


def decision_subject(loop: Loop) -> str:
    """Return the subject of the decision events of *loop*, say ``ad.decisions/Decision``."""
    return f"{topics.decisions(loop.loop)}/Decision"


def feedback_subject(loop: Loop, kind: str) -> str:
    """Return the subject of the feedback events of *kind*, say ``ad.feedback/Feedback_click``.

    It begins with the topic of the events, where serialisers of other languages look for it.
    """
    return f"{topics.feedback(loop.loop, loop.feedback[kind].stream)}/Feedback_{kind}"


def decision_frame_schema(loop: Loop) -> pl.Schema:
    """Return the names and types of the columns of decision events."""
    return pl.Schema(
        {
            "id": pl.String(),
            "at": TIME,
            "entity": pl.String(),
            "action": _ACTION_POLARS[loop.decision.type],
            "score": pl.Float64(),
            "propensity": pl.Float64(),
            "source": pl.String(),
            "model_version": pl.String(),
            "policy_version": pl.Int32(),
            "loop_version": pl.Int32(),
            "features": _struct(loop.features),
            "baseline": _ACTION_POLARS[loop.decision.type],
            "propensities": pl.List(pl.Float64),
            "policy_action": _ACTION_POLARS[loop.decision.type],
            "stage": pl.String(),
            "rule_version": pl.Int32(),
            "experiment": pl.String(),
            "arm": pl.String(),
            **({} if loop.decision.items is None else {"items": items_type(loop.decision.items)}),
        }
    )


def items_type(items: Items) -> pl.DataType:
    """Return the type of the column of *items*: each with id, propensity, position, features."""
    item = {
        "id": pl.String(),
        "propensity": pl.Float64(),
        "position": pl.Int32(),
        "features": _struct(items.features),
    }
    return pl.List(pl.Struct(item))


def example_frame_schema(decisions: pl.Schema) -> pl.Schema:
    """Return the columns that an example has of its decision, which has the columns *decisions*.

    If decisions have items, an example is about one of them and has `ITEM_FIELDS` instead of all.
    """
    columns = dict(decisions)
    items = columns.pop("items", None)
    if not isinstance(items, pl.List) or not isinstance(items.inner, pl.Struct):
        return decisions
    kinds = {field.name: cast(pl.DataType, field.dtype) for field in items.inner.fields}
    return pl.Schema({**columns, **{name: kinds[part] for name, part in ITEM_FIELDS.items()}})


def orders_of_items(decisions: pl.Schema) -> list[str]:
    """Return the columns that name all items of a decision, which has the columns *decisions*.

    They are null in the examples of single items: each of 200 would repeat the order of all 200.
    """
    if "items" not in decisions:
        return []
    named = ("action", "baseline", "policy_action")
    return [name for name in named if isinstance(decisions[name], pl.List)]


def feedback_frame_schema(loop: Loop) -> pl.Schema:
    """Return the names and types of the columns of feedback events, all kinds together.

    The struct ``values`` has the values of every kind; in a row, those of other kinds are null. A
    loop whose feedback has no values has `NO_VALUES` there.
    """
    values = {
        name: _POLARS[value.type]
        for kind in loop.feedback.values()
        for name, value in kind.values.items()
    }
    return pl.Schema(
        {
            "id": pl.String(),
            "decision_id": pl.String(),
            "kind": pl.String(),
            "at": TIME,
            "values": pl.Struct(values or NO_VALUES),
            **({} if loop.decision.items is None else {"item": pl.String()}),
        }
    )


class DecisionEncoder:
    """Encodes the decisions of one loop; the constructor registers their schema.

    Raises:
        ContractError: events of an earlier schema of the loop could not be read with this one.
        BrokerError: the schema store does not answer.
    """

    def __init__(self, loop: Loop, store: SchemaStore) -> None:
        schema = decision_schema(loop)
        prefix = store.register(decision_subject(loop), schema)
        self._encode = compile_encoder(schema, prefix)

    def encode(self, decision: Mapping[str, object]) -> bytes:
        """Return the payload for Kafka of *decision*, a mapping from field names to values.

        Times are aware datetimes or microseconds since 1970. Nullable fields and fields with a
        default may be left out.

        Raises:
            RequestError: a field is unknown, missing or of a wrong type.
        """
        return self._encode(decision)


class FeedbackEncoder:
    """Encodes the feedback of one loop, all kinds; the constructor registers their schemas.

    Raises:
        ContractError: events of an earlier schema of the loop could not be read with one of these.
        BrokerError: the schema store does not answer.
    """

    def __init__(self, loop: Loop, store: SchemaStore) -> None:
        self._kinds: dict[str, Encode] = {}
        for kind in loop.feedback:
            schema = feedback_schema(loop, kind)
            prefix = store.register(feedback_subject(loop, kind), schema)
            self._kinds[kind] = compile_encoder(schema, prefix)

    def encode(self, kind: str, feedback: Mapping[str, object]) -> bytes:
        """Return the payload for Kafka of *feedback*, a mapping from field names to values.

        Raises:
            RequestError: there is no such kind, or a field is unknown, missing or of a wrong type.
        """
        if kind not in self._kinds:
            raise _unknown_kind(kind, self._kinds)
        return self._kinds[kind](feedback)


def _namespace(loop: Loop) -> str:
    return f"tidemill.{loop.loop.replace('-', '_')}"


def _values(loop: Loop, kind: str) -> Mapping[str, Feature]:
    if kind not in loop.feedback:
        raise _unknown_kind(kind, loop.feedback)
    return loop.feedback[kind].values


def _unknown_kind(kind: str, known: Mapping[str, object]) -> RequestError:
    what = f"feedback kind {kind!r} is not known"
    return RequestError(what, hint=f"the loop has {', '.join(known)}")


def _items(loop: Loop) -> dict[str, object]:
    """Return the Avro type of the items of a decision of *loop*, which has some.

    The position is that at which an item was shown, from 0; null if it was not. The propensity is
    the probability of the item at its position, given those before it; of an item that was not
    shown, that of the first position.
    """
    features = {} if loop.decision.items is None else loop.decision.items.features
    fields = [
        {"name": "id", "type": "string"},
        _nullable("propensity", "double"),
        _nullable("position", "int"),
        {"name": "features", "type": _record("ItemFeatures", features)},
    ]
    return {"type": "array", "items": {"type": "record", "name": "Item", "fields": fields}}


def _struct(fields: Mapping[str, Feature]) -> pl.Struct:
    return pl.Struct({name: _POLARS[each.type] for name, each in fields.items()})


def _record(name: str, fields: Mapping[str, Feature]) -> dict[str, object]:
    listed = [_field(field, feature) for field, feature in fields.items()]
    return {"type": "record", "name": name, "fields": listed}


def _field(name: str, feature: Feature) -> dict[str, object]:
    if feature.nullable:
        return _nullable(name, _AVRO[feature.type])
    field: dict[str, object] = {"name": name, "type": _AVRO[feature.type]}
    if feature.default is not None:
        field["default"] = _DEFAULTS.get(feature.type, _same)(feature.default)
    return field


def _nullable(name: str, avro: object) -> dict[str, object]:
    return {"name": name, "type": ["null", avro], "default": None}


def _same(default: object) -> object:
    return default


def _microseconds(default: object) -> object:
    return (datetime.fromisoformat(str(default)) - EPOCH) // MICROSECOND


def _number(default: object) -> object:
    return float(str(default))


_DEFAULTS: Mapping[FieldType, Callable[[object], object]] = {
    FieldType.FLOAT: _number,
    FieldType.TIMESTAMP: _microseconds,
}
