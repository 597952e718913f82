"""The client of a service: ask for a decision, later say what came of it.

`Client(url)` talks to workers over HTTP, `Client.embedded(...)` runs a worker inside this process;
both are used the same way and by any number of threads. A decision never waits longer than the
client's budget: when no worker has answered by then, the loop's default is returned, marked as
``fallback``. Nobody has logged that one, so it never becomes an example; `unanswered` counts them.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from tidemill.errors import RequestError
from tidemill.serving.client.http_transport import HttpTransport
from tidemill.serving.decision.ids import new_id
from tidemill.serving.decision.results import DecisionResult

if TYPE_CHECKING:
    from tidemill.kafka import KafkaConfig
    from tidemill.schemas.loop.definition import Loop
    from tidemill.schemas.models.signing import TrustedKeys
    from tidemill.schemas.registry.port import SchemaStore

Asked = Mapping[str, object]
"""One decision to ask for: ``features`` and, if known, ``entity``, ``id`` and ``at``."""

_ASKED = frozenset({"features", "entity", "id", "at"})


class ClientTransport(Protocol):
    """Through which a client reaches a worker."""

    unanswered: int
    """How many decisions no worker has answered in time."""

    def decide(
        self,
        loop: str,
        features: Asked,
        entity: str | None,
        id: str | None,
        at: datetime | None,
    ) -> DecisionResult:
        """Return one decision."""

    def decide_all(self, loop: str, asked: Sequence[Asked]) -> list[DecisionResult]:
        """Return the decisions asked for, in order."""

    def give(
        self, loop: str, decision_id: str, kind: str, values: Asked, id: str, at: datetime | None
    ) -> None:
        """Return once a worker has taken the feedback."""

    def close(self) -> None:
        """Release what was opened."""


class Client:
    """Reaches the workers; `loop` gives the calls for one decision point.

    Args:
        urls: the address of a worker, or of several that serve the same loops: they take turns,
            and one that does not answer is skipped.
        budget_ms: how long a call may take at most, all attempts together.

    >>> client = Client("http://localhost:8700", budget_ms=200)
    >>> client.loop("flight-delay").name
    'flight-delay'
    """

    def __init__(self, urls: str | Iterable[str], *, budget_ms: float = 1_000.0) -> None:
        """Connect to nothing yet: the first call does.

        Raises:
            ConfigError: a URL is none, or there is no URL.
        """
        listed = [urls] if isinstance(urls, str) else list(urls)
        self._door: ClientTransport = HttpTransport(listed, budget_ms=budget_ms)

    @classmethod
    def through(cls, door: ClientTransport) -> Self:
        """Return a client that reaches its worker through *door*."""
        client = cls.__new__(cls)
        client._door = door
        return client

    @classmethod
    def embedded(
        cls,
        kafka: "KafkaConfig",
        *,
        loops: Iterable[str] = (),
        definitions: Iterable["Loop"] = (),
        trusted: "TrustedKeys | None" = None,
        name: str | None = None,
        seed: int | None = None,
        ready_s: float = 30.0,
        env: Mapping[str, str] | None = None,
        store: "SchemaStore | None" = None,
    ) -> Self:
        """Run a worker inside this process: no HTTP, no other process, a few microseconds a call.

        Make it after the process has forked, if it does: threads do not survive a fork.

        Args:
            kafka: the brokers.
            loops: which loops to serve; all that are published if empty.
            definitions: loops known without Kafka, for a start while it is away.
            trusted: whose models may serve; None: nobody's, the defaults answer.
            name: how the worker calls itself in acknowledgements; None: by host and process.
            seed: of the policies' chance; None: of the system's.
            ready_s: how long to wait for the topics to be read. Not waited for where
                *definitions* already say what to decide.
            env: hand in ``os.environ`` where the loops were published to a schema registry: with
                SCHEMA_REGISTRY_URL in it, events are framed for that registry.
            store: that registry itself, instead of *env*.

        Raises:
            BrokerError: the topics could not be read in that time, and there are no definitions; or
                the schema registry does not answer.
            ConfigError: SCHEMA_REGISTRY_URL is not an address.
        """
        from tidemill.schemas.registry.choose import writer_store
        from tidemill.serving.client.embedded import (
            open_transport,  # not before it is wanted: it needs Polars
        )

        door = open_transport(
            kafka,
            loops=tuple(loops),
            definitions=tuple(definitions),
            trusted=trusted,
            name=name,
            seed=seed,
            ready_s=ready_s,
            store=store or writer_store(kafka, env or {}),
        )
        return cls.through(door)

    def loop(self, name: str) -> "LoopClient":
        """Return the calls for the loop *name*; nothing is sent by that."""
        return LoopClient(self._door, name)

    @property
    def unanswered(self) -> int:
        """How many decisions got the default because no worker answered in time."""
        return self._door.unanswered

    def close(self) -> None:
        """Close the connections; an embedded worker delivers its last events."""
        self._door.close()

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

    def __init__(self, door: ClientTransport, name: str) -> None:
        self.name = name
        self._door = door

    def get_decision(
        self,
        features: Mapping[str, object],
        *,
        entity: str | None = None,
        id: str | None = None,
        at: datetime | None = None,
    ) -> DecisionResult:
        """Return what to do now, given *features*; the decision is logged.

        Args:
            features: the loop's features by name; nullable ones may be left out.
            entity: whom or what it is about, say a user's id; to find its decisions again.
            id: the decision's id; one is made if None. The same id twice counts once.
            at: when the decision is made, with its time zone; now if None.

        Raises:
            RequestError: a feature is missing, unknown or of another type, or there is no such
                loop.
            BrokerError: no worker has answered yet, so not even the default is known.
        """
        return self._door.decide(self.name, features, entity, id, at)

    def get_decisions(self, asked: Iterable[Asked]) -> list[DecisionResult]:
        """Return many decisions with one call, in order; see `get_decision`.

        Args:
            asked: mappings with ``features`` and, if known, ``entity``, ``id`` and ``at``; at most
                1,000 of them.
        """
        listed = list(asked)
        for place, item in enumerate(listed):
            if "features" not in item or not _ASKED.issuperset(item):
                raise RequestError(
                    f"item {place} has {', '.join(map(str, item)) or 'nothing'}",
                    hint="each has features and may have entity, id and at",
                )
        return self._door.decide_all(self.name, listed) if listed else []

    def log_feedback(
        self,
        decision_id: str,
        kind: str,
        *,
        id: str | None = None,
        at: datetime | None = None,
        **values: object,
    ) -> str:
        """Say what came of a decision; return the id of the feedback.

        Args:
            decision_id: the `DecisionResult.id`.
            kind: one of the loop's kinds of feedback.
            id: the feedback's id; one is made if None. The same id twice counts once, so a
                feedback that may not have arrived can be sent again.
            at: when it happened, with its time zone; now if None.
            values: what the kind carries, by name.

        Raises:
            RequestError: a value is missing, unknown or of another type, or there is no such kind.
            BrokerError: no worker took it in time; send it again with the same id.
        """
        feedback_id = id or new_id()
        self._door.give(self.name, decision_id, kind, values, feedback_id, at)
        return feedback_id
