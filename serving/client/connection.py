"""One HTTP connection of the client, kept open between calls, with a deadline on every call.

The standard library's client takes 150 us a call, mostly to read headers; httptools takes a few.
"""

import re
import select
import socket
import ssl
import time
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

import httptools

from tidemill.errors import ConfigError

_READ_BYTES = 65_536


class ConnectionLostError(OSError):
    """The worker closed the connection before it answered."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a worker."""

    url: str
    host: str
    port: int
    is_secure: bool
    prefix: str
    """The path before those of the API, for a worker behind a proxy."""

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read ``http://host:port`` or ``https://host/prefix``.

        Raises:
            ConfigError: *url* is not such an address.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"{url!r} is not the address of a worker", hint="write it as http://localhost:8700"
            )
        prefix = parts.path.rstrip("/")
        return cls(url.rstrip("/"), parts.hostname, port, parts.scheme == "https", prefix)


class _HttpAnswer:
    """Collects the body that the parser finds."""

    def __init__(self) -> None:
        self.body: list[bytes] = []
        self.is_complete = False

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.is_complete = True


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client shows to its workers, and whom it trusts."""

    token: str | None = None
    tls: ssl.SSLContext | None = None
    """None for the certificate authorities of the system, and no certificate of its own."""

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise ConfigError(
                "the token has spaces, line ends or letters beyond ASCII",
                hint="pass it as `tidemill token` printed it",
            )

    def __repr__(self) -> str:
        return f"Credentials(token={'None' if self.token is None else '...'})"

    @property
    def header(self) -> str:
        """The header of a request, or nothing."""
        return "" if self.token is None else f"Authorization: Bearer {self.token}\r\n"


class Connection:
    """One open connection to a worker, for one thread at a time."""

    def __init__(self, address: Address, deadline: float, credentials: Credentials) -> None:
        """Connect before *deadline*, by `time.monotonic`; OSError if that fails."""
        opened = socket.create_connection((address.host, address.port), timeout=_left(deadline))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.is_secure:
            context = credentials.tls or _trusted_by_system()
            opened = context.wrap_socket(opened, server_hostname=address.host)
        self._socket = opened
        host = f"{address.host}:{address.port}" if ":" not in address.host else f"[{address.host}]"
        self._head = (
            f"Host: {host}\r\n{credentials.header}"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._prefix = address.prefix

    def call(self, method: str, path: str, body: bytes, deadline: float) -> tuple[int, bytes, bool]:
        """Send one request; return status, body, and whether the connection may be used again.

        Raises:
            OSError: no answer before *deadline*, or the connection broke; close it then.
        """
        start = f"{method} {self._prefix}{path} HTTP/1.1\r\n".encode()
        self._socket.settimeout(_left(deadline))
        self._socket.sendall(b"%b%b%d\r\n\r\n%b" % (start, self._head, len(body), body))
        answer = _HttpAnswer()
        parser = httptools.HttpResponseParser(answer)
        try:
            while not answer.is_complete:
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    raise ConnectionLostError("the worker closed the connection")
                parser.feed_data(data)
                if not answer.is_complete:
                    self._socket.settimeout(_left(deadline))
        except httptools.HttpParserError as error:
            raise ConnectionLostError(f"not an HTTP answer: {error}") from error
        return parser.get_status_code(), b"".join(answer.body), parser.should_keep_alive()

    def is_closed_by_worker(self) -> bool:
        """Return whether the worker has closed the connection, or sent what nobody asked for."""
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        return bool(waiting.poll(0))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


@cache
def _trusted_by_system() -> ssl.SSLContext:
    return ssl.create_default_context()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time budget is used up")
    return left
