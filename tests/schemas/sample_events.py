"""Events for codec tests: a loop with every type, strategies, and fastavro as oracle."""

import io
import json
import math
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import fastavro
from hypothesis import strategies as st

from tidemill.schemas.avro.primitives import EPOCH, MICROSECOND
from tidemill.schemas.avro.wire import Schema, canonical_json
from tidemill.schemas.events.schemas import CIRCUMSTANCES, DecisionEncoder, FeedbackEncoder
from tidemill.schemas.loop.definition import (
    Decision,
    Feature,
    Feedback,
    FieldType,
    Label,
    Loop,
    Policy,
)
from tidemill.schemas.registry.choose import MemorySchemaStore, SchemaStore

Event = dict[str, object]

FEATURES = {
    **{f"{kind.value}_": Feature(type=kind) for kind in FieldType},
    **{f"maybe_{kind.value}": Feature(type=kind, nullable=True) for kind in FieldType},
}
VALUES = {f"value_{kind.value}": Feature(type=kind, nullable=True) for kind in FieldType}


def everything(**changes: object) -> Loop:
    """Return a loop whose features and feedback have every type, with *changes* to its parts."""
    parts: dict[str, object] = {
        "loop": "all-types",
        "decision": Decision(type="choice", actions=["yes", "no"], default="no"),
        "features": FEATURES,
        "feedback": {
            "clicked": Feedback(within=timedelta(minutes=30)),
            "told": Feedback(within=timedelta(hours=8), values=VALUES),
            "paid": Feedback(
                within=timedelta(days=1), values={"amount": Feature(type=FieldType.FLOAT)}
            ),
        },
        "label": Label(sql="count(*) > 0"),
        "policy": Policy(kind="threshold", above="yes", below="no"),
    }
    return Loop.model_validate({**parts, **changes})


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def _times(first: int, last: int) -> st.SearchStrategy[datetime]:
    micros = st.integers(
        (datetime(first, 1, 1, tzinfo=UTC) - EPOCH) // MICROSECOND,
        (datetime(last, 12, 31, tzinfo=UTC) - EPOCH) // MICROSECOND,
    )
    return micros.map(lambda each: EPOCH + each * MICROSECOND)


times = _times(1, 9999)
usual_times = _times(2000, 2040)
longs = st.one_of(st.integers(-200, 200), st.integers(-(2**63), 2**63 - 1))
_PLAIN: dict[FieldType, st.SearchStrategy[object]] = {
    FieldType.FLOAT: st.floats(),
    FieldType.INT: longs,
    FieldType.BOOL: st.booleans(),
    FieldType.CATEGORY: texts,
    FieldType.CATEGORIES: st.lists(texts, max_size=4),
    FieldType.TIMESTAMP: st.one_of(times, usual_times),
}


def _record(fields: dict[str, Feature]) -> st.SearchStrategy[Event]:
    return st.fixed_dictionaries(
        {
            name: st.none() | _PLAIN[each.type] if each.nullable else _PLAIN[each.type]
            for name, each in fields.items()
        }
    )


circumstances: st.SearchStrategy[Event] = st.fixed_dictionaries(
    {
        "baseline": st.none() | st.sampled_from(["yes", "no"]),
        "propensities": st.none() | st.lists(st.floats(), max_size=70),
        "policy_action": st.none() | st.sampled_from(["yes", "no"]),
        "stage": st.none() | texts,
        "rule_version": st.none() | st.integers(-(2**31), 2**31 - 1),
        "experiment": st.none() | texts,
        "arm": st.none() | texts,
    }
)
plain_decisions: st.SearchStrategy[Event] = st.fixed_dictionaries(
    {
        "id": texts,
        "at": usual_times,
        "entity": st.none() | texts,
        "action": st.sampled_from(["yes", "no"]),
        "score": st.none() | st.floats(),
        "propensity": st.none() | st.floats(0, 1),
        "source": st.sampled_from(["model", "default", "fallback"]),
        "model_version": st.none() | st.just("lightgbm-7"),
        "policy_version": st.integers(1, 300),
        "loop_version": st.integers(-(2**31), 2**31 - 1),
        "features": _record(FEATURES),
    }
)
decisions: st.SearchStrategy[Event] = st.builds(
    lambda plain, more: plain | more,
    plain_decisions,
    st.just(dict.fromkeys(CIRCUMSTANCES)) | circumstances,
)


def decision(number: int, **changes: object) -> Event:
    """Return a plain decision of `everything`; *number* makes it different from others."""
    return {
        "id": f"d{number:06d}",
        "at": EPOCH + timedelta(days=16_000, seconds=number),
        "entity": None if number % 3 else f"entity-{number}",
        "action": "yes" if number % 2 else "no",
        "score": number / 7,
        "propensity": None,
        "source": "model",
        "model_version": "lightgbm-7",
        "policy_version": 1,
        "loop_version": 1,
        "features": {
            "float_": number / 3,
            "int_": number,
            "bool_": number % 2 == 0,
            "category_": f"category {number % 10}",
            "categories_": [f"tag {i}" for i in range(number % 3)],
            "timestamp_": EPOCH + timedelta(seconds=number),
            "maybe_category": "é" if number % 5 == 0 else None,
        },
        **changes,
    }


def decision_payloads(loop: Loop, count: int, store: SchemaStore | None = None) -> list[bytes]:
    """Return the payloads of *count* plain decisions."""
    encoder = DecisionEncoder(loop, store or MemorySchemaStore())
    return [encoder.encode(decision(number)) for number in range(count)]


def feedback_payload(loop: Loop, kind: str, store: SchemaStore, **values: object) -> bytes:
    """Return the payload of one feedback of *kind*."""
    event = {"id": "f1", "decision_id": "d1", "at": EPOCH, "values": values}
    return FeedbackEncoder(loop, store).encode(kind, event)


@lru_cache
def _parsed(text: str) -> dict[str, object]:
    schema = fastavro.parse_schema(json.loads(text))
    assert isinstance(schema, dict)
    return schema


def by_fastavro(body: bytes, schema: Schema) -> Event:
    """Return what fastavro, which shares no code with ours, reads from *body*."""
    parsed = _parsed(canonical_json(schema))
    value = fastavro.schemaless_reader(io.BytesIO(body), parsed, None)
    assert isinstance(value, dict)
    return value


def same(value: object) -> object:
    """Return *value* in a form where NaN equals NaN and -0.0 does not equal 0.0."""
    match value:
        case dict():
            return {name: same(each) for name, each in value.items()}
        case list():
            return [same(each) for each in value]
        case float():
            return "nan" if math.isnan(value) else repr(value)
        case _:
            return value
