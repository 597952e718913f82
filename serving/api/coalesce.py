"""Answers leave in one piece: head and body of a response in one call of the operating system.

uvicorn writes them one after the other, and uvloop sends each at once. That second call is a tenth
of what a decision over HTTP costs a core. It knows nothing of HTTP but that protocol's class.
"""

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class CoalescingWriter(asyncio.Transport):
    """A transport that sends all that is written in one turn of the event loop together."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data* at the end of this turn."""
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(bytes(data))

    def _send(self) -> None:
        if self._waiting:
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._transport.write(data)

    def close(self) -> None:
        """Send what waits, then close."""
        self._send()
        self._transport.close()

    def abort(self) -> None:
        """Close at once; what waits is lost."""
        self._waiting.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return what the transport below knows."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Receive nothing for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Receive again."""
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand what is received to *protocol* from now on."""
        self._transport.set_protocol(protocol)


class CoalescingProtocol(HttpToolsProtocol):
    """uvicorn's HTTP over a transport that sends each answer at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection."""
        below = cast(asyncio.Transport, transport)  # uvloop's is one, but not by class
        super().connection_made(CoalescingWriter(below, self.loop))
