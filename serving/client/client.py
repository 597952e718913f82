"""The client of a service: it asks for decisions and logs feedback about them.

`Client(url)` calls workers over HTTP, `Client.embedded(...)` runs a worker inside this process. All
calls are the same for both, and for any number of threads. A decision never takes longer than the
budget of the client: if no worker has answered by then, the client returns the default of the loop
with the source ``fallback``. Such a decision is not logged and never becomes an example;
`unanswered` counts them. Feedback has to name `DecisionResult.id`: a worker that did not answer in
time may have logged the id that was asked for, with an action that nobody took.
"""

import ssl
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from tidemill.serving.client.calls import Asked, Given, checked_requests
from tidemill.serving.client.connection import Credentials
from tidemill.serving.client.http_transport import HttpTransport
from tidemill.serving.decision.ids import new_id
from tidemill.serving.decision.results import DecisionResult

if TYPE_CHECKING:
    from pathlib import Path

    from tidemill.kafka import KafkaConfig
    from tidemill.schemas.loop.definition import Loop
    from tidemill.schemas.models.signing import TrustedKeys
    from tidemill.schemas.registry.port import SchemaStore


class ClientTransport(Protocol):
    """How a client reaches its workers."""

    @property
    def unanswered(self) -> int:
        """How many decisions no worker answered in time."""

    def decide(self, loop: str, asked: Asked) -> DecisionResult:
        """Return one decision."""

    def decide_all(self, loop: str, asked: Sequence[Asked]) -> list[DecisionResult]:
        """Return the decisions asked for, in order."""

    def give(self, loop: str, given: Given) -> None:
        """Return once a worker has taken the feedback."""

    def close(self) -> None:
        """Release what was opened."""


class Client:
    """Reaches the workers; `loop` gives the calls for one decision point.

    Args:
        urls: the address of a worker, or those of several that serve the same loops: calls go to
            each in turn, and a worker that does not answer is skipped.
        budget_ms: how long a call may take at most, with all attempts.
        token: the bearer token, if the workers ask for one.
        tls: for ``https``: the authorities to trust, and a certificate if the workers ask for one;
            None for the authorities of the system.

    >>> client = Client("http://localhost:8700", budget_ms=200)
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
        self._transport: ClientTransport = HttpTransport(
            listed, budget_ms=budget_ms, credentials=Credentials(token, tls)
        )

    @classmethod
    def through(cls, transport: ClientTransport) -> Self:
        """Return a client that reaches its worker through *transport*."""
        client = cls.__new__(cls)
        client._transport = transport
        return client

    @classmethod
    def embedded(
        cls,
        kafka: "KafkaConfig | None",
        *,
        loops: Iterable[str] = (),
        definitions: Iterable["Loop"] = (),
        trusted: "TrustedKeys | None" = None,
        name: str | None = None,
        ready_s: float = 30.0,
        env: Mapping[str, str] | None = None,
        store: "SchemaStore | None" = None,
        journal: "Path | None" = None,
    ) -> Self:
        """Run a worker inside this process, where a call takes a few microseconds.

        If the process forks, call this afterwards: threads do not survive a fork.

        Args:
            kafka: the brokers; None for a unit test or a first try with *definitions*: the defaults
                decide, events stay in memory, and closing takes no time.
            loops: the loops to serve; empty for all published ones.
            definitions: loops that are served at once, even while no broker answers.
            trusted: the keys whose models may serve; None for no model, so defaults answer.
            name: the name of the worker in acknowledgements; None for host and process.
            ready_s: how long to wait until the topics are read; with *definitions* there is no
                wait.
            env: pass ``os.environ`` if the loops were published to a schema registry: with
                SCHEMA_REGISTRY_URL in it, events are framed for that registry.
            store: the registry itself, instead of *env*.
            journal: a folder where decisions and feedback survive a `kill -9` of this process until
                Kafka has them: the next start with it sends them. None for no journal.

        Raises:
            BrokerError: the topics could not be read in that time, and there are no definitions; or
                the schema registry does not answer.
            ConfigError: SCHEMA_REGISTRY_URL is not an address.
        """
        from tidemill.schemas.registry.choose import writer_store
        from tidemill.serving.client.embedded import (
            open_transport,  # imported only here, because it needs Polars
        )

        transport = open_transport(
            kafka,
            loops=tuple(loops),
            definitions=tuple(definitions),
            trusted=trusted,
            name=name,
            ready_s=ready_s,
            store=store or (writer_store(kafka, env or {}) if kafka is not None else None),
            journal=journal,
        )
        return cls.through(transport)

    def loop(self, name: str) -> "LoopClient":
        """Return the calls for the loop *name*; this sends nothing."""
        return LoopClient(self._transport, name)

    @property
    def transport(self) -> ClientTransport:
        """How it reaches its workers."""
        return self._transport

    @property
    def unanswered(self) -> int:
        """How many decisions got the default because no worker answered in time."""
        return self._transport.unanswered

    def close(self) -> None:
        """Close the connections; an embedded worker delivers its last events."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LoopClient:
    """The calls for one loop; safe to share between threads."""

    def __init__(self, transport: ClientTransport, name: str) -> None:
        self.name = name
        self._transport = transport

    def get_decision(
        self,
        features: Mapping[str, object],
        *,
        entity: str | None = None,
        id: str | None = None,
        at: datetime | None = None,
        baseline: bool | float | str | Sequence[str] | None = None,
        items: Sequence[Mapping[str, object]] | None = None,
    ) -> DecisionResult:
        """Return what to do now, given *features*; the decision is logged.

        Args:
            features: the loop's features by name; nullable ones may be left out.
            entity: what the decision is about, say the id of a user; to find its decisions.
            id: the id of the decision; None for a new one. The same id twice counts once. The
                result has another one if a worker that got this id did not answer.
            at: the time of the decision, with a time zone; now if None.
            baseline: what the service would do without this call: an answer of the loop, among
                items the id of one or an order of some. It is logged, and is the default of this
                decision; None for that of the loop.
            items: what to choose among, of a loop with items: mappings with ``id`` and
                ``features``. Without a model, and without a worker, the first one is the answer of
                a choice, and their order that of a ranking.

        Raises:
            RequestError: a feature is missing, unknown or of another type, the baseline is no
                answer of the loop, the items are not those of the loop, or there is no such loop.
            BrokerError: no worker has ever answered, so the default is not known either; or the
                worker inside this process has not read the loop yet.
        """
        asked: Asked = {
            "features": features,
            "entity": entity,
            "id": id,
            "at": at,
            "baseline": baseline,
            "items": items,
        }
        return self._transport.decide(self.name, asked)

    def get_decisions(self, asked: Iterable[Asked]) -> list[DecisionResult]:
        """Return many decisions with one call, in order; see `get_decision`.

        Args:
            asked: mappings with ``features`` and, if known, ``entity``, ``id``, ``at``,
                ``baseline`` and ``items``; at most 1,000 of them.
        """
        listed = checked_requests(asked)
        return self._transport.decide_all(self.name, listed) if listed else []

    def log_feedback(
        self,
        decision_id: str,
        kind: str,
        *,
        id: str | None = None,
        at: datetime | None = None,
        item: str | None = None,
        **values: object,
    ) -> str:
        """Log feedback about a decision; return the id of the feedback.

        Args:
            decision_id: the `DecisionResult.id`.
            kind: one of the loop's kinds of feedback.
            id: the id of the feedback; None for a new one. The same id twice counts once, so a
                feedback that may not have arrived can be sent again.
            at: the time of the feedback, with a time zone; now if None.
            item: the id of the item it is about, of a loop with items; None for all that were
                shown.
            values: the values of that kind, by name.

        Raises:
            RequestError: a value is missing, unknown or of another type, or there is no such kind.
            BrokerError: no worker took it in time; send it again with the same id.
        """
        feedback_id = new_id() if id is None else id
        given: Given = {
            "decision_id": decision_id,
            "kind": kind,
            "values": values,
            "id": feedback_id,
            "at": at,
            "item": item,
        }
        self._transport.give(self.name, given)
        return feedback_id
