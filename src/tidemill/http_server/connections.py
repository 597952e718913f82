"""Limits what one connection may take: time, bytes, and a place among the open ones.

uvicorn limits how long a connection stays idle after an answer; it has no limit for headers, bodies
and clients that do not read. `LimitedProtocol` adds them. A connection with half a request has a
deadline, which a timer compares once in a while; a whole request costs two comparisons.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import asdict
from typing import Any, cast

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from tidemill.http_server.answering import AnsweringProtocol, Outbox
from tidemill.http_server.http_limits import HttpCounters, HttpLimits

logger = logging.getLogger(__name__)
logger.setLevel(logging.ERROR)  # uvicorn's warnings about clients: anybody could fill the log

_receive = HttpToolsProtocol.data_received  # a call of `super()` costs as much as a comparison
_LINGER_S = 2.0  # so long a refused client may send on: closed at once, it would lose the answer
_HEAD = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
_WORDS = {
    "malformed": (400, "what came is not HTTP/1.1", "send a request as RFC 9112 has it"),
    "header_s": (408, "the headers took longer than {header_s:g} s", "send them at once"),
    "body_s": (408, "the body took longer than {body_s:g} s", "send it at once, or a smaller one"),
    "body_bytes": (
        413,
        "the body is larger than {body_bytes} bytes",
        "send smaller batches or fewer items",
    ),
    "header_bytes": (431, "the headers are larger than {header_bytes} bytes", "send fewer of them"),
    "connections": (503, "over {connections} connections are open", "try again, or elsewhere"),
    "held_bytes": (503, "too many large bodies arrive at once", "try again, or elsewhere"),
}
"""Status, what and hint of each refusal that this module makes."""


class ConnectionWatch:
    """Compares the deadlines of all connections of a server, and counts what it refuses."""

    def __init__(self, limits: HttpLimits, counters: HttpCounters) -> None:
        self.limits = limits
        self.counters = counters
        self.incomplete: OrderedDict[LimitedProtocol, float] = OrderedDict()
        """Connections with half a request or none yet, the oldest first, and their deadlines."""
        self.open: set[LimitedProtocol] = set()
        self.outbox = Outbox()
        self._period_s = min(1.0, *(each / 4 for each in limits.deadlines_s))
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: "LimitedProtocol") -> None:
        """Watch a new connection; close another one, or it, if there are too many."""
        self.open.add(connection)
        if len(self.open) > self.limits.connections:
            victim = next(iter(self.incomplete))
            if victim is connection:
                victim = next((each for each in self.open if each.is_idle), connection)
            victim.make_room(is_new=victim is connection)
        self.counters.connections = len(self.open)
        if self._timer is None:
            self._timer = connection.loop.call_later(self._period_s, self._compare, connection.loop)

    def remove(self, connection: "LimitedProtocol") -> None:
        """Watch it no longer."""
        self.open.discard(connection)
        self.incomplete.pop(connection, None)
        self.counters.connections = len(self.open)

    def _compare(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in [each for each, until in self.incomplete.items() if until < now]:
            connection.time_is_up()
        for connection in list(self.open):
            connection.check_reader(now)
        self._timer = loop.call_later(self._period_s, self._compare, loop) if self.open else None


class LimitedProtocol(AnsweringProtocol):
    """The HTTP protocol of uvicorn within the limits of a `ConnectionWatch`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        watch: ConnectionWatch,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.outbox = watch.outbox
        self.logger = logger
        self._watch = watch
        self._limits = watch.limits
        self._header_bytes = watch.limits.header_bytes
        self._phase = "idle"  # after handshake; then head, body, whole, refused
        self._received = 0  # bytes of the phase
        self._queued = 0  # bytes that came while requests wait behind another
        self._unread_since: float | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it is kept open for a next request."""
        return self.timeout_keep_alive_task is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect the headers of a request."""
        super().connection_made(cast(asyncio.Transport, transport))  # uvloop's is one, not by class
        self._wait("idle", self._limits.header_s)
        self._watch.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._settle()
        self._release_queued()
        self._watch.remove(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begin the next request; the last one that waited holds nothing any more."""
        super().on_response_complete()
        if self._queued and not self.pipeline:
            self._release_queued()

    def data_received(self, data: bytes) -> None:
        """Pass *data* on, and note whether a request is still incomplete."""
        if self._phase == "refused":
            return
        before = self.cycle
        _receive(self, data)
        cycle = self.cycle
        if self.pipeline or self._queued:
            self._note_queued(len(data))
        if cycle is None or cycle.more_body or self.scope is not cycle.scope:
            self._note_incomplete(data, is_begun=cycle is not before)
        elif cycle.response_complete:  # empty lines after a request: uvicorn's timer is off now
            self._wait("idle", self._limits.header_s)
        elif self._phase != "whole":
            self._settle()
        if len(data) > self._header_bytes and cycle is not None and cycle is not before:
            self._check_head(cycle)
        if self._due is not None:
            self.answer_due()

    def _check_head(self, cycle: RequestResponseCycle) -> None:
        """Refuse a request whose headers came at once and are too large; it has not run yet."""
        headers = cycle.scope["headers"]
        size = len(self.url) + sum(len(name) + len(value) for name, value in headers)
        if size > self._header_bytes and not self.pipeline and self._phase != "refused":
            cycle.more_body = True
            self.refuse("header_bytes")

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio allows it, uvicorn does not
        """Answer the request that is complete, if any, before the connection is closed."""
        cycle = self.cycle
        self.outbox.flush()  # the transport is closed by its loop
        if cycle is None or cycle.response_complete or cycle.more_body or self.scheme == "https":
            return False
        cycle.keep_alive = False
        return True

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser could not read."""
        del msg
        self.refuse("malformed")

    def _note_incomplete(self, data: bytes, *, is_begun: bool) -> None:
        """Count *data*, which ends within a request, for as much as it is of that request.

        Args:
            data: what has arrived.
            is_begun: whether the headers of the newest request ended in it.
        """
        cycle, limits, counters = self.cycle, self._limits, self._watch.counters
        if self._phase == "refused" or self.transport.is_closing() or self.scope is None:
            return
        if cycle is not None and self.scope is cycle.scope:
            if is_begun:
                self._wait("body", limits.body_s)
            received = len(cycle.body) if is_begun else len(data)
            self._received += received
            counters.held_bytes += received
            if self._received > limits.body_bytes + limits.header_bytes:
                self.refuse("body_bytes")
            elif counters.held_bytes > limits.held_bytes:
                self.refuse("held_bytes")
        elif cycle is None or cycle.response_complete:  # else it waits behind another request
            is_of_another = is_begun or self._phase == "body"  # at its beginning
            if self._phase != "head":
                self._wait("head", limits.header_s)
            self._received += 0 if is_of_another else len(data)
            if self._received > limits.header_bytes:
                self.refuse("header_bytes")

    def _note_queued(self, received: int) -> None:
        """Count what a client sends while it does not wait for answers."""
        counters, limits = self._watch.counters, self._limits
        if not self.pipeline:
            self._release_queued()
            return
        self._queued += received
        counters.held_bytes += received
        if self._queued > limits.body_bytes or counters.held_bytes > limits.held_bytes:
            counters.refused["held_bytes"] += 1
            self._release_queued()
            self.transport.abort()

    def _release_queued(self) -> None:
        """Count no longer what waited behind another request."""
        self._watch.counters.held_bytes -= self._queued
        self._queued = 0

    def _wait(self, phase: str, seconds: float) -> None:
        self._settle()
        self._phase = phase
        self._watch.incomplete[self] = self.loop.time() + seconds

    def _settle(self) -> None:
        """Note that no request is incomplete now."""
        if self._phase == "body":
            self._watch.counters.held_bytes -= self._received
        self._phase = "whole"
        self._received = 0
        self._watch.incomplete.pop(self, None)

    def refuse(self, reason: str) -> None:
        """Answer with the refusal for *reason*, read nothing more, and close soon."""
        self._watch.counters.refused[reason] += 1
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self.pipeline or not cycle.more_body:  # answers of other requests are due first
                self.transport.abort()
                return
            cycle.disconnected = True
        status, what, hint = _WORDS[reason]
        said = {"what": what.format(**asdict(self._limits)), "hint": hint}
        body = msgspec.json.encode(said)
        self.write(STATUS_LINE[status] + _HEAD % len(body) + body)
        self.flow.resume_reading()
        self._wait("refused", _LINGER_S)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def make_room(self, *, is_new: bool) -> None:
        """Close at once, because too many connections are open; say so to a client who asked."""
        if is_new or self._phase in ("head", "body"):
            self.refuse("connections")
            self.transport.close()
        else:
            self._watch.counters.refused["connections"] += 1
            self.transport.abort()
        self._watch.remove(self)

    def time_is_up(self) -> None:
        """Act on a deadline that has passed."""
        if self.flow.read_paused:  # it waits for this server
            self._watch.incomplete[self] = self.loop.time() + self._limits.body_s
        elif self._phase in ("head", "body"):
            self.refuse("header_s" if self._phase == "head" else "body_s")
        else:  # it has sent nothing, or goes on after a refusal
            self._settle()
            self.transport.abort()

    def check_reader(self, now: float) -> None:
        """Close the connection if its client has not read an answer for too long."""
        if not self.transport.get_write_buffer_size():
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since > self._limits.write_s:
            self._watch.counters.refused["write_s"] += 1
            self.transport.abort()
