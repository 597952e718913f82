"""A load generator: each connection sends its next request when the answer to the last is there.

With a rate, a connection waits until its next request is due, and counts the time from then: a
server that is late is not spared the requests that it delays.

It reads only as much of an answer as it needs to check it, so one core is enough to load a server
on another.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import uvloop

MOST_WRONG = 0.001  # on a busy machine some answers come from the fallback, for want of time
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(slots=True)
class Load:
    """The results of all connections since the end of the warm-up."""

    requests: Sequence[bytes]
    expected: bytes  # what an answer should hold
    measuring: bool = False
    sent: int = 0
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    last_wrong: bytes = b""

    def next(self) -> bytes:
        """Return the next request, by turns."""
        self.sent += 1
        return self.requests[self.sent % len(self.requests)]


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load, *, first_s: float = 0.0, period_s: float = 0.0) -> None:
        self._load = load
        self._buffer = b""
        self._sent_s = 0.0
        self._due_s = first_s
        self._period_s = period_s
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, but not by class
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        found = _LENGTH.search(self._buffer, 0, end) if end >= 0 else None
        if found is None or len(self._buffer) < end + 4 + int(found[1]):
            return
        load = self._load
        if load.measuring:
            load.seconds.append(time.perf_counter() - self._sent_s)
        if load.expected not in self._buffer:
            load.wrong, load.last_wrong = load.wrong + 1, self._buffer
        self._buffer = b""
        self._send()

    def _send(self) -> None:
        now_s = time.perf_counter()
        if not self._period_s:
            self._sent_s = now_s
            self._transport.write(self._load.next())
            return
        asyncio.get_running_loop().call_later(max(0.0, self._due_s - now_s), self._send_due)

    def _send_due(self) -> None:
        if self._transport.is_closing():  # the measurement has ended
            return
        self._sent_s, self._due_s = self._due_s, self._due_s + self._period_s
        self._transport.write(self._load.next())


@dataclass(frozen=True, slots=True)
class Result:
    """The performance of a server under load."""

    per_second: float
    p99_ms: float


async def _run(
    port: int, load: Load, connections: int, seconds: float, per_second: float | None
) -> Result:
    running = asyncio.get_running_loop()
    period_s = connections / per_second if per_second is not None else 0.0
    begin_s = time.perf_counter()
    opened = []
    for number in range(connections):
        first_s = begin_s + period_s * number / connections
        made = partial(_Connection, load, first_s=first_s, period_s=period_s)
        opened.append(await running.create_connection(made, "127.0.0.1", port))
    await asyncio.sleep(min(2.0, seconds))
    load.measuring = True
    started = time.perf_counter()
    await asyncio.sleep(seconds)
    load.measuring = False
    took = time.perf_counter() - started
    for transport, _ in opened:
        transport.abort()
    if load.wrong > MOST_WRONG * load.sent or not load.seconds:
        raise RuntimeError(f"{load.wrong} answers were wrong, the last one: {load.last_wrong!r}")
    ordered = sorted(load.seconds)
    return Result(len(ordered) / took, ordered[int(len(ordered) * 0.99)] * 1000)


def generate(
    port: int,
    requests: Sequence[bytes],
    *,
    expected: bytes,
    connections: int = 32,
    seconds: float = 10.0,
    per_second: float | None = None,
) -> Result:
    """Send *requests* by turns to this machine's *port* for so long, after a warm-up.

    They are so many *per_second*, or as many as the server answers.

    Raises:
        RuntimeError: more than a few answers did not hold *expected*, or there was none.
    """
    load = Load(requests, expected)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(port, load, connections, seconds, per_second))
