"""The transport to workers over HTTP: open connections, round robin, failover, a time budget."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

import msgspec

from tidemill.errors import BrokerError, ConfigError, RequestError
from tidemill.serving.client.connection import Address, Connection
from tidemill.serving.decision.ids import new_id
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.decision.values import plain

_SKIPPED_S = 1.0  # how long a worker that did not answer is tried only after the others


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


def _encode_other(value: object) -> object:
    found = plain(value)
    if found is value:
        raise TypeError(f"{type(value).__name__} cannot be sent")
    return found


_encode = msgspec.json.Encoder(enc_hook=_encode_other).encode
_one = msgspec.json.Decoder(DecisionResult)
_many = msgspec.json.Decoder(_AnswerBatch)
_default = msgspec.json.Decoder(_Default)
_refused = msgspec.json.Decoder(_Refused)


class _Host:
    """One worker, its free connections, and until when it is skipped."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.free: deque[Connection] = deque()
        self.skip_until = 0.0


class HttpTransport:
    """Sends the calls of a client to its workers; safe to share between threads."""

    def __init__(self, urls: Sequence[str], *, budget_ms: float) -> None:
        if not urls or budget_ms <= 0:
            raise ConfigError(
                f"a client of {len(urls)} workers with a budget of {budget_ms} ms can do nothing",
                hint="name at least one worker, say http://localhost:8700, and a budget over zero",
            )
        self.unanswered = 0
        self._hosts = [_Host(Address.parse(url)) for url in urls]
        self._next_host = itertools.count()
        self._budget_s = budget_ms / 1_000
        self._defaults: dict[str, _Default] = {}
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
        # The id is made here, so that a second attempt is the same decision for the join.
        asked = {"features": features, "entity": entity, "id": id or new_id(), "at": at}
        answer = self._decisions(loop, asked, [asked])
        if not isinstance(answer, bytes):
            return answer[0]
        result = _one.decode(answer)
        if result.loop_version != self._defaults[loop].loop_version:
            self._defaults.pop(loop, None)  # a newer loop may have another default
        return result

    def decide_all(self, loop: str, asked: Sequence[Mapping[str, object]]) -> list[DecisionResult]:
        """Return the decisions of a worker, or the loop's default if none answers in time."""
        named = [{**item, "id": item.get("id") or new_id()} for item in asked]
        answer = self._decisions(loop, {"batch": named}, named)
        return _many.decode(answer).batch if isinstance(answer, bytes) else answer

    def _decisions(
        self, loop: str, body: Mapping[str, object], asked: Sequence[Mapping[str, object]]
    ) -> bytes | list[DecisionResult]:
        """Return the answer of a worker, or the defaults if none answers."""
        deadline = time.monotonic() + self._budget_s
        path = _path(loop)
        try:
            self._learn(loop, deadline)
            return self._call("POST", f"{path}/decisions", _body(body), deadline)
        except BrokerError as error:
            return self._defaults_of(loop, asked, error)

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
        body = {"decision_id": decision_id, "kind": kind, "values": values, "id": id, "at": at}
        deadline = time.monotonic() + self._budget_s
        self._call("POST", f"{_path(loop)}/feedback", _body(body), deadline)

    def close(self) -> None:
        """Close the connections that are free; those in use are closed after their call."""
        for host in self._hosts:
            while host.free:
                host.free.pop().close()

    def _learn(self, loop: str, deadline: float) -> None:
        """Ask a worker for the default of *loop*, once."""
        if loop not in self._defaults:
            answer = self._call("GET", _path(loop), b"", deadline)
            self._defaults[loop] = _default.decode(answer)

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

    def _call(self, method: str, path: str, body: bytes, deadline: float) -> bytes:
        """Return the body of the first answer with a status below 300.

        Raises:
            RequestError: a worker refused the request.
            BrokerError: none answered before *deadline*, or the buffers of all are full.
        """
        trouble: Exception | None = None
        hosts = self._in_turn()
        for left, host in zip(range(len(hosts), 0, -1), hosts, strict=True):
            now = time.monotonic()
            share = now + (deadline - now) / left  # a worker that hangs leaves time for the others
            try:
                status, answer = self._try(host, method, path, body, share)
            except OSError as error:
                host.skip_until = time.monotonic() + _SKIPPED_S
                trouble = error
                continue
            host.skip_until = 0.0
            if status < 300:
                return answer
            refused = _reason(answer)
            trouble = RequestError(refused.what, hint=refused.hint)
            if status < 500:
                raise trouble
        tried = ", ".join(host.address.url for host in self._hosts)
        raise BrokerError(
            f"no worker of {tried} answered in {self._budget_s * 1e3:g} ms: {trouble}",
            hint="are they up? `tidemill serve` starts one; budget_ms= sets a longer time",
        ) from trouble

    def _in_turn(self) -> list[_Host]:
        """Return the workers in the order of this call: those that are skipped come last."""
        hosts = self._hosts
        if len(hosts) == 1:
            return hosts
        first = next(self._next_host) % len(hosts)
        now = time.monotonic()
        return sorted(hosts[first:] + hosts[:first], key=lambda host: host.skip_until > now)

    def _try(
        self, host: _Host, method: str, path: str, body: bytes, deadline: float
    ) -> tuple[int, bytes]:
        """Call one worker, over a new connection if its free ones turn out to be closed."""
        while True:
            try:
                connection, is_fresh = host.free.pop(), False
            except IndexError:
                connection, is_fresh = Connection(host.address, deadline), True
            try:
                status, answer, is_reusable = connection.call(method, path, body, deadline)
            except OSError as error:
                connection.close()
                if is_fresh or isinstance(error, TimeoutError):
                    raise
                continue
            if is_reusable:
                host.free.append(connection)
            else:
                connection.close()
            return status, answer


def _path(loop: str) -> str:
    return f"/v1/loops/{quote(loop, safe='')}"


def _body(value: Mapping[str, object]) -> bytes:
    try:
        return _encode(value)
    except (TypeError, ValueError, UnicodeEncodeError, OverflowError) as error:
        raise RequestError(
            f"the request cannot be sent: {error}",
            hint="send texts, numbers, booleans, lists of texts and aware datetimes",
        ) from error


def _reason(answer: bytes) -> _Refused:
    try:
        return _refused.decode(answer)
    except msgspec.MsgspecError:
        return _Refused()
