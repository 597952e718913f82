"""An inference worker: its deciders, its event log, and the subscriber that updates its models.

`api/http.py` serves it over HTTP, `Client.embedded` runs it inside a service. It starts with or
without Kafka, and once it has a loop it decides, whether a broker answers or not.
"""

import logging
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Self

from tidemill.kafka import KafkaConfig, Writer
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import Ack
from tidemill.schemas.models.signing import TRUSTED_KEYS, TrustedKeys
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.schemas.registry.port import SchemaStore
from tidemill.serving.decision.counters import DecisionCounters
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import EventLog
from tidemill.serving.decision.requests import UnknownError
from tidemill.serving.model.admission import TrialLimits, admit
from tidemill.serving.model.follower import Follower
from tidemill.serving.model.subscriber import Subscriber

logger = logging.getLogger(__name__)

NO_KEYS = f"no trusted keys ({TRUSTED_KEYS} is not set), so every model is refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingWorkerConfig:
    """What a worker serves, and whose models it trusts."""

    kafka: KafkaConfig
    name: str
    """Its name in acknowledgements and on the health page; unique among the workers."""
    loops: tuple[str, ...] = ()
    """The loops to serve; empty for all published ones."""
    definitions: tuple[Loop, ...] = ()
    """Loops that are served at once, even without Kafka; newer published versions replace them."""
    trusted: TrustedKeys | None = None
    """The keys whose models may serve; None for no model."""
    seed: int | None = None
    """The seed of the policies; None for a random one."""
    queue_events: int = 100_000
    """How many events may wait for Kafka: those of a minute with 1,500 decisions a second."""
    linger_ms: int = 50
    """How long an event may wait to be sent in one batch with others. Joins wait minutes, so this
    does not matter, and brokers and readers get far fewer and larger batches."""
    limits: TrialLimits = field(default_factory=TrialLimits)
    close_s: float = 7.0
    """How long a stopping worker waits for its threads and for the delivery of its last events."""

    @classmethod
    def from_env(
        cls,
        env: Mapping[str, str],
        *,
        name: str,
        loops: tuple[str, ...] = (),
        definitions: tuple[Loop, ...] = (),
        seed: int | None = None,
    ) -> Self:
        """Read KAFKA_BOOTSTRAP_SERVERS and, if set, TIDEMILL_TRUSTED_KEYS.

        Raises:
            ConfigError: no broker is named, or the file of trusted keys is not readable.
        """
        return cls(
            kafka=KafkaConfig.from_env(env),
            name=name,
            loops=loops,
            definitions=definitions,
            trusted=TrustedKeys.from_env(env) if env.get(TRUSTED_KEYS) else None,
            seed=seed,
        )


class Worker:
    """Decides for all its loops; safe to share between threads.

    Args:
        config: what to serve.
        store: gives the schemas of the events their prefix; None for the fingerprint of a schema,
            which needs no broker.
        event_log: takes the events; None for Kafka.
    """

    def __init__(
        self,
        config: ServingWorkerConfig,
        *,
        store: SchemaStore | None = None,
        event_log: EventLog | None = None,
    ) -> None:
        self.config = config
        self.log: EventLog = event_log or Writer(
            config.kafka, queue_messages=config.queue_events, linger_ms=config.linger_ms
        )
        self.answers: dict[int, int] = {}  # HTTP answers by status, counted by the HTTP API
        self._store = store
        self._seeds = Random(config.seed)
        self.follower = Follower(
            config.name,
            make=self._decider,
            admit=partial(admit, limits=config.limits),
            acknowledge=self._acknowledge,
            trusted=config.trusted or TrustedKeys({}),
            wants=config.loops,
        )
        self.subscriber = Subscriber(config.kafka, self.follower)
        for loop in config.definitions:
            self.follower.install(loop)

    def start(self) -> None:
        """Begin to follow the topics; return at once."""
        if self.config.trusted is None:
            logger.warning(NO_KEYS)
        self.subscriber.start()

    def close(self) -> int:
        """Stop following, deliver the last events, and return how many could not be."""
        deadline = time.monotonic() + self.config.close_s
        self.subscriber.close()
        undelivered = self.log.flush(max(0.5, deadline - time.monotonic()))
        self.log.close(timeout_s=0.0)
        return undelivered

    def decider(self, loop: str) -> Decider:
        """Return the decider of *loop*.

        Raises:
            UnknownError: this worker does not serve that loop.
        """
        decider = self.follower.deciders.get(loop)
        if decider is None:
            known = ", ".join(sorted(self.follower.deciders)) or "none"
            raise UnknownError(
                f"this worker serves no loop {loop[:100]!r}",
                hint=f"publish it with `tidemill publish LOOP.yaml`; served here: {known}",
            )
        return decider

    @property
    def ready(self) -> bool:
        """Whether the topics have been read to the end they had at the start."""
        return self.subscriber.ready.is_set()

    def troubles(self) -> list[str]:
        """Return the problems an operator should see, one clause each."""
        found = [] if self.config.trusted is not None else [NO_KEYS]
        if self.subscriber.trouble:
            found.append(self.subscriber.trouble)
        if self.log.trouble:
            found.append(self.log.trouble)
        if lost := self.log.dropped + self.log.failed:
            found.append(f"{lost} events were lost")
        if self.follower.last_refusal:
            found.append(f"refused model {self.follower.last_refusal}")
        deciders = list(self.follower.deciders.values())
        found += [f"model failed: {one.last_failure}" for one in deciders if one.last_failure]
        return found

    def _decider(self, loop: Loop, counters: DecisionCounters) -> Decider:
        seed = self._seeds.getrandbits(64) if self.config.seed is None else self._seed_of(loop)
        return Decider(
            loop,
            store=self._store or MemorySchemaStore(),
            log=self.log,
            random=Random(seed),
            counters=counters,
        )

    def _seed_of(self, loop: Loop) -> int:
        return zlib.crc32(f"{self.config.seed}/{self.config.name}/{loop.loop}".encode())

    def _acknowledge(self, ack: Ack) -> None:
        self.log.write(topics.ACKS, key=ack.key, value=ack.to_json())
