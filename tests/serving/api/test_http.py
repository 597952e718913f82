"""Over HTTP: what the API says it answers, and words instead of a crash for everything else."""

import http.client
import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serving.conftest import Serve
from tests.serving.models import FEATURES, records, text

from tidemill.schemas import topics
from tidemill.schemas.loop_topic import retired_version
from tidemill.schemas.models.signing import SigningKey
from tidemill.serving.api.http import MAX_BODY_BYTES
from tidemill.serving.decision.counters import SOURCES
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.decision.requests import RequestLimits
from tidemill.serving.worker import Worker

DECISIONS = "/v1/loops/banner/decisions"
FEEDBACK = "/v1/loops/banner/feedback"
Answer = tuple[int, object]


def call(url: str, method: str, path: str, body: bytes | None = None) -> Answer:
    """Send one request as it is; return status and the JSON, or text, of the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    if data and answer.headers["content-type"] == "application/json":
        return answer.status, json.loads(data)
    return answer.status, data.decode()


def post(url: str, path: str, value: object) -> Answer:
    """Send *value* as JSON."""
    return call(url, "POST", path, json.dumps(value).encode())


def test_a_decision_is_answered_with_all_its_fields(url: str) -> None:
    """The names are the contract with services in any language."""
    status, answer = post(url, DECISIONS, {"features": FEATURES, "entity": "u1", "id": "d-1"})
    assert status == 200
    assert answer == {
        "id": "d-1",
        "action": "hide",
        "score": None,
        "propensity": 1.0,
        "source": "default",
        "model_version": None,
        "policy_version": 1,
        "loop_version": 1,
    }


def test_a_model_decides_over_http(url: str, worker: Worker, key: SigningKey) -> None:
    """The swap needs no restart and loses no request."""
    for record in records(key, text().encode()):
        worker.follower.take_model(*record)
    worker.follower.settle()
    status, answer = post(url, DECISIONS, {"features": FEATURES})
    assert isinstance(answer, dict)
    assert (status, answer["source"], answer["model_version"]) == (200, "model", "lightgbm-1")


def test_a_batch_is_answered_in_order(url: str, log: MemoryEventLog) -> None:
    """Each is logged like a single one."""
    items = [{"features": FEATURES, "id": f"d-{place}"} for place in range(5)]
    status, answer = post(url, DECISIONS, {"batch": items})
    assert isinstance(answer, dict)
    assert status == 200
    assert [item["id"] for item in answer["batch"]] == [item["id"] for item in items]
    assert [event.key for event in log.events] == [f"d-{place}".encode() for place in range(5)]


def test_feedback_is_taken(url: str, log: MemoryEventLog) -> None:
    """202: it is on its way, not yet in the lake."""
    values = {"seconds": 1.5, "page": "home"}
    sent = {"decision_id": "d-1", "kind": "clicked", "values": values, "id": "f-1"}
    assert post(url, FEEDBACK, sent) == (202, {"id": "f-1"})
    assert (log.events[0].topic, log.events[0].key) == (topics.feedback("banner"), b"d-1")
    status, answer = post(url, FEEDBACK, {"batch": [sent, {**sent, "id": "f-2"}]})
    assert (status, answer) == (202, {"batch": [{"id": "f-1"}, {"id": "f-2"}]})


def test_feedback_without_room_is_unavailable(url: str, log: MemoryEventLog) -> None:
    """503 says: try again, here or elsewhere."""
    log._capacity = 0
    status, answer = post(url, FEEDBACK, {"decision_id": "d-1", "kind": "left"})
    assert status == 503
    assert isinstance(answer, dict)
    assert set(answer) == {"what", "hint"}
    assert post(url, DECISIONS, {"features": FEATURES})[0] == 200
    assert "tidemill_events_dropped_total 2.0" in str(call(url, "GET", "/metrics")[1])


@pytest.mark.parametrize(
    ("path", "body", "status", "what"),
    [
        (DECISIONS, b"{", 400, "the body is not JSON"),
        (DECISIONS, b"", 400, "the body is not JSON"),
        (DECISIONS, b'{"features": {"visits": 3}}', 400, "feature 'country' is missing"),
        (DECISIONS, b'{"features": {"nope": 3}}', 400, "feature 'nope' is unknown"),
        (DECISIONS, b'{"features": {"country": 3}}', 400, "feature 'country' is int, not str"),
        ("/v1/loops/nope/decisions", b"{}", 404, "this worker serves no loop 'nope'"),
        ("/v1/loops/nope/feedback", b"{}", 404, "this worker serves no loop 'nope'"),
        (FEEDBACK, b'{"decision_id": "d", "kind": "no"}', 404, "loop banner has no feedback 'no'"),
        (FEEDBACK, b'{"decision_id": 3, "kind": "left"}', 400, "field 'decision_id' is 3, no id"),
        (
            DECISIONS,
            json.dumps({"features": FEATURES, "at": "0001-01-01T00:00:00+02:00"}).encode(),
            400,
            "at 0001-01-01T00:00:00+02:00 is before the year 1000",
        ),
        (FEEDBACK, b'{"kind": "left"}', 400, "field 'decision_id' is missing"),
        ("/v1/loops/banner/else", b"{}", 404, "there is nothing at /v1/loops/banner/else"),
        ("/", b"", 404, "there is nothing at /"),
        (DECISIONS, b" " * (MAX_BODY_BYTES + 1), 413, "the body is larger than"),
        ("/healthz", b"{}", 405, "POST is not for /healthz"),
    ],
)
def test_a_wrong_request_is_refused_in_words(
    path: str, body: bytes, status: int, what: str, url: str, log: MemoryEventLog
) -> None:
    """`what` says what is wrong, `hint` what to do; nothing is logged."""
    found, answer = call(url, "POST", path, body)
    assert isinstance(answer, dict)
    assert found == status
    assert answer["what"].startswith(what)
    assert answer["hint"]
    assert log.events == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_a_wrong_method_is_refused(method: str, url: str) -> None:
    """A proxy that turns POST into GET should be found out quickly."""
    for path, right in ((DECISIONS, "POST"), ("/healthz", "GET, HEAD")):
        if method in right:
            continue
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
        connection.request(method, path, b"{}" if method == "PUT" else None)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["allow"]) == (405, right)
        connection.close()


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b'{"features": FEATURES, "features": FEATURES}', "the key 'features' stands twice"),
        (b'{"features": {"country": "x:", "country": "c01", REST}}', "the key 'country' stands"),
        (b'{"batch": [{"features": FEATURES, "id": "a", "id" : "b"}]}', "the key 'id' stands"),
        (b'{"batch": [], "batch": [{"features": FEATURES}]}', "the key 'batch' stands twice"),
    ],
)
def test_a_key_that_stands_twice_is_refused(
    body: bytes, what: str, url: str, log: MemoryEventLog
) -> None:
    """The first value counts for one reader and the last for another: a door for smugglers."""
    whole = json.dumps(FEATURES).encode()
    sent = body.replace(b"FEATURES", whole).replace(b"REST", whole.split(b",", 1)[1][:-1])
    status, answer = call(url, "POST", DECISIONS, sent)
    assert isinstance(answer, dict)
    assert (status, answer["what"].startswith(what)) == (400, True), answer
    assert log.events == []


def test_colons_and_quotes_in_texts_are_no_keys(url: str) -> None:
    """Times, addresses and whole JSON texts are values like others."""
    for value in ("a:b", '"a": "a"', "\\", '\\"', ":", '":'):
        sent = {"features": {**FEATURES, "country": value}, "entity": value, "id": value}
        assert post(url, DECISIONS, sent)[0] == 200
        assert post(url, DECISIONS, {"batch": [sent, sent]})[0] == 200


def test_a_packed_body_is_refused_as_such(url: str) -> None:
    """Whoever unpacks it must know its limits; no client of ours packs."""
    for encoding, status in (("gzip", 415), ("br", 415), ("identity", 200)):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
        body = json.dumps({"features": FEATURES}).encode()
        connection.request("POST", DECISIONS, body, {"Content-Encoding": encoding})
        assert connection.getresponse().status == status
        connection.close()


def test_a_long_list_is_refused(worker: Worker, serve: Serve, log: MemoryEventLog) -> None:
    """A body of 200,000 tags would keep all others waiting for a second."""
    limits = RequestLimits(list_items=3, batch=2)
    url = serve(Worker(replace(worker.config, requests=limits), event_log=log))
    assert post(url, DECISIONS, {"features": {**FEATURES, "tags": ["new"] * 3}})[0] == 200
    sent = {"features": {**FEATURES, "tags": ["new"] * 4}}
    status, answer = post(url, DECISIONS, sent)
    assert isinstance(answer, dict)
    assert (status, answer["what"]) == (400, "feature 'tags' has more than 3 items")
    assert post(url, DECISIONS, {"batch": [{"features": FEATURES}] * 3})[0] == 400
    assert len(log.events) == 1


def test_what_a_streams_worker_calls_poison_is_refused(url: str, log: MemoryEventLog) -> None:
    """A thousand decisions a year ahead were answered with 200, and stopped the loop for good."""
    ahead = (datetime.now(UTC) + timedelta(days=365)).isoformat()
    many = [{"features": FEATURES, "at": ahead}] * 1_000
    status, answer = post(url, DECISIONS, {"batch": many})
    assert isinstance(answer, dict)
    assert (status, answer["what"].startswith("batch[0]: at ")) == (400, True)
    assert "max_skew of 300 s" in answer["what"]
    feedback = {"decision_id": "d", "kind": "left", "at": ahead}
    assert post(url, FEEDBACK, feedback)[0] == 400
    assert post(url, DECISIONS, {"features": FEATURES, "at": "9999-12-31T23:59:59Z"})[0] == 400
    assert log.events == []


def test_a_body_past_the_limit_does_not_break_the_next_request(url: str) -> None:
    """The connection is closed after 413: the rest of the body is not a new request."""
    netloc = urlsplit(url).netloc
    connection = http.client.HTTPConnection(netloc, timeout=120)
    connection.request("POST", DECISIONS, b"x" * (MAX_BODY_BYTES * 3))
    answer = connection.getresponse()
    assert answer.status == 413
    assert answer.headers["connection"] == "close"
    connection.close()
    assert post(url, DECISIONS, {"features": FEATURES})[0] == 200


def test_health_says_what_an_operator_asks(url: str, worker: Worker) -> None:
    """One page: which model, how many events wait or are lost, and what is wrong."""
    post(url, DECISIONS, {"features": FEATURES})
    status, answer = call(url, "GET", "/healthz")
    assert isinstance(answer, dict)
    assert status == 200
    assert answer["events"] == {"waiting": 0, "delivered": 1, "dropped": 0, "failed": 0}
    assert answer["loops"]["banner"]["decisions"] == {**dict.fromkeys(SOURCES, 0), "default": 1}
    assert answer["worker"] == "w-1"


def test_a_worker_is_ready_once_the_topics_are_read(url: str, worker: Worker) -> None:
    """A load balancer must not send people to defaults when models are a second away."""
    assert call(url, "GET", "/readyz")[0] == 503
    worker.subscriber.ready.set()
    assert call(url, "GET", "/readyz") == (200, {"ready": True, "pid": os.getpid()})


def test_metrics_count_what_happened(url: str, worker: Worker) -> None:
    """The names are what dashboards and alert rules are written for."""
    worker.decider("banner").model = None
    for _ in range(3):
        post(url, DECISIONS, {"features": FEATURES})
    text = str(call(url, "GET", "/metrics")[1])
    assert 'tidemill_decisions_total{loop="banner",source="default"} 3.0' in text
    assert 'tidemill_decision_seconds_count{loop="banner"} 3.0' in text
    assert 'tidemill_decision_seconds_bucket{le="+Inf",loop="banner"} 3.0' in text
    assert "tidemill_events_delivered_total 3.0" in text
    assert 'tidemill_http_answers_total{status="200"} 3.0' in text


def test_a_loop_describes_itself(url: str) -> None:
    """A client learns here what to answer when no worker does."""
    status, answer = call(url, "GET", "/v1/loops/banner")
    assert isinstance(answer, dict)
    assert (status, answer["default"], answer["loop_version"]) == (200, "hide", 1)
    assert call(url, "GET", "/v1/loops") == (200, {"loops": ["banner"]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [*FEATURES, "features", "id", "at", "batch", "decision_id", "kind", "values", "x"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)
BODIES = st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode())
NEARLY = st.fixed_dictionaries(
    {
        "features": st.fixed_dictionaries(
            {name: st.just(value) | JSON for name, value in FEATURES.items()},
            optional={"age": JSON, "seen": JSON, "tags": JSON},
        )
    },
    optional={"entity": JSON, "id": JSON, "at": JSON},
).map(lambda value: json.dumps(value).encode())


@pytest.mark.slow
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=BODIES | NEARLY, path=st.sampled_from([DECISIONS, FEEDBACK]))
def test_no_body_makes_the_worker_fail(body: bytes, path: str, url: str) -> None:
    """A 500 is a bug of ours, whatever was sent; the answer is JSON in every case."""
    status, answer = call(url, "POST", path, body)
    assert status in (200, 202, 400, 404)
    assert isinstance(answer, dict)
    assert status < 300 or set(answer) == {"what", "hint"}


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(path=st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=40))
def test_no_path_makes_the_worker_fail(path: str, url: str) -> None:
    """Scanners try them all."""
    status, _ = call(url, "POST", "/v1/loops/" + path, b"{}")
    assert status in (400, 404, 405)


def test_a_retired_loop_decides_no_more_and_still_takes_feedback(
    worker: Worker, log: MemoryEventLog, url: str
) -> None:
    """What came of its last decisions would be lost; the caller is told why it gets no other."""
    asked = {"features": FEATURES, "entity": "u1"}
    assert post(url, DECISIONS, asked)[0] == 200
    loop = worker.decider("banner").loop
    worker.follower.install(retired_version(loop, "ann: the banner is gone"))
    before = len(log.events)
    for body in (asked, [asked]):
        status, answer = post(url, DECISIONS, body)
        assert status == 404
        assert "ann: the banner is gone" in str(answer)
        assert "as version 3" in str(answer)
    assert len(log.events) == before, "no decision is logged"
    values = {"seconds": 1.5, "page": "home"}
    given = {"decision_id": "d-1", "kind": "clicked", "values": values}
    assert post(url, FEEDBACK, given)[0] == 202
    worker.follower.install(loop.model_copy(update={"version": 3}))
    assert post(url, DECISIONS, asked)[0] == 200
