"""Where a server listens, and to whom; and the server itself, which is uvicorn's."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, cast

import uvicorn

from tidemill.access import TlsConfig, TokenList, check_address, watched_tokens
from tidemill.http_server.connections import ConnectionWatch, LimitedProtocol
from tidemill.http_server.http_limits import HttpCounters, HttpLimits
from tidemill.http_server.replies import Handler
from tidemill.http_server.tls_protocol import TlsProtocol
from tidemill.watched_file import WatchedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """Where a process answers over HTTP, and to whom."""

    port: int
    host: str = "127.0.0.1"
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
        port: int,
        host: str = "127.0.0.1",
        origins: tuple[str, ...] = (),
        is_insecure: bool = False,
    ) -> Self:
        """Read the variables TIDEMILL_HTTP_... and TIDEMILL_TLS_..., all of them optional.

        Raises:
            ConfigError: one of them is wrong, or the server would be open to other machines.
        """
        return cls(
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

    @property
    def url(self) -> str:
        """The address, as it was asked for."""
        return f"{'http' if self.tls is None else 'https'}://{self.host}:{self.port}"


def uvicorn_server(handler: Handler, config: HttpConfig, counters: HttpCounters) -> uvicorn.Server:
    """Return the server that asks *handler*, which does not run yet.

    Raises:
        ConfigError: the files of TLS cannot be used.
    """
    tls = config.tls.context() if config.tls is not None else None
    settings = uvicorn.Config(
        cast(Any, handler),  # its protocol knows no ASGI
        interface="asgi3",
        host=config.host,
        port=config.port,
        loop="uvloop",
        http=_protocol(ConnectionWatch(config.limits, counters), tls),
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
    )
    return uvicorn.Server(settings)


def _protocol(watch: ConnectionWatch, tls: ssl.SSLContext | None) -> type[asyncio.Protocol]:
    """Return what makes the protocol of a connection: any callable will do."""
    made: Callable[..., LimitedProtocol] = (
        partial(LimitedProtocol, watch=watch)
        if tls is None
        else partial(TlsProtocol, watch=watch, context=tls)
    )
    return cast(type[asyncio.Protocol], made)
