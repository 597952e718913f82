"""The client for services that use asyncio: the calls of `client.py`, awaited.

Budget, failover, defaults and ids follow the same rules, which are in `failover.py`. A client
belongs to the event loop of its first call.
"""

import ssl
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from tidemill.serving.client.async_transport import AsyncHttpTransport, AwaitedTransport
from tidemill.serving.client.calls import Asked, Given, checked_requests
from tidemill.serving.client.connection import Credentials
from tidemill.serving.decision.ids import new_id
from tidemill.serving.decision.results import DecisionResult

if TYPE_CHECKING:
    from tidemill.serving.client.client import Client


class AsyncClientTransport(Protocol):
    """How an asynchronous client reaches its workers; see `ClientTransport`."""

    @property
    def unanswered(self) -> int:
        """How many decisions no worker answered in time."""

    async def decide(self, loop: str, asked: Asked) -> DecisionResult:
        """Return one decision."""

    async def decide_all(self, loop: str, asked: Sequence[Asked]) -> list[DecisionResult]:
        """Return the decisions asked for, in order."""

    async def give(self, loop: str, given: Given) -> None:
        """Return once a worker has taken the feedback."""

    async def close(self) -> None:
        """Release what was opened."""


class AsyncClient:
    """Reaches the workers; `loop` gives the calls for one decision point.

    Args:
        urls: the address of a worker, or those of several that serve the same loops: calls go to
            each in turn, and a worker that does not answer is skipped.
        budget_ms: how long a call may take at most, with all attempts.
        token: the bearer token, if the workers ask for one.
        tls: for ``https``: the authorities to trust, and a certificate if the workers ask for one;
            None for the authorities of the system.

    >>> client = AsyncClient("http://localhost:8700", budget_ms=200)
    >>> client.loop("flight-delay").name
    'flight-delay'
    """

    def __init__(
        self,
        urls: str | Iterable[str],
        *,
        budget_ms: float = 1_000.0,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Keep the addresses; the first call connects.

        Raises:
            ConfigError: a URL or the token is invalid, or there is no URL.
        """
        listed = [urls] if isinstance(urls, str) else list(urls)
        self._transport: AsyncClientTransport = AsyncHttpTransport(
            listed, budget_ms=budget_ms, credentials=Credentials(token, tls)
        )

    @classmethod
    def through(cls, transport: AsyncClientTransport) -> Self:
        """Return a client that reaches its worker through *transport*."""
        client = cls.__new__(cls)
        client._transport = transport
        return client

    @classmethod
    def of(cls, client: "Client") -> Self:
        """Return the awaited calls of *client*, which has its worker in this process.

        `Client.embedded` makes one; closing either of the two closes both.
        """
        return cls.through(AwaitedTransport(client.transport))

    def loop(self, name: str) -> "AsyncLoopClient":
        """Return the calls for the loop *name*; this sends nothing."""
        return AsyncLoopClient(self._transport, name)

    @property
    def unanswered(self) -> int:
        """How many decisions got the default because no worker answered in time."""
        return self._transport.unanswered

    async def close(self) -> None:
        """Close the connections; an embedded worker delivers its last events."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class AsyncLoopClient:
    """The calls for one loop; safe to share between the tasks of one event loop."""

    def __init__(self, transport: AsyncClientTransport, name: str) -> None:
        self.name = name
        self._transport = transport

    async def get_decision(
        self,
        features: Mapping[str, object],
        *,
        entity: str | None = None,
        id: str | None = None,
        at: datetime | None = None,
        baseline: bool | float | str | Sequence[str] | None = None,
        items: Sequence[Mapping[str, object]] | None = None,
    ) -> DecisionResult:
        """Return what to do now, given *features*; see `LoopClient.get_decision`.

        A task that is cancelled while it waits may have a decision that is logged.
        """
        asked: Asked = {
            "features": features,
            "entity": entity,
            "id": id,
            "at": at,
            "baseline": baseline,
            "items": items,
        }
        return await self._transport.decide(self.name, asked)

    async def get_decisions(self, asked: Iterable[Asked]) -> list[DecisionResult]:
        """Return many decisions with one call, in order; see `LoopClient.get_decisions`."""
        listed = checked_requests(asked)
        return await self._transport.decide_all(self.name, listed) if listed else []

    async def log_feedback(
        self,
        decision_id: str,
        kind: str,
        *,
        id: str | None = None,
        at: datetime | None = None,
        item: str | None = None,
        **values: object,
    ) -> str:
        """Log feedback about a decision; return its id; see `LoopClient.log_feedback`."""
        feedback_id = new_id() if id is None else id
        given: Given = {
            "decision_id": decision_id,
            "kind": kind,
            "values": values,
            "id": feedback_id,
            "at": at,
            "item": item,
        }
        await self._transport.give(self.name, given)
        return feedback_id
