"""Answers over HTTP, and refusals with what and hint."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

import msgspec

from tidemill.errors import RequestError, TidemillError

Message = MutableMapping[str, Any]  # as ASGI defines it
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

encode = msgspec.json.Encoder().encode
JSON = (b"content-type", b"application/json")
TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class Reply(NamedTuple):
    """Status, body, content type and further headers of one answer."""

    status: int
    body: bytes
    kind: tuple[bytes, bytes] = JSON
    headers: Headers = ()


class HttpRefusal(Exception):  # noqa: N818  # an answer rather than an error
    """A refused request; the answer has *status* and *headers*, and what and hint of *error*."""

    def __init__(self, status: int, error: TidemillError, headers: Headers = ()) -> None:
        super().__init__(error.what)
        body = encode({"what": error.what, "hint": error.hint})
        self.reply = Reply(status, body, headers=headers)


async def send_reply(send: Send, reply: Reply) -> None:
    """Send *reply* as the answer to a request."""
    headers = [reply.kind, (b"content-length", b"%d" % len(reply.body)), *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def read_body(receive: Receive, keep_bytes: int) -> bytes | None:
    """Return the whole body, or its first bytes if it is larger; None if it did not arrive."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        return body
    parts = bytearray()
    while message["type"] == "http.request":
        if len(parts) <= keep_bytes:
            parts += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(parts)
        message = await receive()
    return None


def check_read(method: str, path: str, *, is_there: bool, paths: str) -> None:
    """Return if *path* is there and *method* reads it; *paths* says in words what is there.

    Raises:
        HttpRefusal: otherwise.
    """
    if not is_there:
        raise HttpRefusal(404, RequestError(f"there is nothing at {path[:200]}", hint=paths))
    if method not in ("GET", "HEAD"):
        raise wrong_method(method, path, "GET, HEAD")


def wrong_method(method: str, path: str, right: str) -> HttpRefusal:
    """Return the refusal of a *method* that is not the *right* one for *path*."""
    error = RequestError(f"{method} is not for {path[:200]}", hint=f"use {right}")
    return HttpRefusal(405, error, ((b"allow", right.encode()),))
