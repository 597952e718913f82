"""One suite for both clients: over HTTP and in process, the same calls mean the same."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from tests.serving.client.blocking import EventLoopThread
from tests.serving.client.conftest import HangingWorker, OpenClient
from tests.serving.conftest import NOWHERE, Serve
from tests.serving.models import FEATURES, SIGNATURE, banner, booster, records, text

from tidemill import AsyncClient, Client
from tidemill.errors import BrokerError, ConfigError, RequestError
from tidemill.schemas import topics
from tidemill.schemas.models.signing import SigningKey
from tidemill.serving.client.client import LoopClient
from tidemill.serving.client.embedded import EmbeddedTransport
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import NO_KAFKA, Worker

AT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def loop(client: Client) -> LoopClient:
    """The calls for the loop ``banner``."""
    return client.loop("banner")


def test_a_decision_has_all_it_needs_to_be_traced(loop: LoopClient, log: MemoryEventLog) -> None:
    """The id is what feedback names; the rest explains the action later."""
    result = loop.get_decision(FEATURES, entity="u1", id="d-1", at=AT)
    assert (result.id, result.action, result.source) == ("d-1", "hide", "default")
    assert (result.score, result.propensity, result.model_version) == (None, 1.0, None)
    assert (result.policy_version, result.loop_version) == (1, 1)
    assert log.events[0].key == b"d-1"


def test_a_model_decides_with_the_same_bits(
    loop: LoopClient, worker: Worker, key: SigningKey
) -> None:
    """A score that is rounded on its way could fall on the other side of a threshold."""
    for record in records(key, text().encode()):
        worker.follower.take_model(*record)
    worker.follower.settle()
    row = SIGNATURE.encode_row({**FEATURES, "age": 30.0})
    assert loop.get_decision(FEATURES).score == booster().predict([row], num_threads=1)[0]


def test_ids_are_made_where_none_is_given(loop: LoopClient) -> None:
    """Most services have none of their own."""
    assert len({loop.get_decision(FEATURES).id for _ in range(20)}) == 20


def test_a_baseline_is_the_default_of_its_decision(loop: LoopClient, log: MemoryEventLog) -> None:
    """Alone and in a batch, so that a service can hand over call by call."""
    assert loop.get_decision(FEATURES, baseline="show").action == "show"
    asked: list[dict[str, object]] = [{"features": FEATURES, "baseline": "show"}]
    asked.append({"features": FEATURES})
    assert [one.action for one in loop.get_decisions(asked)] == ["show", "hide"]
    with pytest.raises(RequestError, match="is no answer of this choice"):
        loop.get_decision(FEATURES, baseline="sell")
    assert len(log.events) == 3


def test_many_decisions_come_in_order(loop: LoopClient, log: MemoryEventLog) -> None:
    """One call for a page of products."""
    asked = [{"features": FEATURES, "id": f"d-{place}", "at": AT} for place in range(20)]
    assert [result.id for result in loop.get_decisions(asked)] == [item["id"] for item in asked]
    assert loop.get_decisions([]) == []
    assert len(log.events) == 20


def test_feedback_reaches_the_log(loop: LoopClient, log: MemoryEventLog) -> None:
    """Values are named as in the loop file."""
    made = loop.log_feedback("d-1", "clicked", seconds=1.5, page="home")
    given = loop.log_feedback("d-1", "left", id="f-2", at=AT)
    assert given == "f-2" != made
    assert [event.topic for event in log.events] == [topics.feedback("banner")] * 2


def test_numpy_values_are_sent_as_numbers(loop: LoopClient) -> None:
    """Services that compute features have them."""
    loop.get_decision({**FEATURES, "amount": np.float32(0.5), "visits": np.int64(3)})


def test_nan_means_null(loop: LoopClient) -> None:
    """Where null is allowed; elsewhere it is refused by name."""
    loop.get_decision({**FEATURES, "age": float("nan")})
    with pytest.raises(RequestError, match="feature 'amount' is null"):
        loop.get_decision({**FEATURES, "amount": float("nan")})


@pytest.mark.parametrize(
    ("features", "what"),
    [
        ({"country": "c01"}, "feature 'visits' is missing"),
        ({**FEATURES, "nope": 1}, "feature 'nope' is unknown"),
        ({**FEATURES, "visits": "3"}, "feature 'visits' is str, not int"),
        ({**FEATURES, "country": "\ud800"}, "country|cannot be sent"),
        ({**FEATURES, "country": object()}, "country|cannot be sent"),
    ],
)
def test_wrong_features_are_refused_in_words(
    loop: LoopClient, features: dict[str, object], what: str
) -> None:
    """The engineer of the service sees them in the first test run."""
    with pytest.raises(RequestError, match=what) as caught:
        loop.get_decision(features)
    assert caught.value.hint


def test_wrong_batches_are_refused_in_words(loop: LoopClient, log: MemoryEventLog) -> None:
    """By their place, and before anything is decided."""
    with pytest.raises(RequestError, match=r"batch\[1\]: feature 'visits' is missing"):
        loop.get_decisions([{"features": FEATURES}, {"features": {"country": "c01"}}])
    with pytest.raises(RequestError, match="item 1 has feature"):
        loop.get_decisions([{"features": FEATURES}, {"feature": {}}])
    with pytest.raises(RequestError):
        loop.get_decisions([{"features": FEATURES}] * 1_001)
    assert log.events == []


@pytest.mark.parametrize(
    ("kind", "values"), [("clicked", {"seconds": "x", "page": "p"}), ("clicked", {}), ("no", {})]
)
def test_wrong_feedback_is_refused_in_words(
    loop: LoopClient, kind: str, values: dict[str, object]
) -> None:
    """A typo in a kind must not vanish in a log."""
    with pytest.raises(RequestError) as caught:
        loop.log_feedback("d-1", kind, **values)  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.hint


def test_an_unknown_loop_is_refused_in_words(client: Client) -> None:
    """It is a typo or not published; the hint says both."""
    with pytest.raises(RequestError, match="serves no loop 'nope'"):
        client.loop("nope").get_decision(FEATURES)


def test_feedback_without_room_is_told(loop: LoopClient, log: MemoryEventLog) -> None:
    """The service may send it again; silence would lose it."""
    log._capacity = 0
    with pytest.raises(BrokerError, match="was not logged"):
        loop.log_feedback("d-1", "left")
    assert loop.get_decision(FEATURES).action == "hide"


def test_threads_share_a_client(loop: LoopClient, log: MemoryEventLog) -> None:
    """A web framework calls from all its threads."""
    with ThreadPoolExecutor(8) as pool:
        ids = list(
            pool.map(lambda place: loop.get_decision(FEATURES, id=str(place)).id, range(400))
        )
    assert ids == [str(place) for place in range(400)]
    assert len(log.events) == 400


def test_workers_take_turns(open_client: OpenClient, worker: Worker, serve: Serve) -> None:
    """Two processes on two ports share the load of one client."""
    logs = [MemoryEventLog(), MemoryEventLog()]
    urls = [serve(Worker(worker.config, event_log=log)) for log in logs]
    with open_client(urls, budget_ms=10_000) as client:
        loop = client.loop("banner")
        for _ in range(10):
            loop.get_decision(FEATURES)
    assert [len(log.events) for log in logs] == [5, 5]


def test_a_dead_worker_is_skipped(
    open_client: OpenClient, url: str, dead_url: str, log: MemoryEventLog
) -> None:
    """A rolling restart must not be felt."""
    with open_client([dead_url, url, dead_url], budget_ms=10_000) as client:
        loop = client.loop("banner")
        assert [loop.get_decision(FEATURES).source for _ in range(10)] == ["default"] * 10
        assert client.unanswered == 0
    assert len(log.events) == 10


def knows_default(client: Client, worker_url: str) -> Client:
    """Return *client* with the default of ``banner``, as if a worker had answered before."""
    with Client(worker_url, budget_ms=10_000) as healthy:
        healthy.loop("banner").get_decision(FEATURES)
        client._transport.rules.defaults.update(healthy._transport.rules.defaults)  # type: ignore[attr-defined]
    return client


@pytest.mark.slow
def test_a_worker_that_hangs_leaves_time_for_the_other(
    open_client: OpenClient, hanging: HangingWorker, url: str
) -> None:
    """Waiting the whole budget for the first would make the second useless."""
    with open_client([hanging.url, url], budget_ms=2_000) as client:
        assert client.loop("banner").get_decision(FEATURES).source == "default"
        assert client.unanswered == 0


def test_when_no_worker_answers_the_default_does(
    open_client: OpenClient, hanging: HangingWorker, url: str
) -> None:
    """The page is shown in time, whatever became of the workers."""
    client = knows_default(open_client([hanging.url], budget_ms=150), url)
    started = time.monotonic()
    result = client.loop("banner").get_decision(FEATURES)
    assert time.monotonic() - started < 30.0
    assert (result.action, result.source) == ("hide", "fallback")
    assert client.unanswered == 1
    with pytest.raises(BrokerError, match="no worker of"):
        client.loop("banner").log_feedback("d-1", "left")


def test_when_no_worker_answers_the_baseline_does(
    open_client: OpenClient, hanging: HangingWorker, url: str
) -> None:
    """The service knew what to do before there was a worker; it knows it without one."""
    client = knows_default(open_client([hanging.url], budget_ms=150), url)
    result = client.loop("banner").get_decision(FEATURES, baseline="show")
    assert (result.action, result.source, result.propensity) == ("show", "fallback", 1.0)
    with pytest.raises(RequestError, match="send one like the default"):
        client.loop("banner").get_decision(FEATURES, baseline=3.0)


def test_a_default_has_no_id_that_a_worker_may_have_logged(
    open_client: OpenClient, hanging: HangingWorker, dead_url: str, url: str
) -> None:
    """Feedback about it would label what that worker decided, and nobody did."""
    client = knows_default(open_client(hanging.url, budget_ms=300), url)
    for given in (None, "d-1"):
        result = client.loop("banner").get_decision(FEATURES, id=given)
        assert result.source == "fallback"
        assert result.id.encode() not in hanging.received
    assert b'"id":"d-1"' in hanging.received
    (first, second) = client.loop("banner").get_decisions([{"features": FEATURES}] * 2)
    assert first.id != second.id
    nobody = knows_default(open_client(dead_url, budget_ms=300), url)
    assert nobody.loop("banner").get_decision(FEATURES, id="d-2").id == "d-2"


@pytest.mark.slow
def test_no_two_workers_get_one_id(
    open_client: OpenClient, hanging: HangingWorker, url: str, log: MemoryEventLog
) -> None:
    """Each might decide something else about it; which of the two counts, only offsets say."""
    client = knows_default(open_client([hanging.url, url], budget_ms=2_000), url)
    log.events.clear()
    loop = client.loop("banner")
    results = [loop.get_decision(FEATURES)]
    while not hanging.received:
        results.append(loop.get_decision(FEATURES))
    assert {result.source for result in results} == {"default"}
    keys = [event.key for event in log.events]
    assert keys == [result.id.encode() for result in results]
    assert all(key is not None and key not in hanging.received for key in keys)


@pytest.mark.slow
def test_an_id_of_the_caller_is_asked_for_once(
    open_client: OpenClient, hanging: HangingWorker, url: str, log: MemoryEventLog
) -> None:
    """Its feedback may come from elsewhere under that id, so no second worker may use it."""
    client = knows_default(open_client([hanging.url, url], budget_ms=2_000), url)
    log.events.clear()
    results = {name: client.loop("banner").get_decision(FEATURES, id=name) for name in ("a", "b")}
    (lost,) = [name for name, result in results.items() if result.source == "fallback"]
    assert results[lost].id != lost
    (kept,) = [event.key for event in log.events]
    assert kept == ("b" if lost == "a" else "a").encode()


def test_a_default_is_known_while_another_thread_reads_a_newer_one(
    open_client: OpenClient, url: str, worker: Worker
) -> None:
    """A version is published while the site is busy; no call may fail because of it."""
    with open_client(url, budget_ms=30_000) as client, ThreadPoolExecutor(8) as pool:
        loop = client.loop("banner")
        stop = threading.Event()

        def call() -> set[str]:
            sources = set()
            while not stop.is_set():
                sources.add(loop.get_decision(FEATURES).source)
            return sources

        calls = [pool.submit(call) for _ in range(8)]
        try:
            for version in range(2, 42):
                worker.follower.install(banner(version=version))
                loop.get_decision(FEATURES)
        finally:
            stop.set()
        assert all(found.result() == {"default"} for found in calls)
        loop.get_decision(FEATURES)
        assert client._transport.rules.defaults["banner"].loop_version == 41  # type: ignore[attr-defined]


def test_a_worker_that_does_not_know_the_loop_yet_is_passed_over(
    open_client: OpenClient, worker: Worker, serve: Serve, log: MemoryEventLog
) -> None:
    """It has just started, or has not read what was just published; another one knows the loop."""
    without = Worker(replace(worker.config, definitions=()), event_log=MemoryEventLog())
    not_ready = Worker(replace(worker.config, definitions=()), event_log=MemoryEventLog())
    not_ready._is_started = True  # its topics are being read
    urls = [serve(without), serve(not_ready), serve(worker)]
    with open_client(urls, budget_ms=10_000) as client:
        results = [client.loop("banner").get_decision(FEATURES) for _ in range(12)]
        assert {result.source for result in results} == {"default"}
        assert client.unanswered == 0
        client.loop("banner").log_feedback("d-1", "left")
        with pytest.raises(RequestError, match="serves no loop 'nope'"):
            open_client([urls[0], urls[2]]).loop("nope").get_decision(FEATURES)
    assert len(log.events) == 13
    alone = knows_default(open_client(urls[1], budget_ms=1_000), urls[2])
    assert alone.loop("banner").get_decision(FEATURES).source == "fallback"
    with pytest.raises(BrokerError, match="has not read the loop 'banner' yet"):
        open_client(urls[1], budget_ms=1_000).loop("banner").get_decision(FEATURES)
    with pytest.raises(BrokerError, match="has not read the loop 'banner' yet"):
        Client.through(EmbeddedTransport(not_ready)).loop("banner").get_decision(FEATURES)


def test_an_answer_that_is_no_workers_is_no_crash(open_client: OpenClient, url: str) -> None:
    """A proxy's page with status 200 is nothing to show to a customer."""
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"
    with closing(socket.create_server(("127.0.0.1", 0))) as opened:
        threading.Thread(target=_answer_always, args=(opened, page), daemon=True).start()
        address = f"http://127.0.0.1:{opened.getsockname()[1]}"
        with knows_default(open_client(address, budget_ms=5_000), url) as client:
            assert client.loop("banner").get_decision(FEATURES).source == "fallback"
        with pytest.raises(BrokerError, match="not that of a worker"):
            open_client(address).loop("banner").get_decision(FEATURES)


def test_when_no_worker_ever_answered_that_is_said(open_client: OpenClient, dead_url: str) -> None:
    """A wrong address is found at the first call, not in a month of defaults."""
    with pytest.raises(BrokerError, match="no worker of") as caught:
        open_client(dead_url, budget_ms=300).loop("banner").get_decision(FEATURES)
    assert "tidemill serve" in caught.value.hint


def test_a_connection_that_was_closed_meanwhile_is_made_anew(url: str, log: MemoryEventLog) -> None:
    """Servers and proxies close what is idle; the first call after the night must work."""
    with Client(url, budget_ms=10_000) as client:
        loop = client.loop("banner")
        loop.get_decision(FEATURES)
        (free,) = client._transport._free.values()  # type: ignore[attr-defined]
        for connection in free:
            connection._socket.shutdown(socket.SHUT_RDWR)
        loop.get_decision(FEATURES)
    assert len(log.events) == 2


@pytest.mark.slow
@pytest.mark.parametrize("gives_id", [False, True])
def test_an_async_connection_that_was_closed_meanwhile_is_made_anew(
    url: str, thread: EventLoopThread, log: MemoryEventLog, gives_id: bool
) -> None:
    """By the rule of the blocking client: what was sent may be logged, so its id is used once."""
    client = AsyncClient(url, budget_ms=10_000)
    loop = client.loop("banner")

    async def after_the_night() -> str:
        await loop.get_decision(FEATURES)
        for transport in _kept_open(client):
            transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        return (await loop.get_decision(FEATURES, id="d-1" if gives_id else None)).source

    source = thread.wait(after_the_night())
    thread.wait(client.close())
    assert (source, len(log.events)) in [("default", 2), ("fallback", 1)]
    assert source == "default" or gives_id, "without an id of the caller it is asked for again"


def _kept_open(client: AsyncClient) -> list[Any]:
    """Return the connections that the session of *client* keeps."""
    pooled = client._transport._session.connector._conns.values()  # type: ignore[attr-defined]
    return [protocol.transport for listed in pooled for protocol, _ in listed]


ANSWER = (
    b'{"id":"d","action":"hide","score":null,"propensity":1.0,"source":"default",'
    b'"model_version":null,"policy_version":1,"loop_version":1,"default":"hide"}'
)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(ANSWER), ANSWER),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
        % (len(ANSWER), ANSWER),
    ],
    ids=["chunked", "closing"],
)
def test_answers_through_a_proxy_are_understood(open_client: OpenClient, answer: bytes) -> None:
    """Proxies chunk answers and close connections as they please."""
    with closing(socket.create_server(("127.0.0.1", 0))) as opened:
        thread = threading.Thread(target=_answer_always, args=(opened, answer), daemon=True)
        thread.start()
        with open_client(f"http://127.0.0.1:{opened.getsockname()[1]}", budget_ms=5_000) as client:
            assert client.loop("banner").get_decision(FEATURES).id == "d"


def _answer_always(opened: socket.socket, answer: bytes) -> None:
    """Answer each request with *answer*, one on a connection if it says so."""
    while True:
        try:
            connection, _ = opened.accept()
        except OSError:
            return
        with connection:
            while connection.recv(65_536):
                connection.sendall(answer)
                if b"close" in answer:
                    break


@pytest.mark.parametrize("url", ["localhost:8700", "ftp://x", "http://", "http://x:99999999", ""])
def test_a_wrong_address_is_refused_at_once(open_client: OpenClient, url: str) -> None:
    """Not at the first decision, in the night."""
    with pytest.raises(ConfigError):
        open_client(url)


def test_a_client_of_nobody_is_refused(open_client: OpenClient) -> None:
    """An empty setting is a mistake."""
    with pytest.raises(ConfigError):
        open_client([])


@pytest.mark.slow
def test_an_embedded_worker_without_kafka_needs_a_definition() -> None:
    """With one it decides at once; without, it says what is missing."""
    with pytest.raises(BrokerError, match="could not be read"):
        Client.embedded(NOWHERE, ready_s=0.1)


def test_without_kafka_a_unit_test_decides_quietly_and_ends_at_once(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A client of Kafka would log each attempt to connect, and wait for its last events."""
    client = Client.embedded(None, definitions=[banner()])
    result = client.loop("banner").get_decision(FEATURES)
    client.loop("banner").log_feedback(result.id, "left")
    threads = {thread.name for thread in threading.enumerate()}
    client.close()
    assert (result.action, result.source) == ("hide", "default")
    assert not {name for name in threads if "kafka" in name or "subscriber" in name}
    assert capfd.readouterr().out == ""
    assert [one.getMessage() for one in caplog.records] == [NO_KAFKA]


def test_a_worker_without_kafka_needs_a_loop() -> None:
    """It would answer nothing, for ever."""
    with pytest.raises(ConfigError, match="without Kafka"):
        Client.embedded(None)
