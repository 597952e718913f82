"""The asynchronous client behind the calls of the blocking one, so that one suite proves both."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Self, TypeVar

from tidemill import AsyncClient
from tidemill.serving.client.async_client import AsyncLoopClient
from tidemill.serving.decision.results import DecisionResult

T = TypeVar("T")


class EventLoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def wait(self, doing: Coroutine[object, object, T]) -> T:
        """Return the result of *doing*."""
        return asyncio.run_coroutine_threadsafe(doing, self.loop).result()

    def close(self) -> None:
        """End the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class BlockingClient:
    """Waits for each call of an `AsyncClient`."""

    def __init__(self, thread: EventLoopThread, client: AsyncClient) -> None:
        self._thread, self._client = thread, client
        self._transport = client._transport

    @property
    def unanswered(self) -> int:
        """As the client counts it."""
        return self._client.unanswered

    def loop(self, name: str) -> "BlockingLoopClient":
        """Return the calls for one loop."""
        return BlockingLoopClient(self._thread, self._client.loop(name))

    def close(self) -> None:
        """Close the client."""
        self._thread.wait(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlockingLoopClient:
    """Waits for each call of an `AsyncLoopClient`."""

    def __init__(self, thread: EventLoopThread, client: AsyncLoopClient) -> None:
        self._thread, self._client, self.name = thread, client, client.name

    def get_decision(self, features: Mapping[str, object], **rest: Any) -> DecisionResult:  # noqa: ANN401
        """Wait for the decision."""
        return self._thread.wait(self._client.get_decision(features, **rest))

    def get_decisions(self, asked: Iterable[Mapping[str, object]]) -> list[DecisionResult]:
        """Wait for the decisions."""
        return self._thread.wait(self._client.get_decisions(asked))

    def log_feedback(self, decision_id: str, kind: str, **rest: Any) -> str:  # noqa: ANN401
        """Wait until the feedback is taken."""
        return self._thread.wait(self._client.log_feedback(decision_id, kind, **rest))
