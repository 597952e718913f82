"""Each client in turn, and workers that do not answer."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Protocol, cast

import pytest
from tests.serving.client.blocking import BlockingClient, EventLoopThread

from tidemill import AsyncClient, Client
from tidemill.serving.client.embedded import EmbeddedTransport
from tidemill.serving.worker import Worker


class OpenClient(Protocol):
    """Open a client over HTTP; the fixture closes it."""

    def __call__(self, urls: str | list[str], **settings: Any) -> Client:  # noqa: ANN401
        """Return the client; *settings* are those of `Client`."""


@pytest.fixture
def thread() -> Iterator[EventLoopThread]:
    """Where the asynchronous client runs."""
    with closing(EventLoopThread()) as running:
        yield running


@pytest.fixture(params=["blocking", "async"])
def open_client(request: pytest.FixtureRequest, thread: EventLoopThread) -> Iterator[OpenClient]:
    """Each client over HTTP in turn."""
    opened: list[Client] = []

    def of(urls: str | list[str], **settings: Any) -> Client:  # noqa: ANN401
        made: Any = Client(urls, **settings)
        if request.param == "async":
            made = BlockingClient(thread, AsyncClient(urls, **settings))
        opened.append(made)
        return cast(Client, made)

    yield of
    for client in opened:
        client.close()


@pytest.fixture(params=["http", "embedded", "async http", "async embedded"])
def client(
    request: pytest.FixtureRequest, worker: Worker, thread: EventLoopThread
) -> Iterator[Client]:
    """Each client in turn, to the same worker."""
    is_http = request.param.endswith("http")
    url = request.getfixturevalue("url") if is_http else ""
    made: Any = (
        Client(url, budget_ms=10_000) if is_http else Client.through(EmbeddedTransport(worker))
    )
    if request.param.startswith("async"):
        inner = AsyncClient(url, budget_ms=10_000) if is_http else AsyncClient.of(made)
        made = BlockingClient(thread, inner)
    yield made
    if is_http:
        made.close()


class HangingWorker:
    """Takes connections, reads what comes, and never answers."""

    def __init__(self) -> None:
        self.received = b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            while True:
                connection, _ = self._listening.accept()
                opened.enter_context(connection)
                self.received += connection.recv(65_536)

    def close(self) -> None:
        """Stop listening."""
        self._listening.close()


@pytest.fixture
def hanging() -> Iterator[HangingWorker]:
    """A worker that does not answer."""
    with closing(HangingWorker()) as worker:
        yield worker
