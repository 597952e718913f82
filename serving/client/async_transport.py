"""The transports of the asynchronous client: over HTTP by aiohttp, and to a worker in process."""

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeVar

from tidemill.serving.client.calls import Asked, DecisionCall, Given
from tidemill.serving.client.client import ClientTransport
from tidemill.serving.client.connection import Credentials
from tidemill.serving.client.failover import (
    Attempt,
    Exchange,
    Failover,
    LostCallError,
    WorkerAnswer,
)
from tidemill.serving.decision.results import DecisionResult

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")


class AsyncHttpTransport:
    """Sends the calls of a client to its workers, for the tasks of one event loop."""

    def __init__(
        self, urls: Sequence[str], *, budget_ms: float, credentials: Credentials | None = None
    ) -> None:
        self.rules = Failover(urls, budget_ms=budget_ms)
        self._credentials = credentials or Credentials()
        self._session: aiohttp.ClientSession | None = None

    @property
    def unanswered(self) -> int:
        """How many decisions no worker answered in time."""
        return self.rules.unanswered

    async def decide(self, loop: str, asked: Asked) -> DecisionResult:
        """Return the decision of a worker, or the default if none answers in time."""
        call = DecisionCall(loop, [asked], is_batch=False)
        return (await self._carried_out(self.rules.decisions(loop, call)))[0]

    async def decide_all(self, loop: str, asked: Sequence[Asked]) -> list[DecisionResult]:
        """Return the decisions of a worker, or the loop's default if none answers in time."""
        call = DecisionCall(loop, asked, is_batch=True)
        return await self._carried_out(self.rules.decisions(loop, call))

    async def give(self, loop: str, given: Given) -> None:
        """Return once a worker has taken the feedback."""
        await self._carried_out(self.rules.feedback(loop, given))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _carried_out(self, exchange: Exchange[T]) -> T:
        """Send the attempts of *exchange* and return its result."""
        try:
            attempt = next(exchange)
            while True:
                try:
                    answer = await self._sent(attempt)
                except OSError as error:
                    attempt = exchange.throw(error)
                else:
                    attempt = exchange.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _sent(self, attempt: Attempt) -> WorkerAnswer:
        import aiohttp
        import yarl

        call, left = attempt.call, attempt.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time budget is used up")
        if self._session is None:
            self._session = _new_session(self._credentials)
        opened = SimpleNamespace(is_open=False, was_reused=False)
        try:
            async with self._session.request(
                call.method,
                yarl.URL(attempt.host.address.url + call.path, encoded=True),
                data=call.body or None,
                timeout=aiohttp.ClientTimeout(total=left),
                allow_redirects=False,
                trace_request_ctx=opened,
            ) as answer:
                return WorkerAnswer(answer.status, await answer.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            if opened.is_open:
                raise LostCallError(error, was_reused=opened.was_reused) from error
            raise OSError(str(error) or "the time budget is used up") from error


def _new_session(credentials: Credentials) -> "aiohttp.ClientSession":
    """Return a session that notes for each request whether it got a connection, and a new one."""
    import aiohttp

    headers = {"Content-Type": "application/json"}
    if credentials.token is not None:
        headers["Authorization"] = f"Bearer {credentials.token}"
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(_note_new)
    trace.on_connection_reuseconn.append(_note_reused)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=credentials.tls or True),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        trace_configs=[trace],
    )


async def _note_new(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.is_open = True


async def _note_reused(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.is_open = context.trace_request_ctx.was_reused = True


class AwaitedTransport:
    """Calls a worker of this process, which answers in microseconds: nothing is waited for."""

    def __init__(self, direct: ClientTransport) -> None:
        self._direct = direct

    @property
    def unanswered(self) -> int:
        """How many decisions no worker answered in time."""
        return self._direct.unanswered

    async def decide(self, loop: str, asked: Asked) -> DecisionResult:
        """Return the decision of the worker."""
        return self._direct.decide(loop, asked)

    async def decide_all(self, loop: str, asked: Sequence[Asked]) -> list[DecisionResult]:
        """Return the decisions of the worker, in order."""
        return self._direct.decide_all(loop, asked)

    async def give(self, loop: str, given: Given) -> None:
        """Log the feedback."""
        self._direct.give(loop, given)

    async def close(self) -> None:
        """Stop the worker, in a thread: its last events are delivered meanwhile."""
        await asyncio.to_thread(self._direct.close)
