"""The OpenAPI document of a worker says what the worker takes, and no more."""

import json
import urllib.request
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from tests.serving.api.test_http import DECISIONS, FEEDBACK, post
from tests.serving.conftest import NOWHERE
from tests.serving.models import FEATURES, banner

from tidemill.serving.api.descriptions import openapi
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import ServingWorkerConfig, Worker

Document = dict[str, Any]


def asked(url: str) -> Document:
    """Return the document of the worker at *url*."""
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=120) as answer:
        found: Document = json.load(answer)
    return found


def validator(document: Document, name: str) -> Draft202012Validator:
    """Return the check of the schema *name* of *document*."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return Draft202012Validator(schema)


def test_it_is_valid_openapi(url: str) -> None:
    """Generators of clients read it."""
    document = asked(url)
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    assert document["openapi"] == "3.1.0"
    assert {DECISIONS, FEEDBACK} <= document["paths"].keys()


FEEDBACK_SENT = {"decision_id": "d-1", "kind": "left"}
REQUESTS: list[tuple[str, Document]] = [
    (DECISIONS, {"features": FEATURES}),
    (DECISIONS, {"features": FEATURES, "entity": None, "id": "d", "at": "2026-11-01T00:00:00Z"}),
    *((DECISIONS, {"features": {**FEATURES, **each}}) for each in (
        {"visits": 2**63},
        {"visits": "3"},
        {"visits": True},
        {"country": None},
        {"country": 3},
        {"age": None},
        {"member": 1},
        {"tags": ["new"] * 1_001},
        {"tags": [None]},
        {"unknown": 1},
    )),
    (DECISIONS, {"features": {}}),
    (DECISIONS, {"features": FEATURES, "id": ""}),
    (DECISIONS, {"features": FEATURES, "id": "x" * 201}),
    (DECISIONS, {"features": FEATURES, "more": 1}),
    (DECISIONS, {}),
    (FEEDBACK, FEEDBACK_SENT),
    (FEEDBACK, {**FEEDBACK_SENT, "kind": "nope"}),
    (FEEDBACK, {**FEEDBACK_SENT, "decision_id": ""}),
    (FEEDBACK, {**FEEDBACK_SENT, "values": {"x": 1}}),
    (FEEDBACK, {"kind": "left"}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_the_document_and_the_worker_judge_a_request_alike(
    url: str, path: str, body: Document
) -> None:
    """Otherwise a generated client refuses what is legal, or sends what is refused."""
    document = asked(url)
    name = "BannerDecision" if path == DECISIONS else "BannerFeedback"
    status, _ = post(url, path, body)
    assert validator(document, name).is_valid(body) == (status in (200, 202)), status


def test_answers_are_as_the_document_says(url: str) -> None:
    """Also the refusals."""
    document = asked(url)
    _, answer = post(url, DECISIONS, {"features": FEATURES})
    validator(document, "BannerResult").validate(answer)
    _, answer = post(url, FEEDBACK, FEEDBACK_SENT)
    validator(document, "FeedbackTaken").validate(answer)
    _, answer = post(url, DECISIONS, {})
    validator(document, "Refusal").validate(answer)


@pytest.mark.parametrize(
    ("changes", "legal", "illegal"),
    [
        ({"decision": {"type": "bool", "default": False}}, True, "show"),
        ({"decision": {"type": "choice", "actions": ["a", "b"], "default": "a"}}, "b", "c"),
        (
            {"decision": {"type": "ranking", "actions": ["a", "b"], "default": ["a"]}},
            ["b", "a"],
            "a",
        ),
        ({"decision": {"type": "float", "default": 0.5}}, 0.25, "a"),
    ],
)
def test_the_action_has_the_type_of_the_decision(
    changes: Document, legal: object, illegal: object
) -> None:
    """With a union, every caller would have to tell the cases apart."""
    kinds = {"bool": "threshold", "float": "value"}
    policy = {"kind": kinds.get(changes["decision"]["type"], "greedy")}
    loop = banner(**changes, policy=policy)
    worker = Worker(
        ServingWorkerConfig(kafka=NOWHERE, name="w-1", definitions=(loop,)),
        event_log=MemoryEventLog(),
    )
    document = openapi(worker.follower.deciders.values())
    worker.close()
    action = document["components"]["schemas"]["BannerResult"]["properties"]["action"]
    assert Draft202012Validator(action).is_valid(legal)
    assert not Draft202012Validator(action).is_valid(illegal)
