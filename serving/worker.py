"""An inference worker: its deciders, its event log, and the subscriber that updates its models.

`api/http.py` serves it over HTTP, `Client.embedded` runs it inside a service. It starts with or
without Kafka, and once it has a loop it decides, whether a broker answers or not.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from tidemill.kafka import KafkaConfig
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop_topic import retired_error
from tidemill.schemas.models.manifest import Ack
from tidemill.schemas.models.signing import TRUSTED_KEYS, SigningKey, TrustedKeys
from tidemill.schemas.record_signature import signed_headers
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.schemas.registry.port import SchemaStore
from tidemill.serving.decision.counters import DecisionCounters
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import EventLog, MemoryEventLog
from tidemill.serving.decision.requests import NotReadyError, RequestLimits, UnknownError
from tidemill.serving.journal import JournalConfig
from tidemill.serving.kafka_log import KafkaEventLog
from tidemill.serving.model.admission import admit
from tidemill.serving.model.followed import GivenUp
from tidemill.serving.model.followed_rules import FollowedRules
from tidemill.serving.model.follower import Follower
from tidemill.serving.model.subscriber import Subscriber
from tidemill.serving.model.trial_process import TrialLimits, TrialProcess
from tidemill.serving.stages.shadow_thread import ShadowThread

logger = logging.getLogger(__name__)

_SHOWN = 10  # bad records on the health page
NO_KAFKA = (
    "no Kafka (KAFKA_BOOTSTRAP_SERVERS is not set), so defaults decide and events stay in memory"
)
_KEYS_S = 0.5  # how often the file of trusted keys is looked at
NO_KEYS = f"no trusted keys ({TRUSTED_KEYS} is not set), so every model is refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingWorkerConfig:
    """What a worker serves, and whose models it trusts."""

    kafka: KafkaConfig | None
    """The brokers; None to try out *definitions* without any: events stay in memory."""
    name: str
    """Its name in acknowledgements and on the health page; unique among the workers."""
    loops: tuple[str, ...] = ()
    """The loops to serve; empty for all published ones."""
    definitions: tuple[Loop, ...] = ()
    """Loops that are served at once, even without Kafka; newer published versions replace them."""
    trusted: TrustedKeys | None = None
    """The keys whose models may serve; None for no model."""
    signer: SigningKey | None = None
    """Signs what the worker acknowledges; None for acknowledgements that are not verified."""
    queue_events: int = 100_000
    """How many events may wait for Kafka: those of a minute with 1,500 decisions a second."""
    linger_ms: int = 50
    """How long an event may wait to be sent in one batch with others. Joins wait minutes, so this
    does not matter, and brokers and readers get far fewer and larger batches."""
    limits: TrialLimits = field(default_factory=TrialLimits)
    requests: RequestLimits = field(default_factory=RequestLimits)
    """How much one request may bring."""
    journal: JournalConfig | None = None
    """Where decisions survive `kill -9` until Kafka has them; None for nowhere."""
    acknowledge_s: float = 5.0
    """How long feedback may wait for Kafka before it is given up."""
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
    ) -> Self:
        """Read KAFKA_BOOTSTRAP_SERVERS and the settings of the guide, page "Serving".

        With *definitions*, it need not name brokers.

        Raises:
            ConfigError: no broker is named, the file of trusted keys is not readable, or a limit is
                no number.
        """
        is_alone = bool(definitions) and not env.get("KAFKA_BOOTSTRAP_SERVERS")
        return cls(
            kafka=None if is_alone else KafkaConfig.from_env(env),
            name=name,
            loops=loops,
            definitions=definitions,
            trusted=TrustedKeys.if_set(env),
            signer=SigningKey.if_set(env),
            requests=RequestLimits.from_env(env),
            journal=JournalConfig.from_env(env),
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
        self.log: EventLog = event_log or _event_log(config)
        self.answers: dict[int, int] = {}  # HTTP answers by status, counted by the HTTP API
        self.shadows = ShadowThread()
        self._trials = TrialProcess(config.limits)
        self._given_up: GivenUp = set()  # outlives the change of a key
        self._is_started = False
        self._store = store
        self._counters: dict[str, DecisionCounters] = {}
        self._trusted = config.trusted or TrustedKeys({})
        self._trusted_ids = frozenset(self._trusted.keys)
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch_keys, name="trusted-keys", daemon=True)
        self.follower = self._new_follower(config.definitions)
        self.subscriber = Subscriber(config.kafka, self.follower)

    def start(self) -> None:
        """Begin to follow the topics; return at once."""
        if self.config.kafka is None:
            logger.warning(NO_KAFKA)
        elif self.config.trusted is None:
            logger.warning(NO_KEYS)
        self._is_started = True
        self.subscriber.start()
        if self._trusted.is_watched:
            self._watcher.start()

    def close(self) -> int:
        """Stop following, deliver the last events, and return how many could not be."""
        deadline = time.monotonic() + self.config.close_s
        self._closed.set()
        if self._watcher.ident is not None:
            self._watcher.join()
        self.subscriber.close()
        self._trials.close()
        self.shadows.close()
        undelivered = self.log.flush(max(0.5, deadline - time.monotonic()))
        self.log.close(timeout_s=0.0)
        return undelivered

    def decider(self, loop: str) -> Decider:
        """Return the decider of *loop*.

        Raises:
            UnknownError: this worker does not serve that loop.
            NotReadyError: it has not read its topics yet, so it may know the loop soon.
        """
        decider = self.follower.deciders.get(loop)
        if decider is None:
            if self._is_reading and loop in (self.config.loops or (loop,)):
                raise NotReadyError(
                    f"this worker has not read the loop {loop[:100]!r} yet",
                    hint="ask again soon, or another worker; /readyz says when it is ready",
                )
            known = ", ".join(sorted(self.follower.deciders)) or "none"
            raise UnknownError(
                f"this worker serves no loop {loop[:100]!r}",
                hint=f"publish it with `tidemill publish LOOP.yaml`; served here: {known}",
            )
        return decider

    def deciding(self, loop: str) -> Decider:
        """Return the decider of *loop* for a decision; one that is retired takes feedback only.

        Raises:
            UnknownError: as `decider`, or the loop is retired.
            NotReadyError: as `decider`.
        """
        decider = self.decider(loop)
        if decider.loop.retired:
            retired = retired_error(decider.loop)
            raise UnknownError(retired.what, hint=retired.hint)
        return decider

    @property
    def _is_reading(self) -> bool:
        """Whether it has begun to read its topics, and is not ready yet."""
        return self._is_started and not self.ready

    @property
    def ready(self) -> bool:
        """Whether the topics have been read to the end they had at the start."""
        return self.subscriber.ready.is_set()

    def troubles(self) -> list[str]:
        """Return the problems an operator should see, one clause each."""
        found = [] if self.config.trusted is not None else [NO_KEYS]
        found = found if self.config.kafka is not None else [NO_KAFKA]
        if self.subscriber.trouble:
            found.append(self.subscriber.trouble)
        if lost := self.log.dropped + self.log.failed:
            found.append(f"{lost} events were lost")
        found += [f"passed over {bad}" for bad in self.subscriber.bad.all()[:_SHOWN]]
        found += self.log.troubles
        if self._trusted.trouble:
            found.append(self._trusted.trouble)
        if self.follower.last_refusal:
            found.append(f"refused model {self.follower.last_refusal}")
        found += self.follower.rules.troubles.values()
        deciders = list(self.follower.deciders.values())
        found += [f"model failed: {one.last_failure}" for one in deciders if one.last_failure]
        return found

    def _new_follower(self, loops: Iterable[Loop], rules: FollowedRules | None = None) -> Follower:
        follower = Follower(
            self.config.name,
            make=self._decider,
            admit=partial(admit, trials=self._trials),
            acknowledge=self._acknowledge,
            trusted=self._trusted,
            wants=self.config.loops,
            given_up=self._given_up,
            rules=rules,
        )
        for loop in loops:
            follower.install(loop)
        return follower

    def _watch_keys(self) -> None:
        """Start over with the models whenever a key comes or goes."""
        while not self._closed.wait(_KEYS_S):
            found = frozenset(self._trusted.keys)
            if found != self._trusted_ids:
                self._trusted_ids = found
                logger.warning("the trusted keys are %s now: models are read again", sorted(found))
                self._start_over()

    def _start_over(self) -> None:
        """Decide by the defaults, and read again which models are trusted.

        The deciders are new, so a model that is on its way into an old one decides nothing.
        """
        before = self.subscriber
        loops = [decider.loop for decider in list(self.follower.deciders.values())]
        rules = FollowedRules(self._trusted, before=self.follower.rules.records)
        self.follower = self._new_follower(loops, rules)
        self.subscriber = Subscriber(self.config.kafka, self.follower)
        self.subscriber.ready = before.ready  # it has been; the defaults answer meanwhile
        self.subscriber.bad = before.bad  # the metrics read it
        before.close()
        self.subscriber.start()

    def _decider(self, loop: Loop, counters: DecisionCounters) -> Decider:
        return Decider(
            loop,
            store=self._store or MemorySchemaStore(),
            log=self.log,
            counters=self._counters.setdefault(loop.loop, counters),
            limits=self.config.requests,
            shadows=self.shadows,
        )

    def _acknowledge(self, ack: Ack) -> None:
        key, value = ack.key, ack.to_json()
        headers = signed_headers(self.config.signer, topics.ACKS, key, value)
        self.log.write_volatile(topics.ACKS, key, value, headers=headers)


def _event_log(config: ServingWorkerConfig) -> EventLog:
    if config.kafka is None:
        return MemoryEventLog(config.queue_events)
    return KafkaEventLog(
        config.kafka,
        queue_events=config.queue_events,
        linger_ms=config.linger_ms,
        acknowledge_s=config.acknowledge_s,
        journal=config.journal,
    )
