"""Runs a worker behind HTTP in this process, until SIGTERM or SIGINT.

After the signal it takes no new connection, answers the requests under way and delivers the last
events. The exit status is 0 if all events were delivered.
"""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import uvicorn

from tidemill.schemas.registry.port import SchemaStore
from tidemill.serving.api.coalesce import CoalescingProtocol
from tidemill.serving.api.http import app_of
from tidemill.serving.worker import ServingWorkerConfig, Worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """A worker, and where it listens."""

    worker: ServingWorkerConfig
    host: str = "127.0.0.1"
    port: int = 8700
    stop_s: float = 5.0
    """How long requests under way may take after the signal to stop."""


def run_server(config: ServerConfig, *, store: SchemaStore | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    Args:
        config: the worker, and where it listens.
        store: the schema registry that the events are framed for, if any.

    Returns:
        0, or 1 if the port could not be bound or some events could not be delivered.
    """
    worker = Worker(config.worker, store=store)
    worker.start()
    server = uvicorn.Server(
        uvicorn.Config(
            app_of(worker),
            host=config.host,
            port=config.port,
            loop="uvloop",
            http=CoalescingProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,  # the address of the client is not used
            server_header=False,
            date_header=False,
            backlog=2048,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=int(config.stop_s),
        )
    )
    with _signals_survived():
        try:
            server.run()
        except SystemExit:  # uvicorn could not bind, and has logged why
            logger.error("port %d of %s cannot be bound: is it in use?", config.port, config.host)
    undelivered = worker.close()
    if undelivered:
        logger.error("%d events could not be delivered before the stop", undelivered)
    return int(bool(undelivered) or not server.started)


@contextmanager
def _signals_survived() -> Iterator[None]:
    """Ignore the signals meanwhile: uvicorn raises the one that stopped it again at its end."""

    def ignore(_number: int, _frame: FrameType | None) -> None:
        return None

    before = {number: signal.signal(number, ignore) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
