"""What the tests of the serving package share: keys, a worker without Kafka, and a real server."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Protocol

import pytest
import uvicorn
from tests.serving.models import banner

from tidemill.http_server.listener import HttpConfig
from tidemill.kafka import KafkaConfig
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.serving.api.server import server_of
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import ServingWorkerConfig, Worker

NOWHERE = KafkaConfig("127.0.0.1:1")


@pytest.fixture(scope="session")
def key() -> SigningKey:
    """The key of the one trainer whom the workers trust."""
    return SigningKey.generate()


@pytest.fixture(scope="session")
def trusted(key: SigningKey) -> TrustedKeys:
    """What the workers trust."""
    return TrustedKeys.of([key.public])


@pytest.fixture
def log() -> MemoryEventLog:
    """Where the worker of a test leaves its events."""
    return MemoryEventLog()


@pytest.fixture
def worker(log: MemoryEventLog, trusted: TrustedKeys) -> Worker:
    """A worker that decides the loop ``banner`` and follows no topic; tests feed its follower."""
    config = ServingWorkerConfig(
        kafka=NOWHERE, name="w-1", definitions=(banner(),), trusted=trusted
    )
    return Worker(config, event_log=log)


class Serve(Protocol):
    """Start a real server on a real port for a worker; returns its address."""

    def __call__(self, worker: Worker, **settings: object) -> str:
        """Serve *worker*; *settings* are those of `HttpConfig`."""


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers and stop them at the end of the test."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(worker: Worker, **settings: object) -> str:
        opened = socket.create_server(("127.0.0.1", 0), backlog=2_048)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192)  # the rest is ours to limit
        http = HttpConfig(port=0, **settings)  # type: ignore[arg-type]
        server = server_of(worker, http)
        thread = threading.Thread(target=server.run, args=([opened],), daemon=True)
        thread.start()
        running.append((server, thread))
        kind = "http" if http.tls is None else "https"
        return f"{kind}://127.0.0.1:{opened.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(120)


@pytest.fixture
def url(worker: Worker, serve: Serve) -> str:
    """The address of a server for `worker`."""
    return serve(worker)


@pytest.fixture
def dead_url() -> str:
    """An address where nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as opened:
        port = opened.getsockname()[1]
    return f"http://127.0.0.1:{port}"
