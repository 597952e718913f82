"""Slow and half-open clients, by the thousand, beside a healthy one."""

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.serving.api.test_connections import SHORT, counted
from tests.serving.api.test_http import DECISIONS
from tests.serving.conftest import Serve
from tests.serving.models import FEATURES, banner
from tests.serving.test_worker import eventually, status

from tidemill import Client
from tidemill.schemas.loop.loop_file import dump_loop
from tidemill.serving.worker import Worker

BEGINNINGS = [
    b"",
    b"POST ",
    b"POST / HTTP/1.1\r\nx: ",
    b"POST %b HTTP/1.1\r\nContent-Length: 900000\r\n\r\n" % DECISIONS.encode(),
    b"GET /v1/loops HTTP/1.1\r\nHost: x\r\n\r\n",
]


class SlowClients:
    """Keeps many connections open, sends a byte now and then, and comes back when it is closed.

    After the first ones it makes 200 connections a second at most: it shares the processor.
    """

    def __init__(self, url: str, count: int) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._count = count
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()
        self.made = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        opened: dict[socket.socket, None] = {}
        while not self._stop.is_set():
            while len(opened) < self._count and not self._stop.is_set():
                with contextlib.suppress(OSError):
                    opened[self._new()] = None
                if self.made > self._count:
                    self._stop.wait(0.005)
            for key, _ in self._selector.select(0.1):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if self._is_closed(connection):
                    self._selector.unregister(connection)
                    connection.close()
                    del opened[connection]
            for connection in list(opened)[:: max(1, self._count // 20)]:
                with contextlib.suppress(OSError):
                    connection.send(b"x")
        for connection in opened:
            connection.close()

    def _new(self) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=5)
        connection.sendall(BEGINNINGS[self.made % len(BEGINNINGS)])
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        self.made += 1
        return connection

    @staticmethod
    def _is_closed(connection: socket.socket) -> bool:
        try:
            return not connection.recv(65_536)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Close all of them."""
        self._stop.set()
        self._thread.join()


@pytest.mark.slow
def test_a_healthy_client_is_answered_beside_slow_ones(worker: Worker, serve: Serve) -> None:
    """More of them than there are places; each of its calls gets a decision of the worker."""
    url = serve(worker, limits=SHORT)
    with contextlib.closing(SlowClients(url, 2 * SHORT.connections)) as slow:
        with Client(url, budget_ms=60_000) as client:
            loop = client.loop("banner")
            eventually(lambda: slow.made > 10 * SHORT.connections)
            sources = {loop.get_decision(FEATURES).source for _ in range(200)}
        assert sources == {"default"}
    assert counted(url, "tidemill_http_connections") <= SHORT.connections


@pytest.fixture
def process_url(tmp_path: Path) -> Iterator[str]:
    """The address of a server that is a process of its own, without Kafka."""
    path = tmp_path / "loop.yaml"
    path.write_text(dump_loop(banner()))
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port = opened.getsockname()[1]
    env = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "TIDEMILL_JOURNAL": "off"}
    command = [sys.executable, "-m", "tidemill", "serve", "--file", str(path), "--port", str(port)]
    process = subprocess.Popen(command, env=env)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: status(url, "/readyz") == 503)
        yield url
    finally:
        process.kill()
        process.wait()


def p99_ms(url: str, calls: int = 1_000) -> float:
    """Return how long the slowest hundredth of calls takes."""
    took = []
    with Client(url, budget_ms=60_000) as client:
        loop = client.loop("banner")
        for _ in range(calls):
            started = time.perf_counter()
            assert loop.get_decision(FEATURES).source == "default"
            took.append(time.perf_counter() - started)
    return sorted(took)[calls * 99 // 100] * 1e3


@pytest.mark.soak
def test_two_thousand_slow_clients_do_not_double_the_p99(process_url: str) -> None:
    """Limits that cost the healthy ones their answers would be no limits."""
    p99_ms(process_url)
    alone, beside = [], []
    for _ in range(3):
        alone.append(p99_ms(process_url))
        with contextlib.closing(SlowClients(process_url, 2_000)) as slow:
            eventually(lambda slow=slow: slow.made >= 2_000)  # type: ignore[misc]
            beside.append(p99_ms(process_url))
    print(json.dumps({"alone_ms": alone, "beside_ms": beside}))
    assert min(beside) <= 2 * min(alone) + 1.0
