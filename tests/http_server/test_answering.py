"""A handler is asked once for each request, in their order, and answers in one write."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tidemill.http_server.connections import ConnectionWatch, LimitedProtocol
from tidemill.http_server.http_limits import HttpCounters, HttpLimits
from tidemill.http_server.listener import HttpConfig, uvicorn_server
from tidemill.http_server.replies import CLOSE, Handler, Reply, Scope

EVER = 60.0


@contextmanager
def answering(handler: Handler) -> Iterator[socket.socket]:
    """Serve *handler* and yield a connection to it."""
    opened = socket.create_server(("127.0.0.1", 0))
    server = uvicorn_server(handler, HttpConfig(port=0), HttpCounters())
    thread = threading.Thread(target=server.run, args=([opened],), daemon=True)
    thread.start()
    with closing(socket.create_connection(opened.getsockname(), timeout=EVER)) as connection:
        yield connection
    server.should_exit = True
    thread.join(EVER)
    assert not thread.is_alive()


def echo(scope: Scope, body: bytes) -> Reply:
    """Answer with path and body."""
    return Reply(200, scope["path"].encode() + b" " + body)


def until_closed(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    found = b""
    while data := connection.recv(65_536):
        found += data
    return found


def get(path: str, more: bytes = b"") -> bytes:
    """Return a request for *path* with *more* headers."""
    return b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path.encode(), more)


LAST = b"Connection: close\r\n"


def test_requests_sent_at_once_are_answered_in_their_order() -> None:
    """A client that does not wait for answers knows them by their order alone."""

    async def slowly(scope: Scope) -> Reply:
        await asyncio.sleep(0.01)
        return Reply(200, scope["path"].encode())

    def mixed(scope: Scope, body: bytes) -> Reply | asyncio.Task[Reply]:
        if scope["path"] == "/slow":
            return asyncio.ensure_future(slowly(scope))
        return echo(scope, body)

    paths = ["/a", "/slow", "/b", "/slow", "/c"]
    with answering(mixed) as connection:
        connection.sendall(b"".join(map(get, paths)) + get("/last", LAST))
        found = until_closed(connection)
    places = [found.index(path.encode(), 0) for path in ("/a", "/slow", "/b", "/c", "/last")]
    assert places == sorted(places)
    assert found.count(b"HTTP/1.1 200 OK") == 6
    assert found.count(b"/slow") == 2


def test_a_body_in_parts_arrives_whole() -> None:
    """A request is answered once, when all of it is there."""
    with answering(echo) as connection:
        connection.sendall(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n" + LAST)
        connection.sendall(b"\r\n")
        for _ in range(10):
            connection.sendall(b"x" * 10_000)
        found = until_closed(connection)
    assert found.endswith(b"/p " + b"x" * 100_000)


def test_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    """Curl waits a second for this with a body of over a kilobyte."""
    with answering(echo) as connection:
        connection.sendall(
            b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
            + LAST
            + b"\r\n"
        )
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ok")
        assert until_closed(connection).endswith(b"/p ok")


@pytest.mark.parametrize("is_late", [False, True])
def test_a_handler_that_fails_is_answered_in_words(
    is_late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns nothing of the inside, the log all of it, and the connection goes on."""

    async def late() -> Reply:
        raise ZeroDivisionError("a secret")

    def broken(scope: Scope, body: bytes) -> Reply | asyncio.Task[Reply]:
        if scope["path"] == "/well":
            return echo(scope, body)
        if is_late:
            return asyncio.ensure_future(late())
        raise ZeroDivisionError("a secret")

    with answering(broken) as connection:
        connection.sendall(get("/bad") + get("/well", LAST))
        found = until_closed(connection)
    assert found.startswith(b"HTTP/1.1 500 ")
    assert b"its log says why" in found
    assert b"secret" not in found
    assert found.endswith(b"/well ")
    assert "a secret" in caplog.text


def test_head_has_the_length_and_no_body() -> None:
    """The next answer would otherwise begin in the middle of this one."""
    with answering(echo) as connection:
        connection.sendall(get("/page").replace(b"GET", b"HEAD") + get("/next", LAST))
        found = until_closed(connection)
    head, _, rest = found.partition(b"\r\n\r\n")
    assert b"content-length: 6" in head
    assert rest.startswith(b"HTTP/1.1 200 OK")


def test_an_answer_that_closes_says_so_and_does() -> None:
    """What a client sends after a refusal of its body is not read as a request."""
    with answering(lambda _scope, _body: Reply(413, b"{}", headers=(CLOSE,))) as connection:
        connection.sendall(get("/a") + get("/b"))
        found = until_closed(connection)
    assert found.count(b"HTTP/1.1") == 1
    assert found.count(b"connection: close") == 1


def test_an_older_client_is_answered_and_left() -> None:
    """HTTP/1.0 has one request to a connection."""
    with answering(echo) as connection:
        connection.sendall(b"GET /old HTTP/1.0\r\n\r\n")
        found = until_closed(connection)
    assert b"connection: close\r\n" in found
    assert found.endswith(b"/old ")


class Recorded(asyncio.Transport):
    """A transport that keeps what is written; its client reads as fast as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.two_written = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep *data*."""
        self.writes.append(bytes(data))
        if len(self.writes) == 2:
            self.two_written.set()

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def pause_reading(self) -> None:
        """Nothing to do: data come by hand."""

    def resume_reading(self) -> None:
        """Nothing to do: data come by hand."""


def _protocol(
    handler: Handler, loop: asyncio.AbstractEventLoop, watch: ConnectionWatch | None = None
) -> LimitedProtocol:
    settings = uvicorn_server(handler, HttpConfig(port=0), HttpCounters())
    settings.config.load()
    watch = watch or ConnectionWatch(HttpLimits(), HttpCounters())
    return LimitedProtocol(settings.config, settings.server_state, {}, loop, watch=watch)


def test_answers_of_one_moment_are_sent_together() -> None:
    """The client is woken by the first one, and is awake for the others: a fifth of the CPU."""
    sent: list[str] = []

    class Noted(Recorded):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            sent.append("answer")
            super().write(data)

    def note(scope: Scope, body: bytes) -> Reply:
        sent.append("decision")
        return echo(scope, body)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        watch = ConnectionWatch(HttpLimits(), HttpCounters())
        protocols = [_protocol(note, loop, watch) for _ in range(3)]
        for protocol in protocols:
            protocol.connection_made(Noted())
        for protocol in protocols:
            protocol.data_received(get("/a"))
        await asyncio.sleep(0)

    asyncio.run(run())
    assert sent == ["decision"] * 3 + ["answer"] * 3


def test_head_and_body_are_one_write() -> None:
    """A second system call is a tenth of the CPU time of a decision over HTTP."""

    async def run() -> None:
        transport, loop = Recorded(), asyncio.get_running_loop()
        protocol = _protocol(echo, loop)
        protocol.connection_made(transport)
        protocol.data_received(get("/a") + get("/b"))
        await asyncio.wait_for(transport.two_written.wait(), EVER)
        assert [each.endswith((b"/a ", b"/b ")) for each in transport.writes] == [True, True]

    asyncio.run(run())


def test_a_client_that_does_not_read_is_not_answered_any_further() -> None:
    """Answers that nobody takes would fill the memory, however many requests came at once."""

    async def run() -> None:
        transport, loop = Recorded(), asyncio.get_running_loop()
        asked: list[str] = []

        def note(scope: Scope, body: bytes) -> Reply:
            asked.append(scope["path"])
            return echo(scope, body)

        protocol = _protocol(note, loop)
        protocol.connection_made(transport)
        protocol.pause_writing()
        protocol.data_received(get("/a") + get("/b"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert asked == []
        protocol.resume_writing()
        await asyncio.wait_for(transport.two_written.wait(), EVER)
        assert asked == ["/a", "/b"]

    asyncio.run(run())


def test_nobody_is_written_to_who_has_gone() -> None:
    """An answer that comes after the end of its connection is dropped."""

    async def run() -> None:
        transport, loop = Recorded(), asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()
        protocol = _protocol(lambda _scope, _body: answer, loop)
        protocol.connection_made(transport)
        protocol.data_received(get("/a"))
        for _ in range(5):
            await asyncio.sleep(0)
        protocol.connection_lost(ConnectionResetError())
        answer.set_result(Reply(200, b"late"))
        await asyncio.gather(*protocol.tasks)
        assert transport.writes == []

    asyncio.run(run())
