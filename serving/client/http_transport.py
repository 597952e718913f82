"""The transport to workers over HTTP: open connections, round robin, failover, a time budget."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from tidemill.errors import BrokerError, ConfigError, RequestError, TidemillError
from tidemill.serving.client.calls import (
    DecisionCall,
    WorkerCall,
    check_times,
    feedback_call,
    loop_path,
)
from tidemill.serving.client.connection import Address, Connection, Credentials
from tidemill.serving.decision.results import DecisionResult

_SKIPPED_S = 1.0  # how long a worker that did not answer is tried only after the others
_OTHERS_MAY_TAKE_IT = frozenset({404, 429})  # it does not know the loop or kind yet; its rate

T = TypeVar("T")


class _AnswerBatch(msgspec.Struct):
    batch: list[DecisionResult]


class _Default(msgspec.Struct):
    """The default of a loop, which the client answers with if no worker does, and its types."""

    default: bool | float | str | list[str]
    policy_version: int
    loop_version: int
    features: dict[str, str] = {}
    feedback: dict[str, dict[str, str]] = {}

    def answer(self, id: str, baseline: object) -> DecisionResult:
        """Return the decision that no worker made: the *baseline* of its request, or the default.

        Raises:
            RequestError: the baseline has another type than the default.
        """
        action = self.default
        if baseline is not None:
            try:
                action = msgspec.convert(baseline, type(self.default))
            except msgspec.ValidationError as error:
                raise RequestError(
                    f"baseline {baseline!r:.100} is no answer of the loop: {error}",
                    hint=f"send one like the default, {self.default!r}",
                ) from error
        certain = 1.0 if isinstance(action, bool | str) else None  # as a worker's default
        return DecisionResult(
            *(id, action, None, certain, "fallback", None, self.policy_version, self.loop_version)
        )


class _Refused(msgspec.Struct):
    what: str = "the worker gave no reason"
    hint: str = "look at the worker's log"


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
        baseline: object,
    ) -> DecisionResult:
        """Return the decision of a worker, or the default if none answers in time."""
        asked = {"features": features, "entity": entity, "id": id, "at": at, "baseline": baseline}
        return self._decisions(loop, DecisionCall(loop, [asked], is_batch=False))[0]

    def decide_all(self, loop: str, asked: Sequence[Mapping[str, object]]) -> list[DecisionResult]:
        """Return the decisions of a worker, or the loop's default if none answers in time."""
        return self._decisions(loop, DecisionCall(loop, asked, is_batch=True))

    def _decisions(self, loop: str, call: DecisionCall) -> list[DecisionResult]:
        """Return the answer of a worker, or the defaults if none answers."""
        deadline = time.monotonic() + self._budget_s
        try:
            known = self._learn(loop, deadline)
            for item in call.items:
                check_times(item["features"], known.features, "feature")
            results = _results(self._call(call, deadline))
        except BrokerError as error:
            return self._defaults_of(loop, call.items, error)
        if results[0].loop_version > known.loop_version:
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
        deadline = time.monotonic() + self._budget_s
        types = self._learn(loop, deadline).feedback.get(str(kind), {})
        texts = {"decision_id": decision_id, "kind": kind, "id": id}
        self._call(feedback_call(loop, texts, values, at, types), deadline)

    def close(self) -> None:
        """Close the connections that are free; those in use are closed after their call."""
        for host in self._hosts:
            while host.free:
                host.free.pop().close()

    def _learn(self, loop: str, deadline: float) -> _Default:
        """Return the default of *loop*: a worker is asked once, and when the version has changed.

        The default that is known stays until the newer one is: another thread may need it.
        """
        known = self._defaults.get(loop)
        if known is not None and loop not in self._outdated:
            return known
        self._outdated.discard(loop)
        try:
            found = _decoded(_default, self._call(WorkerCall("GET", loop_path(loop)), deadline))
        except BrokerError:
            if known is None:
                raise
            self._outdated.add(loop)
            return known
        if known is not None and found.loop_version < known.loop_version:
            return known
        self._defaults[loop] = found
        return found

    def _defaults_of(
        self, loop: str, asked: Sequence[Mapping[str, object]], error: BrokerError
    ) -> list[DecisionResult]:
        known = self._defaults.get(loop)
        if known is None:
            raise error
        with self._lock:
            self.unanswered += len(asked)
        return [known.answer(str(item["id"]), item.get("baseline")) for item in asked]

    def _call(self, call: WorkerCall, deadline: float) -> bytes:
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

    def _try(self, host: _Host, call: WorkerCall, deadline: float) -> tuple[int, bytes]:
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
