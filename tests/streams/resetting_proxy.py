"""A proxy before a broker that resets connections at any point, like a bad network.

Each connection gets a number of bytes it may carry and a time it may live, drawn from a seed; then
both of its sides are reset (RST, not FIN), in the middle of a request or of an answer. A thread of
its own runs it.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from types import TracebackType
from typing import Self

NO_LINGER = struct.pack("ii", 1, 0)  # close sends RST
CHUNK = 16_384
LONGEST_S = 1.0  # a connection on which little happens is reset as well


class ResettingProxy:
    """Carries bytes between its own port and *target*; resets connections while `is_bad`."""

    def __init__(self, target: int, *, seed: int, most_bytes: int) -> None:
        """Prepare for the port *target*; a connection carries at most so many bytes."""
        self._target = target
        self._random = random.Random(seed)
        self._most_bytes = most_bytes
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.is_bad = False
        self.resets = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="resetting-proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._server = await asyncio.start_server(self._carry, sock=self._listening)

    async def _end(self) -> None:
        self._server.close()
        carrying = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end, or to the end of what it may carry."""
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        left = [self._random.randrange(self._most_bytes)]
        ways = [
            asyncio.ensure_future(self._pump(reader, back, left)),
            asyncio.ensure_future(self._pump(there, writer, left)),
            asyncio.ensure_future(self._live()),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            _reset(writer)
            _reset(back)

    async def _live(self) -> None:
        """Return when a connection has lived for long enough in a bad network."""
        while True:
            await asyncio.sleep(self._random.uniform(0.0, LONGEST_S))
            if self.is_bad:
                self.resets += 1
                return

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[int]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.is_bad:
                    allowed, left[0] = data[: max(0, left[0])], left[0] - len(data)
                    writer.write(allowed)
                    if left[0] <= 0:
                        self.resets += 1
                        return
                else:
                    writer.write(data)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a broken network would."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    writer.transport.abort()
