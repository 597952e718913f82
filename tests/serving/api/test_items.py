"""Items over HTTP: what a worker answers, and what it does not let in."""

import json
import time
import urllib.request
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from tests.schemas.loops import ITEMS, minimal, with_items
from tests.serving.api.test_descriptions import validator
from tests.serving.api.test_http import DECISIONS, FEEDBACK, call, post
from tests.serving.client.test_items import serving
from tests.serving.decision.test_items import BROUGHT, FEATURES, item

from tidemill.serving.api.descriptions import described, openapi
from tidemill.serving.api.http import MAX_BODY_BYTES
from tidemill.serving.decision.decider import MAX_EVENT_BYTES
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import Worker

Document = dict[str, Any]
CLICK = {"decision_id": "d-1", "kind": "clicked", "values": {"seconds": 1.0, "page": "p"}}
MANY = {"type": "ranking", "items": {**ITEMS, "max": 1_000}}


@pytest.fixture
def worker(log: MemoryEventLog) -> Worker:
    """A worker whose loop orders up to a thousand items of a request."""
    return serving(with_items("ranking", decision=MANY), log)


def test_an_order_is_answered_with_the_probability_of_each_position(url: str) -> None:
    """A service in any language shows them in that order."""
    status, answer = post(url, DECISIONS, {"features": FEATURES, "items": BROUGHT})
    assert status == 200
    assert isinstance(answer, dict)
    assert (answer["action"], answer["propensity"]) == (["a", "b", "c"], None)
    body = {"batch": [{"features": FEATURES, "items": BROUGHT[at:]} for at in range(3)]}
    status, answer = post(url, DECISIONS, body)
    assert isinstance(answer, dict)
    assert [one["action"] for one in answer["batch"]] == [["a", "b", "c"], ["b", "c"], ["c"]]


def test_feedback_about_an_item_is_taken(url: str, log: MemoryEventLog) -> None:
    """Alone and in a batch, and about all that were shown."""
    assert post(url, FEEDBACK, {**CLICK, "item": "b"})[0] == 202
    assert post(url, FEEDBACK, {"batch": [{**CLICK, "item": "b"}, CLICK]})[0] == 202
    assert len(log.events) == 3


def brought(*items: object) -> Document:
    """Return a request with these items."""
    return {"features": FEATURES, "items": list(items)}


RIGHT: list[tuple[str, Document]] = [
    (DECISIONS, brought(*BROUGHT)),
    (DECISIONS, brought(*(item(str(number)) for number in range(1_000)))),
    (DECISIONS, brought(item("x" * 200), item("mit Leerzeichen: \u00e9\u4e2d\U0001f600"))),
    (DECISIONS, {**brought(*BROUGHT), "baseline": ["c"]}),
    (FEEDBACK, {**CLICK, "item": "b"}),
    (FEEDBACK, {**CLICK, "item": None}),
]
WRONG: list[tuple[str, Document, str]] = [
    (DECISIONS, {"features": FEATURES}, "items are missing"),
    (DECISIONS, {**brought(), "items": None}, "items are missing"),
    (DECISIONS, {**brought(), "items": {"a": 1}}, "not a list"),
    (DECISIONS, brought(), "the request brings 0 items"),
    (DECISIONS, brought(*(item(str(number)) for number in range(1_001))), "brings 1001 items"),
    (DECISIONS, brought(item("a"), 7), "items[1] is int, not object"),
    (DECISIONS, brought(item("a"), {"id": "b"}), "items[1]: field 'features' is missing"),
    (DECISIONS, brought(item("a"), {"features": item("b")["features"]}), "field 'id' is missing"),
    (DECISIONS, brought(item("a"), {**item("b"), "id": 3}), "items[1].id"),
    (DECISIONS, brought(item("a"), item("")), "items[1].id"),
    (DECISIONS, brought(item("a"), item("x" * 201)), "items[1].id"),
    (DECISIONS, brought(item("a"), item("b\nc")), "items[1] has the id 'b\\nc', which"),
    (DECISIONS, brought(item("a"), item("b\x1b[2J")), "items[1] has the id"),
    (DECISIONS, brought(item("a"), {**item("b"), "more": 1}), "items[1]: field 'more' is unknown"),
    (DECISIONS, brought(item("a", colour=1)), "items[0].features: feature 'colour' is unknown"),
    (DECISIONS, brought({"id": "a", "features": {"price": 1}}), "feature 'topic' is missing"),
    (DECISIONS, brought(item("a"), item("b", price="1")), "items[1].features.price"),
    (DECISIONS, brought(item("a"), item("b", price=None)), "items[1].features.price"),
    (DECISIONS, brought(item("a"), item("b", price={"a": {}})), "feature 'price' is dict"),
    (DECISIONS, brought(item("a"), item("b", age=2**63)), "items[1].features.age"),
    (FEEDBACK, {**CLICK, "item": ""}, "field 'item' is ''"),
    (FEEDBACK, {**CLICK, "item": 3}, "field 'item' is 3"),
    (FEEDBACK, {**CLICK, "item": ["b"]}, "field 'item' is ['b']"),
    (FEEDBACK, {**CLICK, "item": "x" * 201}, "field 'item' is 'xx"),
    (FEEDBACK, {**CLICK, "item": "b\nc"}, "field 'item' is 'b\\nc', which cannot be printed"),
]


@pytest.mark.parametrize(("path", "body", "what"), WRONG)
def test_what_is_wrong_is_said_with_the_number_of_the_item(
    url: str, log: MemoryEventLog, path: str, body: Document, what: str
) -> None:
    """Alone and in a batch, of which nothing counts then."""
    status, answer = post(url, path, body)
    assert isinstance(answer, dict)
    assert (status, set(answer)) == (400, {"what", "hint"})
    assert what in answer["what"]
    assert len(answer["what"]) < 1_000
    right = brought(*BROUGHT) if path == DECISIONS else CLICK
    status, answer = post(url, path, {"batch": [right, body]})
    assert isinstance(answer, dict)
    assert status == 400
    assert answer["what"].startswith("batch[1]: ")
    assert what in answer["what"]
    assert log.events == []


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400, '"1"', "[1]", "true"]
)
def test_what_is_no_finite_number_is_refused(url: str, log: MemoryEventLog, number: str) -> None:
    """Python's own JSON writes NaN, and other readers take other numbers for infinite."""
    body = json.dumps(brought(item("a"), item("b", price=0.123))).replace("0.123", number)
    status, answer = call(url, "POST", DECISIONS, body.encode())
    assert status == 400
    assert isinstance(answer, dict)
    assert answer["hint"]
    assert log.events == []


def test_a_key_that_stands_twice_in_an_item_is_refused(url: str, log: MemoryEventLog) -> None:
    """Readers disagree on which of two values counts."""
    body = json.dumps(brought(*BROUGHT))
    for twice in ('"price": 9.0, "price": 8.0', '"price": 9.0, "topic": "a"'):
        status, answer = call(url, "POST", DECISIONS, body.replace('"price": 9.0', twice).encode())
        assert (status, "stands twice" in str(answer)) == (400, True)
    body = body.replace('"id": "b"', '"id": "b", "id": "z"')
    status, answer = call(url, "POST", DECISIONS, body.encode())
    assert (status, "'id' stands twice" in str(answer)) == (400, True)
    assert log.events == []


@pytest.mark.parametrize(
    "body",
    [
        brought(*(item(f"{number:0200}") for number in range(999)), item(f"{998:0200}")),
        {
            **brought(*(item(f"{number:040}") for number in range(1_000))),
            "baseline": [f"{number:040}" for number in range(10_000, 20_000)],
        },
        {**brought(item("a")), "baseline": ["a"] * 100_000},
    ],
    ids=["the last of many long ids twice", "a long baseline", "one item very often"],
)
def test_a_refusal_costs_little(url: str, body: Document) -> None:
    """Comparing each with each would hold the worker for seconds, for one small request."""
    sent = json.dumps(body).encode()
    assert len(sent) < MAX_BODY_BYTES
    post(url, DECISIONS, brought(*BROUGHT))
    started = time.process_time()
    status, _ = call(url, "POST", DECISIONS, sent)
    assert status == 400
    assert time.process_time() - started < 1.0


def test_a_body_is_bounded_whatever_it_brings(url: str, log: MemoryEventLog) -> None:
    """The bytes are counted before they are read."""
    sent = json.dumps(brought(item("a", topic="x" * MAX_BODY_BYTES))).encode()
    status, answer = call(url, "POST", DECISIONS, sent)
    assert (status, log.events) == (413, [])
    assert isinstance(answer, dict)
    assert answer["hint"]


def test_an_event_near_the_limit_of_kafka_is_logged_or_refused_with_a_way_out(
    url: str, log: MemoryEventLog
) -> None:
    """Kafka would drop a record over its limit, long after the decision was answered."""
    room = MAX_EVENT_BYTES - 400 - 200 * 40
    items = [item(f"item-{number}", topic="x" * (room // 200)) for number in range(200)]
    status, answer = post(url, DECISIONS, brought(*items))
    assert status == 200, answer
    assert MAX_EVENT_BYTES * 0.98 < len(log.events[0].value or b"") <= MAX_EVENT_BYTES
    items[7] = item("item-7", topic="x" * 10_000)
    status, answer = post(url, DECISIONS, brought(*items))
    assert isinstance(answer, dict)
    assert status == 400
    assert f"over {MAX_EVENT_BYTES}" in answer["what"]
    assert "fewer items" in answer["hint"]
    assert "log: shown" in answer["hint"]
    assert len(log.events) == 1


class TestALoopWithoutItems:
    """Requests with items that went to another loop."""

    @pytest.fixture
    def worker(self, log: MemoryEventLog) -> Worker:
        """A worker of a loop without items."""
        return serving(minimal(), log)

    def test_it_takes_none(self, url: str, log: MemoryEventLog) -> None:
        """They would be ignored for months."""
        for items in (BROUGHT, [], 7):
            status, answer = post(url, DECISIONS, {"features": FEATURES, "items": items})
            assert (status, "bring no items" in str(answer)) == (400, True)
        status, answer = post(url, FEEDBACK, {**CLICK, "item": "b"})
        assert (status, "bring no items" in str(answer)) == (400, True)
        assert log.events == []


def document_of(url: str) -> Document:
    """Return the description that the worker serves."""
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=120) as answer:
        found: Document = json.load(answer)
    return found


def test_the_document_is_valid_and_judges_requests_as_the_worker_does(url: str) -> None:
    """A generated client sends what is legal, and refuses the rest before it is sent."""
    document = document_of(url)
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    names = {DECISIONS: "BannerDecision", FEEDBACK: "BannerFeedback"}
    for path, body in RIGHT:
        assert validator(document, names[path]).is_valid(body), body
        assert post(url, path, body)[0] in (200, 202), body
    for path, body, what in WRONG:
        is_null = path == DECISIONS and body.get("items", 0) is None
        assert not validator(document, names[path]).is_valid(body) or is_null, what
    _, answer = post(url, DECISIONS, brought(*BROUGHT))
    validator(document, "BannerResult").validate(answer)


@pytest.mark.parametrize(
    ("kind", "legal", "illegal"), [("choice", "article-17", ["a"]), ("ranking", ["a", "b"], "a")]
)
def test_the_action_is_an_id_or_an_order(
    log: MemoryEventLog, kind: str, legal: object, illegal: object
) -> None:
    """And the description of the loop says what its items have."""
    decider = serving(with_items(kind), log).decider("banner")
    schemas = openapi([decider])["components"]["schemas"]
    action = Draft202012Validator(schemas["BannerResult"]["properties"]["action"])
    assert (action.is_valid(legal), action.is_valid(illegal)) == (True, False)
    assert "items" in schemas["BannerDecision"]["required"]
    features = {"price": "float", "topic": "category", "age": "int"}
    assert described(decider)["items"] == {"features": features, "max": 50, "log": "all"}
