"""Runs a worker behind HTTP in this process, until SIGTERM or SIGINT.

After the signal it takes no new connection, answers the requests under way and delivers the last
events. The exit status is 0 if all events were delivered, else 2: a failure, and no finding.
"""

import logging
import resource
import signal
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import Self, cast

import uvicorn

from tidemill.access import TlsConfig, TokenList, check_address, watched_tokens
from tidemill.schemas.registry.port import SchemaStore
from tidemill.serving.api.callers import HttpAccess
from tidemill.serving.api.connections import ConnectionWatch, LimitedProtocol
from tidemill.serving.api.http import app_of
from tidemill.serving.api.http_limits import HttpCounters, HttpLimits
from tidemill.serving.api.metrics import WORK, registry_of
from tidemill.serving.worker import ServingWorkerConfig, Worker
from tidemill.watched_file import WatchedFile
from tidemill.work_log import WorkLog

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """A worker, where it listens, and to whom."""

    worker: ServingWorkerConfig
    host: str = "127.0.0.1"
    port: int = 8700
    stop_s: float = 5.0
    """How long requests under way may take after the signal to stop."""
    limits: HttpLimits = field(default_factory=HttpLimits)
    tokens: WatchedFile[TokenList] | None = None
    """The tokens that callers need; None for none."""
    tls: TlsConfig | None = None
    """The certificate; None for HTTP without TLS."""
    origins: tuple[str, ...] = ()
    """The origins whose pages may call."""
    is_insecure: bool = False
    """Whether other machines may call without a token."""

    @classmethod
    def from_env(
        cls,
        env: Mapping[str, str],
        *,
        worker: ServingWorkerConfig,
        host: str = "127.0.0.1",
        port: int = 8700,
        origins: tuple[str, ...] = (),
        is_insecure: bool = False,
    ) -> Self:
        """Read the variables TIDEMILL_HTTP_... and TIDEMILL_TLS_..., all of them optional.

        Raises:
            ConfigError: one of them is wrong, or the server would be open to other machines.
        """
        return cls(
            worker=worker,
            host=host,
            port=port,
            limits=HttpLimits.from_env(env),
            tokens=watched_tokens(env),
            tls=TlsConfig.from_env(env),
            origins=origins,
            is_insecure=is_insecure,
        )

    def __post_init__(self) -> None:
        check_address(self.host, tokens=self.tokens, tls=self.tls, is_insecure=self.is_insecure)


def run_server(config: ServerConfig, *, store: SchemaStore | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    Args:
        config: the worker, and where it listens.
        store: the schema registry that the events are framed for, if any.

    Returns:
        0, or 2 if the port could not be bound or some events could not be delivered.
    """
    tls = config.tls.context() if config.tls is not None else None
    patience = replace(config.worker, acknowledge_s=config.limits.acknowledge_s)
    worker = Worker(patience, store=store)
    worker.start()
    _allow_open_files(2 * config.limits.connections)
    server = server_of(worker, config, tls)
    with _signals_survived():
        try:
            with WorkLog(registry_of(worker), WORK):
                server.run()
        except SystemExit:  # uvicorn could not bind, and has logged why
            logger.error("port %d of %s cannot be bound: is it in use?", config.port, config.host)
    undelivered = worker.close()
    if undelivered:
        logger.error("%d events could not be delivered before the stop", undelivered)
    return 2 if undelivered or not server.started else 0


def server_of(
    worker: Worker, config: ServerConfig, tls: ssl.SSLContext | None = None
) -> uvicorn.Server:
    """Return the server of *worker*, which does not run yet."""
    counters = HttpCounters()
    access = HttpAccess(config.tokens, config.origins, counters)
    watch = ConnectionWatch(config.limits, counters)
    settings = uvicorn.Config(
        app_of(worker, limits=config.limits, access=access, counters=counters),
        host=config.host,
        port=config.port,
        loop="uvloop",
        # any callable will do that makes a protocol
        http=cast(type[LimitedProtocol], partial(LimitedProtocol, watch=watch)),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,  # the address of the client is not used
        server_header=False,
        date_header=False,
        backlog=2048,
        timeout_keep_alive=cast(int, config.limits.idle_s),
        timeout_graceful_shutdown=int(config.stop_s),
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )
    return uvicorn.Server(settings)


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
