"""Runs a worker behind HTTP in this process, until SIGTERM or SIGINT.

After the signal it takes no new connection, answers the requests under way and delivers the last
events. The exit status is 0 if all events were delivered, else 2: a failure, and no finding.
"""

import logging
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType

import uvicorn

from tidemill.http_server.callers import HttpAccess
from tidemill.http_server.http_limits import HttpCounters
from tidemill.http_server.listener import HttpConfig, uvicorn_server
from tidemill.schemas.registry.port import SchemaStore
from tidemill.serving.api.http import handler_of
from tidemill.serving.api.metrics import WORK, registry_of
from tidemill.serving.worker import ServingWorkerConfig, Worker
from tidemill.work_log import WorkLog

PORT = 8700

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """A worker, where it listens, and to whom."""

    worker: ServingWorkerConfig
    http: HttpConfig = field(default_factory=lambda: HttpConfig(port=PORT))


def run_server(config: ServerConfig, *, store: SchemaStore | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    Args:
        config: the worker, and where it listens.
        store: the schema registry that the events are framed for, if any.

    Returns:
        0, or 2 if the port could not be bound or some events could not be delivered.
    """
    http = config.http
    patience = replace(config.worker, acknowledge_s=http.limits.acknowledge_s)
    worker = Worker(patience, store=store)
    server = server_of(worker, http)
    worker.start()
    _allow_open_files(2 * http.limits.connections)
    with _signals_survived():
        try:
            with WorkLog(registry_of(worker), WORK):
                server.run()
        except SystemExit:  # uvicorn could not bind, and has logged why
            logger.error("port %d of %s cannot be bound: is it in use?", http.port, http.host)
    undelivered = worker.close()
    if undelivered:
        logger.error("%d events could not be delivered before the stop", undelivered)
    return 2 if undelivered or not server.started else 0


def server_of(worker: Worker, http: HttpConfig) -> uvicorn.Server:
    """Return the server of *worker*, which does not run yet.

    Raises:
        ConfigError: the files of TLS cannot be used.
    """
    counters = HttpCounters()
    access = HttpAccess(http.tokens, http.origins, counters)
    handler = handler_of(worker, limits=http.limits, access=access, counters=counters)
    return uvicorn_server(handler, http, counters)


def _allow_open_files(count: int) -> None:
    """Raise the limit of open files to *count* if the system lets this process do so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
