"""The transport to workers over HTTP: open connections, round robin, failover, a time budget.

**A worker that may have got a decision's id keeps it.** Where no answer came, that worker may have
logged the decision, with an action that nobody took. So the next attempt, and the default that
answers in the end, have a new id; a decision whose id the caller gave is not asked for again.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar
from urllib.parse import quote

import msgspec

from tidemill.errors import BrokerError, ConfigError, RequestError, TidemillError
from tidemill.serving.client.connection import Address, Connection, Credentials
from tidemill.serving.decision.ids import new_id
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.decision.values import sendable

_SKIPPED_S = 1.0  # how long a worker that did not answer is tried only after the others
_OTHERS_MAY_TAKE_IT = frozenset({404, 429})  # it does not know the loop or kind yet; its rate

T = TypeVar("T")


class _AnswerBatch(msgspec.Struct):
    batch: list[DecisionResult]


class _Default(msgspec.Struct):
    """The default of a loop, which the client answers with if no worker does."""

    default: bool | float | str | list[str]
    policy_version: int
    loop_version: int


class _Refused(msgspec.Struct):
    what: str = "the worker gave no reason"
    hint: str = "look at the worker's log"


_encode = msgspec.json.Encoder().encode
_one = msgspec.json.Decoder(DecisionResult)
_many = msgspec.json.Decoder(_AnswerBatch)
_default = msgspec.json.Decoder(_Default)
_refused = msgspec.json.Decoder(_Refused)


class _Call:
    """One request, which may be sent to several workers."""

    def __init__(self, method: str, path: str, body: bytes = b"") -> None:
        self.method = method
        self.path = path
        self.body = body
        self.may_repeat = True

    def lost(self) -> None:
        """Note that a worker may have acted on the request, though it did not answer."""


class _DecisionCall(_Call):
    """Asks for decisions under ids that only one worker gets."""

    def __init__(self, loop: str, asked: Sequence[Mapping[str, object]], *, is_batch: bool) -> None:
        self._is_batch = is_batch
        self._has_own_ids = any(item.get("id") is not None for item in asked)
        self.items: list[dict[str, object]] = [
            {
                "features": sendable(item["features"], "feature"),
                "entity": _text("entity", item.get("entity")),
                "id": new_id() if item.get("id") is None else _text("id", item["id"]),
                "at": _moment(item.get("at")),
            }
            for item in asked
        ]
        super().__init__("POST", f"{_path(loop)}/decisions", self._encoded())

    def lost(self) -> None:
        """Give the decisions new ids."""
        self.items = [{**item, "id": new_id()} for item in self.items]
        self.body = self._encoded()
        self.may_repeat = not self._has_own_ids

    def _encoded(self) -> bytes:
        return _body({"batch": self.items} if self._is_batch else self.items[0])


class _Host:
    """One worker, its free connections, and until when it is skipped."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.free: deque[Connection] = deque()
        self.skip_until = 0.0


class HttpTransport:
    """Sends the calls of a client to its workers; safe to share between threads."""

    def __init__(
        self, urls: Sequence[str], *, budget_ms: float, credentials: Credentials | None = None
    ) -> None:
        if not urls or budget_ms <= 0:
            raise ConfigError(
                f"a client of {len(urls)} workers with a budget of {budget_ms} ms can do nothing",
                hint="name at least one worker, say http://localhost:8700, and a budget over zero",
            )
        self.unanswered = 0
        self._credentials = credentials or Credentials()
        self._hosts = [_Host(Address.parse(url)) for url in urls]
        self._next_host = itertools.count()
        self._budget_s = budget_ms / 1_000
        self._defaults: dict[str, _Default] = {}
        self._outdated: set[str] = set()  # loops that a worker has in a newer version
        self._lock = threading.Lock()

    def decide(
        self,
        loop: str,
        features: Mapping[str, object],
        entity: str | None,
        id: str | None,
        at: datetime | None,
    ) -> DecisionResult:
        """Return the decision of a worker, or the loop's default if none answers in time."""
        asked = {"features": features, "entity": entity, "id": id, "at": at}
        return self._decisions(loop, _DecisionCall(loop, [asked], is_batch=False))[0]

    def decide_all(self, loop: str, asked: Sequence[Mapping[str, object]]) -> list[DecisionResult]:
        """Return the decisions of a worker, or the loop's default if none answers in time."""
        return self._decisions(loop, _DecisionCall(loop, asked, is_batch=True))

    def _decisions(self, loop: str, call: _DecisionCall) -> list[DecisionResult]:
        """Return the answer of a worker, or the defaults if none answers."""
        deadline = time.monotonic() + self._budget_s
        try:
            self._learn(loop, deadline)
            results = _results(self._call(call, deadline))
        except BrokerError as error:
            return self._defaults_of(loop, call.items, error)
        if results[0].loop_version > self._defaults[loop].loop_version:
            self._outdated.add(loop)  # a newer version may have another default
        return results

    def give(
        self,
        loop: str,
        decision_id: str,
        kind: str,
        values: Mapping[str, object],
        id: str,
        at: datetime | None,
    ) -> None:
        """Return once a worker has taken the feedback."""
        texts = {"decision_id": decision_id, "kind": kind, "id": id}
        body = {name: _text(name, text) for name, text in texts.items()}
        body |= {"values": sendable(values), "at": _moment(at)}
        deadline = time.monotonic() + self._budget_s
        self._call(_Call("POST", f"{_path(loop)}/feedback", _body(body)), deadline)

    def close(self) -> None:
        """Close the connections that are free; those in use are closed after their call."""
        for host in self._hosts:
            while host.free:
                host.free.pop().close()

    def _learn(self, loop: str, deadline: float) -> None:
        """Ask a worker for the default of *loop*: once, and again when its version has changed.

        The default that is known stays until the newer one is: another thread may need it.
        """
        known = self._defaults.get(loop)
        if known is not None and loop not in self._outdated:
            return
        self._outdated.discard(loop)
        try:
            found = _decoded(_default, self._call(_Call("GET", _path(loop)), deadline))
        except BrokerError:
            if known is None:
                raise
            self._outdated.add(loop)
            return
        if known is None or found.loop_version >= known.loop_version:
            self._defaults[loop] = found

    def _defaults_of(
        self, loop: str, asked: Sequence[Mapping[str, object]], error: BrokerError
    ) -> list[DecisionResult]:
        known = self._defaults.get(loop)
        if known is None:
            raise error
        with self._lock:
            self.unanswered += len(asked)
        return [
            DecisionResult(
                str(item["id"]),
                known.default,
                None,
                1.0 if isinstance(known.default, bool | str) else None,  # as a worker's default
                "fallback",
                None,
                known.policy_version,
                known.loop_version,
            )
            for item in asked
        ]

    def _call(self, call: _Call, deadline: float) -> bytes:
        """Return the body of the first answer with a status below 300.

        Raises:
            RequestError: a worker refused the request, or no worker knows the loop or kind.
            BrokerError: none took it before *deadline*.
        """
        troubles: list[Exception] = []
        hosts = self._in_turn()
        for left, host in zip(range(len(hosts), 0, -1), hosts, strict=True):
            now = time.monotonic()
            share = now + (deadline - now) / left  # a worker that hangs leaves time for the others
            try:
                status, answer = self._try(host, call, share)
            except OSError as error:
                host.skip_until = time.monotonic() + _SKIPPED_S
                troubles.append(error)
                if call.may_repeat:
                    continue
                break
            host.skip_until = 0.0
            if status < 300:
                return answer
            refused = _reason(answer)
            troubles.append(RequestError(refused.what, hint=refused.hint))
            if status < 500 and status not in _OTHERS_MAY_TAKE_IT:
                raise troubles[-1]
            if status != 404:
                troubles[-1] = BrokerError(refused.what, hint=refused.hint)
        if all(isinstance(trouble, RequestError) for trouble in troubles):
            raise troubles[-1]
        raise self._unanswered(troubles[-1]) from troubles[-1]

    def _unanswered(self, trouble: Exception) -> BrokerError:
        tried = ", ".join(host.address.url for host in self._hosts)
        what = trouble.what if isinstance(trouble, TidemillError) else str(trouble)
        return BrokerError(
            f"no worker of {tried} answered in {self._budget_s * 1e3:g} ms: {what}",
            hint="are they up? `tidemill serve` starts one; budget_ms= sets a longer time",
        )

    def _in_turn(self) -> list[_Host]:
        """Return the workers in the order of this call: those that are skipped come last."""
        hosts = self._hosts
        if len(hosts) == 1:
            return hosts
        first = next(self._next_host) % len(hosts)
        now = time.monotonic()
        return sorted(hosts[first:] + hosts[:first], key=lambda host: host.skip_until > now)

    def _try(self, host: _Host, call: _Call, deadline: float) -> tuple[int, bytes]:
        """Call one worker, over a new connection if its free ones turn out to be closed."""
        while True:
            connection, is_fresh = self._connection(host, deadline)
            try:
                status, answer, is_reusable = connection.call(
                    call.method, call.path, call.body, deadline
                )
            except OSError as error:
                connection.close()
                call.lost()
                if is_fresh or isinstance(error, TimeoutError) or not call.may_repeat:
                    raise
                continue
            if is_reusable:
                host.free.append(connection)
            else:
                connection.close()
            return status, answer

    def _connection(self, host: _Host, deadline: float) -> tuple[Connection, bool]:
        """Return a connection that is open as far as one can see, and whether it is new."""
        while True:
            try:
                connection = host.free.pop()
            except IndexError:
                return Connection(host.address, deadline, self._credentials), True
            if not connection.is_closed_by_worker():
                return connection, False
            connection.close()


def _path(loop: str) -> str:
    return f"/v1/loops/{quote(loop, safe='')}"


def _text(name: str, value: object) -> object:
    if value is None or isinstance(value, str):
        return value
    raise RequestError(f"field {name!r} is {value!r:.100}, no text", hint="send a text")


def _moment(at: object) -> object:
    if not isinstance(at, datetime):
        return _text("at", at)
    return sendable({"at": at}, "field")["at"]


def _body(value: Mapping[str, object]) -> bytes:
    try:
        return _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RequestError(
            f"the request cannot be sent: {error}",
            hint="send texts, numbers, booleans, lists of texts and datetimes with a zone",
        ) from error


def _results(answer: bytes) -> list[DecisionResult]:
    if answer.startswith(b'{"batch"'):
        return _decoded(_many, answer).batch
    return [_decoded(_one, answer)]


def _decoded(decoder: msgspec.json.Decoder[T], answer: bytes) -> T:
    try:
        return decoder.decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BrokerError(
            f"the answer is not that of a worker: {error}",
            hint="is there a worker at that address, and of this version?",
        ) from error


def _reason(answer: bytes) -> _Refused:
    try:
        return _refused.decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Refused()
