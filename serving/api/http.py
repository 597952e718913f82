"""The HTTP API of a worker: one function without a framework, which would slow decisions.

docs/guide/serving.md has paths, bodies and statuses. Every refusal is JSON with ``what`` and
``hint``. A request has no effect before all of it has been checked; feedback is answered once Kafka
has it.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tidemill.errors import BrokerError, RequestError, TidemillError
from tidemill.http_server.callers import Caller, HttpAccess
from tidemill.http_server.http_limits import HttpCounters, HttpLimits
from tidemill.http_server.replies import (
    CLOSE,
    TEXT,
    Handler,
    Headers,
    HttpRefusal,
    Reply,
    Scope,
    check_read,
    encode,
    wrong_method,
)
from tidemill.serving.api.descriptions import described, openapi
from tidemill.serving.api.metrics import exposition, health, registry_of
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import Event
from tidemill.serving.decision.requests import DecisionRequest, UnknownError
from tidemill.serving.worker import Worker

MAX_BODY_BYTES = HttpLimits().body_bytes
_SLICE_S = 0.005  # so long a batch keeps others waiting
_RETRY = ((b"retry-after", b"1"),)

T = TypeVar("T")
R = TypeVar("R")


def handler_of(
    worker: Worker,
    *,
    limits: HttpLimits | None = None,
    access: HttpAccess | None = None,
    counters: HttpCounters | None = None,
) -> Handler:
    """Return what answers requests to *worker*.

    Args:
        worker: makes the decisions.
        limits: the largest body, and how long feedback may wait for Kafka.
        access: who may call; None for everybody.
        counters: what the server has refused.
    """
    limits = limits or HttpLimits()
    counters = counters or HttpCounters()
    access = access or HttpAccess(counters=counters)
    api = _Api(worker, access, limits, counters)
    answers = worker.answers

    def handle(scope: Scope, body: bytes) -> Reply | Awaitable[Reply]:
        started_s = time.perf_counter()
        headers: Headers = ()
        try:
            caller = access.admit(scope)
            headers = caller.headers
            reply = api.answer(scope["method"], scope["path"], body, caller, started_s)
        except (HttpRefusal, TidemillError) as error:
            reply = _refusal(error)
        if isinstance(reply, Reply):
            return finished(reply, headers)
        return wait(reply, headers)

    async def wait(waiting: Awaitable[Reply], headers: Headers) -> Reply:
        try:
            reply = await waiting
        except (HttpRefusal, TidemillError) as error:
            reply = _refusal(error)
        return finished(reply, headers)

    def finished(reply: Reply, headers: Headers) -> Reply:
        answers[reply.status] = answers.get(reply.status, 0) + 1
        return reply._replace(headers=reply.headers + headers) if headers else reply

    return handle


class _Api:
    """The routes of one worker."""

    def __init__(
        self, worker: Worker, access: HttpAccess, limits: HttpLimits, counters: HttpCounters
    ) -> None:
        self._worker = worker
        self._access = access
        self._limits = limits
        self._registry = registry_of(worker, counters)
        self._pages: dict[str, Callable[[Caller], Reply]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/v1/loops": self._list,
            "/openapi.json": self._openapi,
        }
        self._posts = {"decisions": self._decide, "feedback": self._take_feedback}

    def answer(
        self, method: str, path: str, body: bytes, caller: Caller, started_s: float
    ) -> Reply | Awaitable[Reply]:
        """Return the answer to one request, or what to wait for; raise if it is refused."""
        if len(body) > self._limits.body_bytes:
            what = f"the body is larger than {self._limits.body_bytes} bytes"
            error = RequestError(what, hint="send smaller batches or fewer items")
            raise HttpRefusal(413, error, (CLOSE,))
        parts = path.split("/")
        post = self._posts.get(parts[4]) if len(parts) == 5 and parts[1:3] == _LOOPS else None
        if post is None:
            return self._page(method, path, parts, caller)
        if method != "POST":
            raise wrong_method(method, path, "POST")
        return post(parts[3], body, caller, started_s)

    def _page(self, method: str, path: str, parts: list[str], caller: Caller) -> Reply:
        page = self._pages.get(path)
        is_loop = len(parts) == 4 and parts[1:3] == _LOOPS
        check_read(method, path, is_there=page is not None or is_loop, paths=_PATHS)
        if page is not None:
            return page(caller)
        caller.require("decide", "feedback", "loops", "admin", loop=parts[3])
        return Reply(200, encode(described(self._worker.decider(parts[3]))))

    def _list(self, caller: Caller) -> Reply:
        caller.require("loops", "admin")
        return Reply(200, encode({"loops": sorted(self._worker.follower.deciders)}))

    def _openapi(self, caller: Caller) -> Reply:
        caller.require("decide", "feedback", "loops", "admin")
        deciders = self._worker.follower.deciders
        seen = [one for name, one in deciders.items() if caller.sees(name)]
        return Reply(200, encode(openapi(seen)))

    def _metrics(self, caller: Caller) -> Reply:
        caller.require("observe", "admin")
        return Reply(200, exposition(self._registry), TEXT)

    def _healthz(self, caller: Caller) -> Reply:
        caller.require("observe", "admin")
        page = health(self._worker)
        if self._access.trouble is not None:
            page["trouble"] = [*self._worker.troubles(), self._access.trouble]
        return Reply(200, encode(page))

    def _readyz(self, caller: Caller) -> Reply:
        is_ready = self._worker.ready
        page: dict[str, object] = {"ready": is_ready, "pid": os.getpid()}
        if not is_ready and not caller.is_anybody:
            page["trouble"] = self._worker.troubles()
        return Reply(200 if is_ready else 503, encode(page))

    def _decide(
        self, loop: str, body: bytes, caller: Caller, started_s: float
    ) -> Reply | Awaitable[Reply]:
        if not caller.is_free:
            caller.require("decide", loop=loop)
        decider = self._worker.deciding(loop)
        asked = decider.decisions.read(body)
        if isinstance(asked, list):
            caller.charge(len(asked))
            return self._decide_all(decider, asked, started_s)
        if not caller.is_free:
            caller.charge(1)
        return Reply(200, encode(decider.decide(asked, started_s)))

    async def _decide_all(
        self, decider: Decider, asked: Sequence[DecisionRequest], started_s: float
    ) -> Reply:
        made = await _in_slices(lambda one: decider.prepare(one, started_s), asked)
        return Reply(200, encode({"batch": decider.log_all(made)}))

    async def _take_feedback(
        self, loop: str, body: bytes, caller: Caller, started_s: float
    ) -> Reply:
        del started_s
        caller.require("feedback", loop=loop)
        decider = self._worker.decider(loop)
        given = decider.feedback.read(body)
        requests = given if isinstance(given, list) else [given]
        caller.charge(len(requests))
        made = await _in_slices(decider.feedback_event, requests)
        await self._acknowledged([event for _id, event in made])
        decider.counters.feedback += len(made)
        taken = [{"id": feedback_id} for feedback_id, _event in made]
        return Reply(202, encode({"batch": taken} if isinstance(given, list) else taken[0]))

    async def _acknowledged(self, events: Sequence[Event]) -> None:
        """Return once Kafka has all *events*.

        Raises:
            BrokerError: it has not taken all of them in time; it may have some.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[str | None] = loop.create_future()

        def tell(trouble: str | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_set, done, trouble)

        self._worker.log.deliver(events, tell)
        try:
            trouble = await asyncio.wait_for(done, self._limits.acknowledge_s)
        except TimeoutError:
            trouble = f"no answer of Kafka in {self._limits.acknowledge_s:g} s"
        if trouble is not None:
            raise BrokerError(
                f"the feedback was not logged: {trouble}",
                hint="send it again later with the same id; check whether the brokers are up",
            )


def _refusal(error: HttpRefusal | TidemillError) -> Reply:
    """Return the answer to a request that raised *error*."""
    match error:
        case HttpRefusal():
            return error.reply
        case UnknownError():
            return HttpRefusal(404, error).reply
        case RequestError():
            return HttpRefusal(400, error).reply
        case _:
            return HttpRefusal(503, error, _RETRY).reply


def _set(future: "asyncio.Future[str | None]", trouble: str | None) -> None:
    if not future.done():
        future.set_result(trouble)


async def _in_slices(make: Callable[[T], R], requests: Sequence[T]) -> list[R]:
    """Return what *make* makes of each request; between slices of time others have their turn.

    Raises:
        RequestError: a request cannot be an event; in a batch the error names its place.
    """
    made: list[R] = []
    until_s = time.perf_counter() + _SLICE_S
    for place, request in enumerate(requests):
        try:
            made.append(make(request))
        except RequestError as error:
            where = f"batch[{place}]: " if len(requests) > 1 else ""
            raise RequestError(f"{where}{error.what}", hint=error.hint) from error
        if time.perf_counter() > until_s:
            await asyncio.sleep(0)
            until_s = time.perf_counter() + _SLICE_S
    return made


_LOOPS = ["v1", "loops"]
_PATHS = (
    "POST /v1/loops/LOOP/decisions or /v1/loops/LOOP/feedback; "
    "GET /v1/loops, /openapi.json, /healthz, /readyz or /metrics"
)
