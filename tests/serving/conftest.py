"""What the tests of the serving package share: keys, a worker without Kafka, and a real server."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import uvicorn
from tests.serving.models import banner

from tidemill.kafka import KafkaConfig
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.serving.api.http import app_of
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


@pytest.fixture
def serve() -> Iterator[Callable[[Worker], str]]:
    """Start a real server on a real port for a worker; returns its address."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(worker: Worker) -> str:
        opened = socket.create_server(("127.0.0.1", 0))
        settings = uvicorn.Config(
            app_of(worker), loop="uvloop", http="httptools", lifespan="off", log_config=None
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, args=([opened],), daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{opened.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(120)


@pytest.fixture
def url(worker: Worker, serve: Callable[[Worker], str]) -> str:
    """The address of a server for `worker`."""
    return serve(worker)


@pytest.fixture
def dead_url() -> str:
    """An address where nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as opened:
        port = opened.getsockname()[1]
    return f"http://127.0.0.1:{port}"
