"""TLS handshakes within the limits of a server: a client that does not finish one holds nothing.

asyncio makes the handshake before it tells a protocol of the connection. So a server that listens
with TLS cannot count clients in a handshake, nor close them to make room. `TlsProtocol` is told of
the bare connection, and then asks for TLS.
"""

import asyncio
import ssl
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from tidemill.http_server.connections import ConnectionWatch, LimitedProtocol


class TlsProtocol(LimitedProtocol):
    """The HTTP protocol over TLS; from its first byte on a connection counts and has a deadline."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        watch: ConnectionWatch,
        context: ssl.SSLContext,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop, watch=watch)
        self._context = context
        self._below: asyncio.Transport | None = None  # while the handshake lasts
        self._is_secure = False  # whether the handshake has succeeded
        self._early: list[bytes] = []
        self._handshake: asyncio.Task[None] | None = None  # the event loop keeps no tasks alive

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake on the bare *transport*."""
        self._below = cast(asyncio.Transport, transport)  # uvloop's is one, but not by class
        self.connections.add(self)  # uvicorn closes them when it stops
        self._wait("handshake", self._limits.handshake_s)
        self._watch.add(self)
        if self._below is not None:  # there was room
            self._handshake = self.loop.create_task(self._shake_hands(self._below))

    async def _shake_hands(self, below: asyncio.Transport) -> None:
        timeout_s = 2 * self._limits.handshake_s  # the watch is faster
        starting = self.loop.create_task(
            self.loop.start_tls(
                below, self, self._context, server_side=True, ssl_handshake_timeout=timeout_s
            )
        )
        await asyncio.sleep(0)  # now the protocol of `below` is asyncio's, which decrypts
        _feed(below.get_protocol(), self._take_early())
        try:
            above = await starting
        except OSError:  # no TLS, no certificate that is known, too late, or gone
            above = None
        if self._below is None or above is None:
            self._give_up()
            return
        self._below, self._is_secure = None, True
        super().connection_made(above)
        if early := self._take_early():
            super().data_received(early)

    def _take_early(self) -> bytes:
        early = b"".join(self._early)
        self._early.clear()
        return early

    def data_received(self, data: bytes) -> None:
        """Pass *data* on once the handshake is over.

        Before, it is what came before asyncio's protocol was there, or before this one was told
        that the handshake is over.
        """
        if self._is_secure:
            super().data_received(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool:  # type: ignore[override]  # as in `LimitedProtocol`
        """Close the connection of a client that has gone in the handshake."""
        return self._is_secure and super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._is_secure:
            super().connection_lost(exc)
        else:
            self._give_up()

    def shutdown(self) -> None:
        """Close a connection in its handshake; let others finish their request."""
        if self._is_secure:
            super().shutdown()
        else:
            self._give_up()

    def make_room(self, *, is_new: bool) -> None:
        """Close at once, because too many connections are open."""
        if self._is_secure:
            super().make_room(is_new=is_new)
        else:
            self._watch.counters.refused["connections"] += 1
            self._give_up()

    def time_is_up(self) -> None:
        """Close a connection whose handshake takes too long."""
        if self._is_secure:
            super().time_is_up()
        else:
            self._watch.counters.refused["handshake_s"] += 1
            self._give_up()

    def check_reader(self, now: float) -> None:
        """Look at answers that are not read, once there can be any."""
        if self._is_secure:
            super().check_reader(now)

    def _give_up(self) -> None:
        below, self._below = self._below, None
        self._settle()
        self._watch.remove(self)
        self.connections.discard(self)
        if below is not None:
            below.abort()


def _feed(protocol: asyncio.BaseProtocol, data: bytes) -> None:
    """Give *data*, which has been read already, to *protocol*."""
    buffered = cast(asyncio.BufferedProtocol, protocol)
    while data:
        buffer = memoryview(buffered.get_buffer(len(data)))
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        buffered.buffer_updated(count)
        data = data[count:]
