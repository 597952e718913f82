"""Answers each HTTP request with one call of a handler and one write.

uvicorn parses requests, keeps their order and closes connections. Between it and a handler there is
no ASGI: a task, four coroutines and two writes for each answer would cost as much as the decision.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import cast

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from tidemill.http_server.replies import CLOSE, FAILED, JSON, Handler, Reply

logger = logging.getLogger(__name__)

_USUAL = STATUS_LINE[200] + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class Outbox:
    """The answers of one iteration of the event loop, over all connections of a server.

    They are sent one after the other at its end. The first one wakes the client, and the next ones
    find it awake: a client that sleeps between them is woken by each, which costs four times as
    much as to send it.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def put(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, data: bytes
    ) -> None:
        """Send *data* soon."""
        if not self._waiting:
            loop.call_soon(self.flush)
        self._waiting.append((transport, data))

    def flush(self) -> None:
        """Send what waits."""
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)


class AnsweringProtocol(HttpToolsProtocol):
    """The HTTP protocol of uvicorn with a `Handler` in the place of an ASGI application.

    The handler runs in the event loop, once the whole body is there and all requests before it have
    been answered.
    """

    outbox: Outbox  # of the server; set when a connection is made
    _due: RequestResponseCycle | None = None  # its request is whole and its turn has come

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: object) -> None:
        """Answer *cycle*, whose turn it is, if its body is there already."""
        del app
        if not cycle.more_body:
            self.loop.call_soon(self._answer, cycle)  # other connections are due between
        elif cycle.waiting_for_100_continue:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def write(self, data: bytes) -> None:
        """Send *data* at once, after the answers that wait."""
        self.outbox.flush()
        self.transport.write(data)

    def on_body(self, body: bytes) -> None:
        """Keep a part of a body; the limits of the connection bound it."""
        if not self.cycle.response_complete:
            self.cycle.body += body

    def on_message_complete(self) -> None:
        """Answer the request unless others wait before it."""
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            if not self.pipeline:
                self._due = cycle

    def answer_due(self) -> None:
        """Answer the request that has just become whole, if any."""
        cycle, self._due = self._due, None
        if cycle is not None:
            self._answer(cycle)

    def _answer(self, cycle: RequestResponseCycle) -> None:
        if cycle.disconnected:
            return
        if self.flow.write_paused:  # the client does not read what it has asked for
            self._later(cycle, self._drained(cycle))
            return
        answer = self._handled(cycle)
        if isinstance(answer, Reply):
            self._send(cycle, answer)
        else:
            self._later(cycle, answer)

    def _handled(self, cycle: RequestResponseCycle) -> Reply | Awaitable[Reply]:
        handler = cast(Handler, self.app)
        try:
            return handler(cycle.scope, bytes(cycle.body))
        except Exception:
            logger.exception("a request failed")
            return FAILED

    async def _drained(self, cycle: RequestResponseCycle) -> Reply:
        await self.flow.drain()
        answer = self._handled(cycle)
        return answer if isinstance(answer, Reply) else await answer

    def _later(self, cycle: RequestResponseCycle, waiting: Awaitable[Reply]) -> None:
        async def finish() -> None:
            try:
                reply = await waiting
            except Exception:
                logger.exception("a request failed")
                reply = FAILED
            self._send(cycle, reply)

        task = self.loop.create_task(finish())
        self.tasks.add(task)  # uvicorn waits for them when it stops
        task.add_done_callback(self.tasks.discard)

    def _send(self, cycle: RequestResponseCycle, reply: Reply) -> None:
        if cycle.disconnected or self.transport.is_closing():
            return
        cycle.response_started = cycle.response_complete = True
        status, body, kind, more = reply
        is_usual = status == 200 and kind is JSON and not more and cycle.keep_alive
        if is_usual and cycle.scope["method"] != "HEAD":
            self.outbox.put(self.loop, self.transport, _USUAL % (len(body), body))
        else:
            cycle.keep_alive = cycle.keep_alive and CLOSE not in more
            self.write(_written(reply, cycle))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


def _written(reply: Reply, cycle: RequestResponseCycle) -> bytes:
    headers = [reply.kind, (b"content-length", b"%d" % len(reply.body)), *reply.headers]
    if not cycle.keep_alive and CLOSE not in headers:
        headers.append(CLOSE)
    lines = [b"%b: %b\r\n" % header for header in headers]
    body = b"" if cycle.scope["method"] == "HEAD" else reply.body
    return b"".join((STATUS_LINE[reply.status], *lines, b"\r\n", body))
