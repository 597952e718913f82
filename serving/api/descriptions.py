"""What a worker serves, described: a loop to the client, and all of its API as OpenAPI 3.1.

The schemas of features and values come from the types that check them, so that what the document
allows is what the worker takes. Read `openapi`.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from tidemill.schemas.loop.definition import Decision, Items, Loop
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.items import ITEM_ID, MAX_ITEM_ID, ItemCheck
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.decision.values import RequestValues

JsonSchema = dict[str, Any]

_ID = {"type": "string", "minLength": 1, "maxLength": 200}
_ITEM_ID = {**_ID, "maxLength": MAX_ITEM_ID, "pattern": ITEM_ID, "description": "Of an item."}
_TIME = {"type": "string", "format": "date-time", "description": "With a zone; now if left out."}
_REFUSED: Mapping[str, str] = {
    "400": "The request does not fit the loop; nothing of it counts.",
    "401": "There is no token, or it is not known.",
    "403": "The token has not the scope, or the page of a browser may not call.",
    "404": "There is no such loop, or no such kind of feedback.",
    "413": "The body is too large.",
    "429": "The token sends more than its rate.",
    "503": "Not now: send it again later, feedback with the same id.",
}


def described(decider: Decider) -> dict[str, object]:
    """Describe a loop to a client, which answers with the default if no worker does."""
    loop = decider.loop
    return {
        "loop": loop.loop,
        "loop_version": loop.version,
        "policy_version": loop.policy.version,
        "default": loop.decision.default,
        **_items_described(loop.decision.items),
        "features": {name: str(feature.type) for name, feature in loop.features.items()},
        "feedback": {
            kind: {name: str(value.type) for name, value in feedback.values.items()}
            for kind, feedback in loop.feedback.items()
        },
        "model_version": decider.model.version if decider.model else None,
    }


def _items_described(items: Items | None) -> dict[str, object]:
    if items is None:
        return {}
    features = {name: str(feature.type) for name, feature in items.features.items()}
    return {"items": {"features": features, "max": items.max, "log": items.log}}


def openapi(deciders: Iterable[Decider]) -> JsonSchema:
    """Return the OpenAPI 3.1 document of a worker that serves the loops of *deciders*."""
    paths: JsonSchema = {}
    schemas: JsonSchema = {"Refusal": _refusal(), "FeedbackTaken": _object({"id": _ID}, ["id"])}
    for decider in sorted(deciders, key=lambda one: one.loop.loop):
        paths |= _paths(decider.loop)
        title = _title(decider.loop.loop)
        schemas[f"{title}Decision"] = _asked(decider)
        schemas[f"{title}Result"] = _result(decider.loop.decision)
        schemas[f"{title}Feedback"] = _given(decider)
    token = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tidemill serving worker",
            "version": version("tidemill"),
            "description": "Ask for decisions, and say what came of them.",
        },
        "paths": paths | _pages(),
        "components": {"schemas": schemas, "securitySchemes": {"token": token}},
        "security": [{}, {"token": []}],
    }


def _paths(loop: Loop) -> JsonSchema:
    """Return the two paths of *loop*."""
    name, title = loop.loop, _title(loop.loop)
    decided = f"Decide for {name}, and log the decision. {loop.description}".strip()
    told = f"Log feedback about a decision of {name}; answered once Kafka has it."
    decide = _post(f"decide{title}", decided, f"{title}Decision", "200", f"{title}Result")
    tell = _post(f"feedback{title}", told, f"{title}Feedback", "202", "FeedbackTaken")
    at = f"/v1/loops/{name}"
    return {f"{at}/decisions": {"post": decide}, f"{at}/feedback": {"post": tell}}


def _title(loop: str) -> str:
    """Return the name of a loop as the beginning of the names of its schemas."""
    return "".join(part.capitalize() for part in loop.split("-"))


def _post(id: str, summary: str, asked: str, status: str, answered: str) -> JsonSchema:
    """Return an operation that takes one *asked* or a batch, and answers with as many."""
    done = {"description": "In the order of the request.", "content": _json(_or_batch(answered))}
    return {
        "operationId": id,
        "summary": summary,
        "requestBody": {"required": True, "content": _json(_or_batch(asked))},
        "responses": {status: done, **_refusals("400", "401", "403", "404", "413", "429", "503")},
    }


def _or_batch(name: str) -> JsonSchema:
    one = {"$ref": f"#/components/schemas/{name}"}
    batch = _object({"batch": {"type": "array", "items": one}}, ["batch"])
    return {"oneOf": [one, batch]}


def _asked(decider: Decider) -> JsonSchema:
    reader = decider.decisions
    brought = {} if reader.items is None else {"items": _items(reader.items)}
    return _object(
        {
            "features": _values(reader.record),
            **brought,
            "entity": _or_null({"type": "string"}),
            "baseline": _or_null(_action(decider.loop.decision)),
            **_own("decision"),
        },
        ["features", *brought],
    )


def _items(check: ItemCheck) -> JsonSchema:
    """Return the schema of what a request brings to choose among."""
    item = _object({"id": _ITEM_ID, "features": _values(check.values)}, ["id", "features"])
    told = "What to choose among, each under an id of its own; the first is the default."
    return {
        "type": "array",
        "items": item,
        "minItems": 1,
        "maxItems": check.most,
        "description": told,
    }


def _result(decision: Decision) -> JsonSchema:
    """Return the schema of an answer; its fields are those of `DecisionResult`."""
    found: JsonSchema = msgspec.json.schema(DecisionResult)["$defs"]["DecisionResult"]
    properties = found["properties"] | {"action": _action(decision)}
    return _object(properties, found["required"])


def _action(decision: Decision) -> JsonSchema:
    match decision.type:
        case "choice" if decision.items is not None:
            return _ITEM_ID
        case "ranking" if decision.items is not None:
            return {"type": "array", "items": _ITEM_ID, "description": "Ids of items, in order."}
        case "bool":
            return {"type": "boolean"}
        case "float":
            return {"type": "number"}
        case "choice":
            return {"type": "string", "enum": decision.actions}
        case "ranking":
            return {"type": "array", "items": {"type": "string", "enum": decision.actions}}


def _given(decider: Decider) -> JsonSchema:
    told = "The item that it is about; all that were shown if left out."
    has_items = decider.loop.decision.items is not None
    about = {"item": _or_null({**_ITEM_ID, "description": told})} if has_items else {}
    kinds = [
        _object(
            {
                "decision_id": {**_ID, "description": "The id of the answer."},
                "kind": {"type": "string", "const": kind},
                "values": (values := _values(record)),
                **about,
                **_own("feedback"),
            },
            ["decision_id", "kind", *(["values"] if values["required"] else [])],
        )
        for kind, record in decider.feedback.records.items()
    ]
    return kinds[0] if len(kinds) == 1 else {"oneOf": kinds}


def _values(record: RequestValues) -> JsonSchema:
    """Return the schema of named values, from the type that checks them."""
    found: JsonSchema = msgspec.json.schema(record.struct)["$defs"]["RequestValues"]
    for schema in found["properties"].values():
        if schema.get("default", "") is None:
            del schema["default"]  # what may be null may be left out
    return _object(found["properties"], found["required"])


def _own(noun: str) -> JsonSchema:
    """Return the fields that a caller may set for an event of its own."""
    told = f"The id of the {noun}; the same one twice counts once. A new one if left out."
    return {"id": _or_null({**_ID, "description": told}), "at": _or_null(_TIME)}


def _or_null(schema: JsonSchema) -> JsonSchema:
    return {**schema, "type": [schema["type"], "null"]}


def _object(properties: JsonSchema, required: Iterable[str]) -> JsonSchema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _refusal() -> JsonSchema:
    text = {"type": "string"}
    return _object({"what": text, "hint": text}, ["what", "hint"])


def _json(schema: JsonSchema) -> JsonSchema:
    return {"application/json": {"schema": schema}}


def _refusals(*statuses: str) -> JsonSchema:
    content = _json({"$ref": "#/components/schemas/Refusal"})
    return {each: {"description": _REFUSED[each], "content": content} for each in statuses}


def _pages() -> JsonSchema:
    """Return the pages for people and probes."""
    some: JsonSchema = {"type": "object"}
    name = {"name": "loop", "in": "path", "required": True, "schema": {"type": "string"}}
    text = {"text/plain": {"schema": {"type": "string"}}}
    loops = _object({"loops": {"type": "array", "items": {"type": "string"}}}, ["loops"])
    pages = {
        "/v1/loops": ("listLoops", "The loops that are served.", _json(loops)),
        "/v1/loops/{loop}": ("describeLoop", "Features, feedback, default of a loop.", _json(some)),
        "/healthz": ("health", "Models, counters and troubles.", _json(some)),
        "/readyz": ("ready", "Whether the topics have been read.", _json(some)),
        "/metrics": ("metrics", "The same counters for Prometheus.", text),
    }
    described_pages: JsonSchema = {
        path: {
            "get": {
                "operationId": id,
                "summary": summary,
                "responses": {"200": {"description": summary, "content": content}}
                | _refusals("401", "403", "404", "503"),
            }
        }
        for path, (id, summary, content) in pages.items()
    }
    described_pages["/v1/loops/{loop}"]["get"]["parameters"] = [name]
    return described_pages
