"""Sends head and body of a response in one system call.

uvicorn writes them one after the other, and uvloop sends each write at once. The second system call
is a tenth of the CPU time of a decision over HTTP.
"""

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class CoalescingWriter(asyncio.Transport):
    """A transport that sends all writes of one iteration of the event loop together."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data* at the end of this iteration."""
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append(bytes(data))

    def flush(self) -> None:
        """Send the waiting data now."""
        if self._waiting and not self._transport.is_closing():
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._transport.write(data)

    def write_eof(self) -> None:
        """Send the waiting data, and that no more comes."""
        self.flush()
        self._transport.write_eof()

    def can_write_eof(self) -> bool:
        """Whether the transport below can."""
        return self._transport.can_write_eof()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the client has not taken yet."""
        return self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Send the waiting data, then close."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once and drop the waiting data."""
        self._waiting.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return the info of the transport below."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Stop receiving."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on receiving."""
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Pass received data to *protocol* from now on."""
        self._transport.set_protocol(protocol)


class CoalescingProtocol(HttpToolsProtocol):
    """The HTTP protocol of uvicorn over a coalescing transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wrap the transport of a new connection."""
        below = cast(asyncio.Transport, transport)  # uvloop's is one, but not by class
        super().connection_made(CoalescingWriter(below, self.loop))
