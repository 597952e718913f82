"""Who may call a worker over HTTP: bearer tokens with scopes and rates, and pages of browsers.

Without a file of tokens everybody may, which is why such a server listens on this machine alone. A
page of a browser may call only if its origin is listed: other requests with an origin are refused,
because a browser sends them for any page that somebody looks at.
"""

import logging
import time
from collections.abc import Iterable

from tidemill.access import Token, TokenList
from tidemill.errors import RequestError
from tidemill.http_server.http_limits import HttpCounters
from tidemill.http_server.replies import Headers, HttpRefusal, Reply, Scope
from tidemill.watched_file import WatchedFile

logger = logging.getLogger(__name__)

_READ = frozenset((b"authorization", b"origin", b"content-encoding"))
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)
_SEND_TOKEN = "send the header `Authorization: Bearer TOKEN`; the operator of the worker has one"
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type"),
    (b"access-control-max-age", b"600"),
)


class HttpAccess:
    """Admits requests.

    Args:
        tokens: the tokens; None if none is asked for.
        origins: the origins whose pages may call, as ``https://shop.example``.
        counters: count the refusals.
    """

    def __init__(
        self,
        tokens: WatchedFile[TokenList] | None = None,
        origins: Iterable[str] = (),
        counters: HttpCounters | None = None,
    ) -> None:
        self._tokens = tokens
        self._origins = frozenset(origin.rstrip("/").encode() for origin in origins)
        self._counters = counters or HttpCounters()
        self._everybody = Caller(self)
        self._told: str | None = None
        self._levels: dict[str, tuple[float, float]] = {}  # by token: what is left, and since when

    @property
    def trouble(self) -> str | None:
        """Why the file of tokens could not be read again, or None."""
        return self._tokens.trouble if self._tokens is not None else None

    def admit(self, scope: Scope) -> "Caller":
        """Return who sends the request *scope*.

        Raises:
            HttpRefusal: its origin is not listed, it has no valid token, or its body is packed.
        """
        if self._tokens is None:
            for name, _value in scope["headers"]:
                if name in _READ:
                    break
            else:
                return self._everybody
        found = {name: value for name, value in scope["headers"] if name in _READ}
        origin = found.get(b"origin")
        if origin is not None and origin not in self._origins:
            raise self._refused("origin", 403, f"pages of {_shown(origin)} may not call", _LIST)
        headers = () if origin is None else _allowed(origin)
        if scope["method"] == "OPTIONS" and origin is not None:
            raise Preflight(headers + _PREFLIGHT)
        packed = found.get(b"content-encoding", b"identity")
        if packed.lower() != b"identity":
            error = RequestError(f"the body is packed as {_shown(packed)}", hint="send it as it is")
            raise HttpRefusal(415, error, headers)
        if self._tokens is None or scope["path"] == "/readyz":
            return Caller(self, headers, is_anybody=self._tokens is not None)
        return Caller(self, headers, self._token(found.get(b"authorization"), headers))

    def _token(self, sent: bytes | None, headers: Headers) -> Token:
        kind, _, text = (sent or b"").partition(b" ")
        tokens = self._known_tokens()
        token = tokens.find(text.strip()) if kind.lower() == b"bearer" else None
        if token is None:
            what = "there is no token" if sent is None else "the token is not known here"
            raise self._refused("token", 401, what, _SEND_TOKEN, headers + _CHALLENGE)
        return token

    def _known_tokens(self) -> TokenList:
        """Return the tokens as of now; log once if their file has become wrong."""
        if self._tokens is None:
            return TokenList(())
        found, trouble = self._tokens.value, self._tokens.trouble
        if trouble is not None and trouble != self._told:
            logger.warning("%s", trouble)
        self._told = trouble
        return found

    def _refused(
        self, reason: str, status: int, what: str, hint: str, headers: Headers = ()
    ) -> HttpRefusal:
        self._counters.refused[reason] += 1
        return HttpRefusal(status, RequestError(what, hint=hint), headers)

    def require(self, caller: "Caller", scopes: tuple[str, ...], loop: str | None) -> None:
        """Refuse *caller* unless it has one of *scopes*, for *loop* if one is named."""
        token = caller.token
        if token is None or not any(token.may(scope, loop) for scope in scopes):
            name = token.name if token is not None else "anybody"
            what = f"{name} has not the scope {' or '.join(scopes)}"
            what += f" for the loop {loop[:100]!r}" if loop is not None else ""
            hint = "ask the operator of the worker to add it to the token"
            raise self._refused("token", 403, what, hint)

    def charge(self, token: Token, count: int) -> None:
        """Take *count* from what *token* may send now, which grows by its rate.

        Whoever has anything left may send a whole batch, and then waits for longer.
        """
        if token.rate is None:
            return
        now = time.monotonic()
        left, since = self._levels.get(token.name, (token.rate, now))
        left = min(token.rate, left + (now - since) * token.rate)
        if left <= 0:
            wait_s = max(1, round(-left / token.rate))
            retry = ((b"retry-after", b"%d" % wait_s),)
            what = f"{token.name} sends more than {token.rate:g} events a second"
            raise self._refused("rate", 429, what, f"wait {wait_s} s", retry)
        self._levels[token.name] = (left - count, now)


class Caller:
    """Who sent a request, and what the answer says about that to a browser."""

    __slots__ = ("_access", "headers", "is_anybody", "is_free", "token")

    def __init__(
        self,
        access: HttpAccess,
        headers: Headers = (),
        token: Token | None = None,
        *,
        is_anybody: bool = False,
    ) -> None:
        self._access = access
        self.headers = headers
        self.token = token
        self.is_anybody = is_anybody  # no token, though others need one
        self.is_free = token is None and not is_anybody  # nothing to require or to charge

    def require(self, *scopes: str, loop: str | None = None) -> None:
        """Return if the caller has one of *scopes*, for *loop* if one is named.

        Raises:
            HttpRefusal: it has none of them.
        """
        if not self.is_free:
            self._access.require(self, scopes, loop)

    def sees(self, loop: str) -> bool:
        """Return whether *loop* is one of the caller's."""
        return self.token is None or not self.token.loops.isdisjoint((loop, "*"))

    def charge(self, count: int) -> None:
        """Return if the caller may send *count* more events.

        Raises:
            HttpRefusal: it has sent more than its rate.
        """
        if self.token is not None:
            self._access.charge(self.token, count)


class Preflight(HttpRefusal):
    """The answer to a browser that asks whether a page may call."""

    def __init__(self, headers: Headers) -> None:
        super().__init__(204, RequestError("", hint=""), headers)
        self.reply = Reply(204, b"", headers=headers)


def _allowed(origin: bytes) -> Headers:
    return ((b"access-control-allow-origin", origin), (b"vary", b"origin"))


def _shown(value: bytes) -> str:
    return ascii(value.decode("latin-1"))[1:-1][:100]


_LIST = "add the origin with --cors-origin when the worker is started"
