"""The page that Prometheus reads of a process which answers nothing else over HTTP.

It listens on this machine alone, unless an address is named: the page has no tokens.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Thread
from typing import Self, cast
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from tidemill.errors import ConfigError

Page = Callable[[], Mapping[str, object]]
StartResponse = Callable[[str, list[tuple[str, str]]], object]

METRICS_PORT, METRICS_HOST = "TIDEMILL_METRICS_PORT", "TIDEMILL_METRICS_HOST"
LOCAL = "127.0.0.1"
_MOST = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPage:
    """Where a process shows its metrics.

    Attributes:
        port: from 1 to 65,535.
        host: the address to listen on; 0.0.0.0 for all networks.
    """

    port: int
    host: str = LOCAL

    def __post_init__(self) -> None:
        """Refuse a port that cannot be.

        Raises:
            ConfigError: the port is out of range.
        """
        if not 0 < self.port <= _MOST:
            raise _no_port(self.port)

    @classmethod
    def asked(
        cls, env: Mapping[str, str], port: int | None = None, host: str | None = None
    ) -> Self | None:
        """Return what *port* and *host* say, or else the environment; None without a port.

        Raises:
            ConfigError: TIDEMILL_METRICS_PORT is no port.
        """
        text = env.get(METRICS_PORT, "")
        if port is None and not text:
            return None
        if port is None and not text.isdecimal():
            raise _no_port(text)
        listens_on = host or env.get(METRICS_HOST) or LOCAL
        return cls(port=int(text) if port is None else port, host=listens_on)

    def serve(self, registry: CollectorRegistry, health: Page | None = None) -> None:
        """Answer GET /metrics with *registry* and /healthz with *health*, in a thread.

        The health page is JSON under status 200 as long as the process lives: a loop that is
        refused is no reason to kill a process that has others.

        Raises:
            ConfigError: the port is taken or not allowed, or the host is no address here.
        """
        metrics = make_wsgi_app(registry)

        def answer(environ: dict[str, object], start: StartResponse) -> Iterable[bytes]:
            if health is None or environ.get("PATH_INFO") != "/healthz":
                return cast(Iterable[bytes], metrics(environ, start))
            start("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(health()).encode()]

        try:
            server = make_server(self.host, self.port, answer, ThreadingWSGIServer, _Silent)
        except OSError as error:
            raise ConfigError(
                f"metrics cannot be shown on {self.host}, port {self.port}: {error.strerror}",
                hint="name a free port with --metrics-port, an address with --metrics-host",
            ) from error
        Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def _no_port(found: object) -> ConfigError:
    return ConfigError(
        f"{found!r:.100} is no port for metrics",
        hint=f"set --metrics-port or {METRICS_PORT} to a number from 1 to {_MOST}",
    )


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""
