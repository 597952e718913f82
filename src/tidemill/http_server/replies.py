"""Answers over HTTP, and refusals with what and hint."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from tidemill.errors import RequestError, TidemillError

Scope = Mapping[str, Any]  # method, path, headers and so on, as ASGI defines them
Headers = tuple[tuple[bytes, bytes], ...]

encode = msgspec.json.Encoder().encode
JSON = (b"content-type", b"application/json")
TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
CLOSE = (b"connection", b"close")


class Reply(NamedTuple):
    """Status, body, content type and further headers of one answer."""

    status: int
    body: bytes
    kind: tuple[bytes, bytes] = JSON
    headers: Headers = ()


Handler = Callable[[Scope, bytes], Reply | Awaitable[Reply]]
"""Answers a request, of which it gets the head and the whole body."""


class HttpRefusal(Exception):  # noqa: N818  # an answer rather than an error
    """A refused request; the answer has *status* and *headers*, and what and hint of *error*."""

    def __init__(self, status: int, error: TidemillError, headers: Headers = ()) -> None:
        super().__init__(error.what)
        body = encode({"what": error.what, "hint": error.hint})
        self.reply = Reply(status, body, headers=headers)


FAILED = Reply(
    500,
    encode({"what": "the server failed on this request", "hint": "its log says why"}),
)
"""The answer to a request on which a handler failed."""


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
