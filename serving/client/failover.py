"""The rules of calls over HTTP: workers in turn, a time budget, defaults, ids. They send nothing.

Each call is a generator: it yields an `Attempt`, is sent the `WorkerAnswer`, and returns the
result. A transport carries the attempts out, and throws into the generator the OSError of one that
failed: `LostCallError` if the worker may have got it. So the blocking and the asynchronous client
have the same rules.
"""

import itertools
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from tidemill.errors import BrokerError, ConfigError, RequestError, TidemillError
from tidemill.serving.client.calls import (
    DecisionCall,
    Given,
    WorkerCall,
    feedback_call,
    loop_path,
)
from tidemill.serving.client.connection import Address
from tidemill.serving.client.loop_default import LoopDefault
from tidemill.serving.decision.results import DecisionResult

_SKIPPED_S = 1.0  # how long a worker that did not answer is tried only after the others
_OTHERS_MAY_TAKE_IT = frozenset({404, 429})  # it does not know the loop or kind yet; its rate

T = TypeVar("T")


class LostCallError(OSError):
    """No answer came to a call that was sent, or may have been.

    Attributes:
        was_reused: whether the connection was an earlier one, which turned out to be closed; not if
            the time was up.
    """

    def __init__(self, reason: BaseException, *, was_reused: bool) -> None:
        super().__init__(str(reason) or type(reason).__name__)
        self.was_reused = was_reused and not isinstance(reason, TimeoutError)


class WorkerHost:
    """One worker, and until when it is skipped."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.skip_until = 0.0


class Attempt(NamedTuple):
    """One request to send to one worker; *deadline* is by `time.monotonic`."""

    host: WorkerHost
    call: WorkerCall
    deadline: float


class WorkerAnswer(NamedTuple):
    """What a worker has answered."""

    status: int
    body: bytes


Exchange = Generator[Attempt, WorkerAnswer, T]
"""A call: attempts out, answers in, the result in the end."""


class _AnswerBatch(msgspec.Struct):
    batch: list[DecisionResult]


class _Refused(msgspec.Struct):
    what: str = "the worker gave no reason"
    hint: str = "look at the worker's log"


_one = msgspec.json.Decoder(DecisionResult)
_many = msgspec.json.Decoder(_AnswerBatch)
_default = msgspec.json.Decoder(LoopDefault)
_refused = msgspec.json.Decoder(_Refused)


class Failover:
    """The calls of one client to its workers; safe to share between threads.

    Args:
        urls: the addresses of the workers.
        budget_ms: how long a call may take, with all attempts.
    """

    def __init__(self, urls: Sequence[str], *, budget_ms: float) -> None:
        if not urls or budget_ms <= 0:
            raise ConfigError(
                f"a client of {len(urls)} workers with a budget of {budget_ms} ms can do nothing",
                hint="name at least one worker, say http://localhost:8700, and a budget over zero",
            )
        self.unanswered = 0
        self.hosts = [WorkerHost(Address.parse(url)) for url in urls]
        self._next_host = itertools.count()
        self._budget_s = budget_ms / 1_000
        self.defaults: dict[str, LoopDefault] = {}
        self._outdated: set[str] = set()  # loops that a worker has in a newer version
        self._lock = threading.Lock()

    def decisions(self, loop: str, call: DecisionCall) -> Exchange[list[DecisionResult]]:
        """Return the answer of a worker, or the defaults if none answers."""
        deadline = time.monotonic() + self._budget_s
        try:
            known = yield from self._learn(loop, deadline)
            for place, asked in enumerate(call.asked):
                known.check_times(asked, call.where(place))
            results = _results((yield from self._call(call, deadline)))
        except BrokerError as error:
            return self._defaults_of(loop, call.asked, error)
        if results[0].loop_version > known.loop_version:
            self._outdated.add(loop)  # a newer version may have another default
        return results

    def feedback(self, loop: str, given: Given) -> Exchange[None]:
        """Return once a worker has taken the feedback."""
        deadline = time.monotonic() + self._budget_s
        known = yield from self._learn(loop, deadline)
        types = known.feedback.get(str(given["kind"]), {})
        yield from self._call(feedback_call(loop, given, types), deadline)

    def _learn(self, loop: str, deadline: float) -> Exchange[LoopDefault]:
        """Return the default of *loop*: a worker is asked once, and when the version has changed.

        The default that is known stays until the newer one is: another thread may need it.
        """
        known = self.defaults.get(loop)
        if known is not None and loop not in self._outdated:
            return known
        self._outdated.discard(loop)
        try:
            body = yield from self._call(WorkerCall("GET", loop_path(loop)), deadline)
            found = _decoded(_default, body)
        except BrokerError:
            if known is None:
                raise
            self._outdated.add(loop)
            return known
        if known is not None and found.loop_version < known.loop_version:
            return known
        self.defaults[loop] = found
        return found

    def _defaults_of(
        self, loop: str, asked: Sequence[Mapping[str, object]], error: BrokerError
    ) -> list[DecisionResult]:
        known = self.defaults.get(loop)
        if known is None:
            raise error
        with self._lock:
            self.unanswered += len(asked)
        return [known.answer(loop, one) for one in asked]

    def _call(self, call: WorkerCall, deadline: float) -> Exchange[bytes]:
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
                status, answer = yield from _tried(Attempt(host, call, share))
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
        tried = ", ".join(host.address.url for host in self.hosts)
        what = trouble.what if isinstance(trouble, TidemillError) else str(trouble)
        return BrokerError(
            f"no worker of {tried} answered in {self._budget_s * 1e3:g} ms: {what}",
            hint="are they up? `tidemill serve` starts one; budget_ms= sets a longer time",
        )

    def _in_turn(self) -> list[WorkerHost]:
        """Return the workers in the order of this call: those that are skipped come last."""
        hosts = self.hosts
        if len(hosts) == 1:
            return hosts
        first = next(self._next_host) % len(hosts)
        now = time.monotonic()
        return sorted(hosts[first:] + hosts[:first], key=lambda host: host.skip_until > now)


def _tried(attempt: Attempt) -> Exchange[WorkerAnswer]:
    """Call one worker, again while only its earlier connections turn out to be closed."""
    while True:
        try:
            return (yield attempt)
        except LostCallError as error:
            attempt.call.lost()
            if not (error.was_reused and attempt.call.may_repeat):
                raise


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
