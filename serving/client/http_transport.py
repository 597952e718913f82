"""The blocking transport to workers over HTTP: it keeps connections open between calls."""

from collections import deque
from collections.abc import Sequence
from typing import TypeVar

from tidemill.serving.client.calls import Asked, DecisionCall, Given
from tidemill.serving.client.connection import Connection, Credentials
from tidemill.serving.client.failover import (
    Attempt,
    Exchange,
    Failover,
    LostCallError,
    WorkerAnswer,
)
from tidemill.serving.decision.results import DecisionResult

T = TypeVar("T")


class HttpTransport:
    """Sends the calls of a client to its workers; safe to share between threads."""

    def __init__(
        self, urls: Sequence[str], *, budget_ms: float, credentials: Credentials | None = None
    ) -> None:
        self.rules = Failover(urls, budget_ms=budget_ms)
        self._credentials = credentials or Credentials()
        self._free = {host: deque[Connection]() for host in self.rules.hosts}

    @property
    def unanswered(self) -> int:
        """How many decisions no worker answered in time."""
        return self.rules.unanswered

    def decide(self, loop: str, asked: Asked) -> DecisionResult:
        """Return the decision of a worker, or the default if none answers in time."""
        call = DecisionCall(loop, [asked], is_batch=False)
        return self._carried_out(self.rules.decisions(loop, call))[0]

    def decide_all(self, loop: str, asked: Sequence[Asked]) -> list[DecisionResult]:
        """Return the decisions of a worker, or the loop's default if none answers in time."""
        call = DecisionCall(loop, asked, is_batch=True)
        return self._carried_out(self.rules.decisions(loop, call))

    def give(self, loop: str, given: Given) -> None:
        """Return once a worker has taken the feedback."""
        self._carried_out(self.rules.feedback(loop, given))

    def close(self) -> None:
        """Close the connections that are free; those in use are closed after their call."""
        for free in self._free.values():
            while free:
                free.pop().close()

    def _carried_out(self, exchange: Exchange[T]) -> T:
        """Send the attempts of *exchange* and return its result."""
        try:
            attempt = next(exchange)
            while True:
                try:
                    answer = self._sent(attempt)
                except OSError as error:
                    attempt = exchange.throw(error)
                else:
                    attempt = exchange.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _sent(self, attempt: Attempt) -> WorkerAnswer:
        call, free = attempt.call, self._free[attempt.host]
        connection, is_fresh = self._connection(attempt)
        try:
            status, answer, is_reusable = connection.call(
                call.method, call.path, call.body, attempt.deadline
            )
        except OSError as error:
            connection.close()
            raise LostCallError(error, was_reused=not is_fresh) from error
        if is_reusable:
            free.append(connection)
        else:
            connection.close()
        return WorkerAnswer(status, answer)

    def _connection(self, attempt: Attempt) -> tuple[Connection, bool]:
        """Return a connection that is open as far as one can see, and whether it is new."""
        free = self._free[attempt.host]
        while True:
            try:
                connection = free.pop()
            except IndexError:
                return Connection(attempt.host.address, attempt.deadline, self._credentials), True
            if not connection.is_closed_by_worker():
                return connection, False
            connection.close()
