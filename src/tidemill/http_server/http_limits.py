"""How much of a server one client may take: time, bytes and connections, as settings."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from tidemill.errors import ConfigError

PREFIX = "TIDEMILL_HTTP_"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What is closed, refused or not read any further. Each is a variable TIDEMILL_HTTP_<NAME>."""

    connections: int = 1_000
    """Open connections; a thousand idle ones take 20 MB."""
    header_bytes: int = 16_384
    """Bytes of a request before its body; browsers send a few hundred."""
    body_bytes: int = 2**20
    """Bytes of a body; 1,000 decisions take a third of it."""
    held_bytes: int = 64 * 2**20
    """Bytes of all bodies together that have not arrived whole yet."""
    handshake_s: float = 10.0
    """From the connection to the end of the TLS handshake."""
    header_s: float = 10.0
    """From the first byte, or from the connection, to the end of the headers."""
    body_s: float = 10.0
    """From the end of the headers to the end of the body."""
    idle_s: float = 75.0
    """Without a request on an open connection; longer than load balancers keep theirs (60 s)."""
    write_s: float = 10.0
    """How long an answer may wait for a client that does not read it."""
    acknowledge_s: float = 5.0
    """How long feedback may wait for Kafka before it is answered with 503."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ConfigError(
                    f"the HTTP limit {field.name} is {value}, so nothing could be served",
                    hint=f"set {PREFIX}{field.name.upper()} above zero, or leave it out",
                )

    @property
    def deadlines_s(self) -> tuple[float, ...]:
        """The limits of time that are compared from outside, because a client may do nothing."""
        return self.handshake_s, self.header_s, self.body_s, self.write_s

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read TIDEMILL_HTTP_CONNECTIONS, TIDEMILL_HTTP_HEADER_BYTES and so on.

        Raises:
            ConfigError: a variable is no number above zero.
        """
        found: dict[str, int | float] = {}
        for field in fields(cls):
            name = f"{PREFIX}{field.name.upper()}"
            if text := env.get(name):
                found[field.name] = _number(name, text, whole=isinstance(field.default, int))
        return cls(**found)  # type: ignore[arg-type]  # each as whole as its default


def _number(name: str, text: str, *, whole: bool) -> int | float:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        kind = "whole number" if whole else "number"
        raise ConfigError(
            f"{name} is {text!r}, no {kind}", hint="see docs/guide/serving.md"
        ) from None


REFUSALS = (
    "connections",  # there were too many connections
    "header_bytes",
    "body_bytes",
    "held_bytes",
    "handshake_s",
    "header_s",
    "body_s",
    "write_s",
    "malformed",  # what came was no HTTP
    "origin",  # a page of a browser that is not listed
    "token",  # no token, or one without the scope
    "rate",  # more than the token may ask for
)
"""Why a request or connection was refused before it was read."""


class HttpCounters:
    """What a server has refused, by reason, and what is open now."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self.connections = 0
        self.held_bytes = 0
