"""One client may take so much of a server: time, bytes, connections; others do not notice."""

import json
import re
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.serving.api.test_callers import certificate
from tests.serving.api.test_http import DECISIONS, FEEDBACK, call, post
from tests.serving.conftest import Serve
from tests.serving.models import FEATURES

from tidemill.access import TlsConfig
from tidemill.errors import ConfigError
from tidemill.http_server.http_limits import HttpLimits
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import Worker

BODY = json.dumps({"features": FEATURES}).encode()
HEAD = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
SHORT = HttpLimits(
    connections=20,
    header_bytes=2_000,
    body_bytes=100_000,
    held_bytes=300_000,
    handshake_s=0.4,
    header_s=0.4,
    body_s=0.4,
    idle_s=1,
    write_s=0.4,
)
EVER = 60.0


@pytest.fixture
def short(worker: Worker, serve: Serve) -> str:
    """The address of a server with small limits."""
    return serve(worker, limits=SHORT)


@pytest.fixture
def connect() -> Iterator[Callable[[str], socket.socket]]:
    """Open connections, which are closed at the end."""
    with ExitStack() as opened:

        def connect(url: str) -> socket.socket:
            parts = urlsplit(url)
            made = socket.create_connection((parts.hostname, parts.port), timeout=EVER)
            return opened.enter_context(made)

        yield connect


def rest(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    found = b""
    try:
        while data := connection.recv(65_536):
            found += data
    except ConnectionError:
        pass
    return found


def counted(url: str, name: str) -> float:
    """Return a number of the metrics page."""
    _, page = call(url, "GET", "/metrics")
    found = re.search(rf"^{re.escape(name)} (.*)$", str(page), re.MULTILINE)
    assert found, f"{name} is no metric"
    return float(found[1])


def refused(url: str, reason: str) -> float:
    """Return how often the server has refused for *reason*."""
    return counted(url, f'tidemill_http_refused_total{{reason="{reason}"}}')


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"POST / HT", 408, "header_s"),
        (b"POST / HTTP/1.1\r\nx: " + b"y" * 1_000, 408, "header_s"),
        (HEAD % (DECISIONS.encode(), 100) + b"{", 408, "body_s"),
        (b"POST / HTTP/1.1\r\nx: " + b"y" * 100_000, 431, "header_bytes"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 2_000 + b"\r\n\r\n", 431, "header_bytes"),
        (b"GET /" + b"y" * 3_000 + b" HTTP/1.1\r\n\r\n", 431, "header_bytes"),
        (HEAD % (DECISIONS.encode(), 10**9) + b"x" * 200_000, 413, "body_bytes"),
        (CHUNKED + b"1\r\nx\r\n0\r\nx: " + b"y" * 200_000, 413, "body_bytes"),
        (b"what is this?\r\n\r\n", 400, "malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "malformed"),
    ],
)
def test_half_a_request_is_refused_in_words(
    sent: bytes,
    status: int,
    reason: str,
    short: str,
    connect: Callable[[str], socket.socket],
    log: MemoryEventLog,
) -> None:
    """A client that stops, or never stops, gives its place to others and learns why."""
    connection = connect(short)
    for first in range(0, len(sent), 50_000):
        connection.sendall(sent[first : first + 50_000])
    head, _, body = rest(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert set(json.loads(body)) == {"what", "hint"}
    assert refused(short, reason) == 1
    assert counted(short, "tidemill_http_held_bytes") == 0
    assert log.events == []


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"\r\n"])
@pytest.mark.parametrize("is_used", [False, True])
def test_a_connection_without_a_request_is_closed(
    sent: bytes, is_used: bool, short: str, connect: Callable[[str], socket.socket]
) -> None:
    """A thousand of them that stay for ever are a server that nobody can reach."""
    connection = connect(short)
    if is_used:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 503 ")
    connection.sendall(sent)
    assert rest(connection) == b""


def test_a_client_that_does_not_read_is_cut_off(
    short: str,
) -> None:
    """Its answers would stay in memory for as long as it likes."""
    parts = urlsplit(short)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.connect((parts.hostname, parts.port))
    many = json.dumps({"batch": [{"features": FEATURES}] * 1_000}).encode()
    connection.sendall(HEAD % (DECISIONS.encode(), len(many)) + many)
    deadline = time.monotonic() + EVER
    while refused(short, "write_s") == 0:
        assert time.monotonic() < deadline
    connection.close()


@pytest.mark.parametrize(
    ("limits", "refused_after"),
    [({"body_bytes": 4_000}, 1), ({"held_bytes": 20_000}, 3)],
    ids=["of one client", "of all together"],
)
def test_requests_that_wait_behind_others_are_limited(
    limits: dict[str, int],
    refused_after: int,
    worker: Worker,
    serve: Serve,
    connect: Callable[[str], socket.socket],
) -> None:
    """A client that sends on without waiting for answers fills the memory otherwise."""
    url = serve(worker, limits=replace(SHORT, **limits), stop_s=0.0)
    worker.log = _Silent()
    more = HEAD % (DECISIONS.encode(), len(BODY)) + BODY
    more *= 8_000 // len(more)
    for number in range(1, 4):
        busy = wait_for_kafka(worker.log, connect(url))
        busy.sendall(more)  # at once, so that it comes at once
        if number >= refused_after:
            assert rest(busy) == b""
        while counted(url, "tidemill_http_held_bytes") != len(more) * min(
            number, refused_after - 1
        ):
            pass  # the server has not read it yet
        assert refused(url, "held_bytes") == max(0, number - refused_after + 1)


def wait_for_kafka(log: "_Silent", connection: socket.socket) -> socket.socket:
    """Send feedback through *connection* that is never answered, and return it."""
    log.asked.clear()
    feedback = json.dumps({"decision_id": "d", "kind": "left"}).encode()
    connection.sendall(HEAD % (FEEDBACK.encode(), len(feedback)) + feedback)
    assert log.asked.wait(EVER)
    return connection


def test_requests_that_were_answered_hold_nothing(
    url: str, connect: Callable[[str], socket.socket]
) -> None:
    """Connections that stay open after them would use up what others may send, for a minute."""
    connection = connect(url)
    connection.sendall((HEAD % (DECISIONS.encode(), len(BODY)) + BODY) * 5)
    found = b""
    while found.count(b"HTTP/1.1 200 ") < 5 or not found.endswith(b"}"):
        found += connection.recv(65_536)
    assert counted(url, "tidemill_http_connections") == 2
    assert counted(url, "tidemill_http_held_bytes") == 0


def test_a_newcomer_takes_the_place_of_who_waits_longest(
    short: str, connect: Callable[[str], socket.socket]
) -> None:
    """Whoever holds connections open without asking must not keep out those who ask."""
    idle = [connect(short) for _ in range(SHORT.connections)]
    for _ in range(3):
        assert post(short, DECISIONS, {"features": FEATURES})[0] == 200
    assert rest(idle[0]) == b""
    assert counted(short, "tidemill_http_connections") <= SHORT.connections
    assert refused(short, "connections") >= 1


def test_a_connection_too_many_is_told_so(
    worker: Worker, serve: Serve, connect: Callable[[str], socket.socket]
) -> None:
    """All places are taken by requests under way: 503 says to try elsewhere."""
    url = serve(worker, limits=HttpLimits(connections=1), stop_s=0.0)
    worker.log = _Silent()
    wait_for_kafka(worker.log, connect(url))
    assert rest(connect(url)).startswith(b"HTTP/1.1 503 ")


class _Silent(MemoryEventLog):
    """A log whose broker never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def deliver(self, events: object, done: object) -> None:
        """Answer nothing."""
        self.asked.set()


def test_unfinished_bodies_share_a_limit(
    short: str, connect: Callable[[str], socket.socket]
) -> None:
    """Three hundred half bodies of a megabyte would be the memory of a small machine."""
    half = [connect(short) for _ in range(6)]
    for connection in half:
        connection.sendall(HEAD % (DECISIONS.encode(), 99_999) + b"x" * 90_000)
    answers = [rest(connection)[:13] for connection in half]
    assert answers.count(b"HTTP/1.1 503 ") >= 3
    assert answers.count(b"HTTP/1.1 408 ") <= 3
    assert refused(short, "held_bytes") >= 3
    assert post(short, DECISIONS, {"features": FEATURES})[0] == 200


def test_who_closes_its_side_after_a_request_is_answered(
    url: str, connect: Callable[[str], socket.socket], log: MemoryEventLog
) -> None:
    """Its decision is logged, so it must get it."""
    connection = connect(url)
    connection.sendall(HEAD % (DECISIONS.encode(), len(BODY)) + BODY)
    connection.shutdown(socket.SHUT_WR)
    answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert len(log.events) == 1


def test_who_closes_its_side_within_a_request_decides_nothing(
    url: str, connect: Callable[[str], socket.socket], log: MemoryEventLog
) -> None:
    """What has arrived may be JSON by chance."""
    connection = connect(url)
    connection.sendall(HEAD % (DECISIONS.encode(), len(BODY) + 1) + BODY)
    connection.shutdown(socket.SHUT_WR)
    assert rest(connection) == b""
    assert post(url, DECISIONS, {"features": FEATURES})[0] == 200
    assert len(log.events) == 1


def test_requests_that_come_together_are_answered_in_order(
    url: str, connect: Callable[[str], socket.socket], log: MemoryEventLog
) -> None:
    """Pipelining is old HTTP, and some proxies still do it."""
    connection = connect(url)
    connection.sendall((HEAD % (DECISIONS.encode(), len(BODY)) + BODY) * 5)
    connection.shutdown(socket.SHUT_WR)
    assert rest(connection).count(b"HTTP/1.1 200 ") == 5
    assert len(log.events) == 5


@pytest.mark.parametrize("name", list(HttpLimits.__slots__))
def test_each_limit_is_a_setting(name: str) -> None:
    """An operator must be able to change it without a new release."""
    variable = f"TIDEMILL_HTTP_{name.upper()}"
    assert getattr(HttpLimits.from_env({variable: "7"}), name) == 7
    assert HttpLimits.from_env({}) == HttpLimits()
    for wrong in ("0", "-1", "x", "nan"):
        with pytest.raises(ConfigError, match=rf"{variable}|{name}"):
            HttpLimits.from_env({variable: wrong})


@pytest.fixture
def secure(worker: Worker, serve: Serve, tmp_path: Path) -> tuple[str, ssl.SSLContext]:
    """The address of a server with small limits and TLS, and what trusts it."""
    authority, _ = certificate(tmp_path, "ca")
    cert, key = certificate(tmp_path, "server", "ca")
    url = serve(worker, limits=SHORT, tls=TlsConfig(cert=cert, key=key))
    return url, ssl.create_default_context(cafile=str(authority))


def page(url: str, trusting: ssl.SSLContext, path: str) -> str:
    """Return a page that is read over TLS."""
    with urllib.request.urlopen(f"{url}{path}", context=trusting, timeout=EVER) as answer:
        return str(answer.read().decode())


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # the beginning of a handshake


@pytest.mark.parametrize("sent", [b"", HELLO, b"GET / HTTP/1.1\r\n\r\n"])
def test_a_client_that_does_not_finish_its_handshake_is_closed(
    sent: bytes,
    secure: tuple[str, ssl.SSLContext],
    connect: Callable[[str], socket.socket],
) -> None:
    """It holds memory and a place, and has said nothing yet that could be answered."""
    url, trusting = secure
    connection = connect(url)
    connection.sendall(sent)
    while b"\x15" not in (end := rest(connection)[:1]) and end:
        pass  # an alert of TLS may come first
    shown = page(url, trusting, "/metrics")
    late = 0.0 if sent.startswith(b"GET") else 1.0  # what is no handshake is closed at once
    assert f'tidemill_http_refused_total{{reason="handshake_s"}} {late}' in shown
    assert "tidemill_http_connections 1.0" in shown


def test_clients_in_a_handshake_count_and_make_room(
    worker: Worker,
    serve: Serve,
    tmp_path: Path,
    connect: Callable[[str], socket.socket],
) -> None:
    """Thousands of them, each within its time, would keep all others out."""
    authority, _ = certificate(tmp_path, "ca")
    cert, key = certificate(tmp_path, "server", "ca")
    limits = replace(SHORT, handshake_s=10 * EVER)
    url = serve(worker, limits=limits, tls=TlsConfig(cert=cert, key=key))
    trusting = ssl.create_default_context(cafile=str(authority))
    held = [connect(url) for _ in range(3 * SHORT.connections)]
    shown = page(url, trusting, "/metrics")
    over = 2 * SHORT.connections + 1
    assert f'tidemill_http_refused_total{{reason="connections"}} {over:.1f}' in shown
    assert f"tidemill_http_connections {SHORT.connections:.1f}" in shown
    assert rest(held[0]) == b"", "the oldest made room"


def test_a_large_body_and_many_requests_come_over_tls(
    secure: tuple[str, ssl.SSLContext],
) -> None:
    """Bytes may come together with the end of the handshake; none may be lost."""
    url, trusting = secure
    body = json.dumps({"batch": [{"features": FEATURES}] * 500}).encode()
    for _ in range(20):
        request = urllib.request.Request(f"{url}{DECISIONS}", body, method="POST")
        with urllib.request.urlopen(request, context=trusting, timeout=EVER) as answer:
            assert len(json.loads(answer.read())["batch"]) == 500
