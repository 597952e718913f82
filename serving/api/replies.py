"""Answers over HTTP, and refusals with what and hint."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

import msgspec

from tidemill.errors import TidemillError

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
