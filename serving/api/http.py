"""The HTTP API of a worker: one ASGI function without a framework, which would slow decisions.

docs/guide/serving.md has paths and bodies. Every refusal is JSON with ``what`` and ``hint``: 400
for a body that does not fit the loop, 404 for an unknown path, loop or kind of feedback, 405 for a
wrong method, 413 for a body that is too large, and 503 for feedback while the buffer is full.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, NamedTuple

import msgspec

from tidemill.errors import BrokerError, RequestError, TidemillError
from tidemill.serving.api.metrics import exposition, health, registry_of
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.requests import UnknownError
from tidemill.serving.worker import Worker

MAX_BODY_BYTES = 2**20

Message = MutableMapping[str, Any]  # as ASGI defines it
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_encode = msgspec.json.Encoder().encode
_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class Reply(NamedTuple):
    """Status, body and content type of one answer."""

    status: int
    body: bytes
    kind: tuple[bytes, bytes] = _JSON


class HttpRefusal(Exception):  # noqa: N818  # an answer rather than an error
    """A refused request; the answer has *status*, and what and hint of *error*."""

    def __init__(self, status: int, error: TidemillError) -> None:
        super().__init__(error.what)
        self.reply = Reply(status, _encode({"what": error.what, "hint": error.hint}))


def app_of(worker: Worker) -> App:
    """Return the ASGI function that serves *worker*."""
    api = _Api(worker)

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started_s = time.perf_counter()
        try:
            body = await _body(receive)
            reply = api.answer(scope["method"], scope["path"], body, started_s)
        except HttpRefusal as refusal:
            reply = refusal.reply
        worker.answers[reply.status] = worker.answers.get(reply.status, 0) + 1
        headers = [reply.kind, (b"content-length", b"%d" % len(reply.body))]
        if reply.status == 413:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    return app


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body") and len(body) <= MAX_BODY_BYTES:
        message = await receive()
        body += message.get("body", b"")
    if len(body) > MAX_BODY_BYTES:
        error = RequestError(
            f"the body is larger than {MAX_BODY_BYTES} bytes", hint="send smaller batches"
        )
        raise HttpRefusal(413, error)
    return body


class _Api:
    """The routes of one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._registry = registry_of(worker)
        self._pages: dict[str, Callable[[], Reply]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": lambda: Reply(200, exposition(self._registry), _TEXT),
            "/v1/loops": lambda: Reply(200, _encode({"loops": sorted(self._loops())})),
        }
        self._posts = {"decisions": _decide, "feedback": _take_feedback}

    def answer(self, method: str, path: str, body: bytes, started_s: float) -> Reply:
        """Return the answer to one request; raise `HttpRefusal` if it is refused."""
        parts = path.split("/")
        post = self._posts.get(parts[4]) if len(parts) == 5 and parts[1:3] == _LOOPS else None
        if post is None:
            return self._page(method, path, parts)
        if method != "POST":
            raise _wrong_method(method, path, "POST")
        try:
            return post(self._worker.decider(parts[3]), body, started_s)
        except UnknownError as error:
            raise HttpRefusal(404, error) from error
        except RequestError as error:
            raise HttpRefusal(400, error) from error
        except BrokerError as error:
            raise HttpRefusal(503, error) from error

    def _page(self, method: str, path: str, parts: list[str]) -> Reply:
        page = self._pages.get(path)
        is_loop = len(parts) == 4 and parts[1:3] == _LOOPS
        if page is None and not is_loop:
            error = RequestError(f"there is nothing at {path[:200]}", hint=_PATHS)
            raise HttpRefusal(404, error)
        if method not in ("GET", "HEAD"):
            raise _wrong_method(method, path, "GET")
        if page is not None:
            return page()
        try:
            return Reply(200, _encode(_described(self._worker.decider(parts[3]))))
        except UnknownError as error:
            raise HttpRefusal(404, error) from error

    def _loops(self) -> Iterable[str]:
        return list(self._worker.follower.deciders)

    def _healthz(self) -> Reply:
        return Reply(200, _encode(health(self._worker)))

    def _readyz(self) -> Reply:
        if self._worker.ready:
            return Reply(200, _encode({"ready": True}))
        return Reply(503, _encode({"ready": False, "trouble": self._worker.troubles()}))


def _decide(decider: Decider, body: bytes, started_s: float) -> Reply:
    asked = decider.decisions.read(body)
    if isinstance(asked, list):
        results = [decider.decide(request, started_s) for request in asked]
        return Reply(200, _encode({"batch": results}))
    return Reply(200, _encode(decider.decide(asked, started_s)))


def _take_feedback(decider: Decider, body: bytes, started_s: float) -> Reply:
    del started_s
    given = decider.feedback.read(body)
    if isinstance(given, list):
        taken = [{"id": decider.take_feedback(request)} for request in given]
        return Reply(202, _encode({"batch": taken}))
    return Reply(202, _encode({"id": decider.take_feedback(given)}))


def _described(decider: Decider) -> dict[str, object]:
    """Describe a loop to a client, which answers with the default if no worker does."""
    loop = decider.loop
    return {
        "loop": loop.loop,
        "loop_version": loop.version,
        "policy_version": loop.policy.version,
        "default": loop.decision.default,
        "features": {name: str(feature.type) for name, feature in loop.features.items()},
        "feedback": {
            kind: {name: str(value.type) for name, value in feedback.values.items()}
            for kind, feedback in loop.feedback.items()
        },
        "model_version": decider.model.version if decider.model else None,
    }


def _wrong_method(method: str, path: str, right: str) -> HttpRefusal:
    error = RequestError(f"{method} is not for {path[:200]}", hint=f"use {right}")
    return HttpRefusal(405, error)


_LOOPS = ["v1", "loops"]
_PATHS = (
    "POST /v1/loops/LOOP/decisions or /v1/loops/LOOP/feedback; "
    "GET /v1/loops, /healthz, /readyz or /metrics"
)
