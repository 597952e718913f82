"""The thin Kafka client that all rooms share: topics, a writer, and a groupless reader.

It is the only module that knows how a librdkafka client is set up. It knows no loop, no schema and
no model; keys and values are bytes. Consumer groups live in `streams/`, which has Faust for them.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tidemill.errors import BrokerError, ConfigError, ContractError

log = logging.getLogger(__name__)

Setting = str | int | float | bool

_ENV_OPTIONS = {
    "KAFKA_SECURITY_PROTOCOL": "security.protocol",
    "KAFKA_SASL_MECHANISM": "sasl.mechanism",
    "KAFKA_SASL_USERNAME": "sasl.username",
    "KAFKA_SASL_PASSWORD": "sasl.password",
    "KAFKA_SSL_CA_LOCATION": "ssl.ca.location",
}


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """Where the brokers are, and what librdkafka needs besides to reach them."""

    bootstrap: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a password

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read KAFKA_BOOTSTRAP_SERVERS and, if set, KAFKA_SECURITY_PROTOCOL and KAFKA_SASL_*.

        Raises:
            ConfigError: KAFKA_BOOTSTRAP_SERVERS is missing or empty.
        """
        bootstrap = env.get("KAFKA_BOOTSTRAP_SERVERS", "").strip()
        if not bootstrap:
            raise ConfigError(
                "KAFKA_BOOTSTRAP_SERVERS is not set",
                hint="point it at a broker, say localhost:9092, or start one with: tidemill kafka",
            )
        options = {name: env[key] for key, name in _ENV_OPTIONS.items() if env.get(key)}
        return cls(bootstrap, options)

    def client(self, **extra: Setting) -> dict[str, Setting]:
        """Return a librdkafka configuration; in *extra*, ``_`` stands for the ``.`` of a name."""
        named = {key.replace("_", "."): value for key, value in extra.items()}
        return {
            "bootstrap.servers": self.bootstrap,
            "reconnect.backoff.max.ms": 1000,  # a broker that returns is found within a second
            "log.connection.close": False,
            **self.options,
            **named,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """What a topic should be. Its records always carry the broker's time (LogAppendTime)."""

    name: str
    partitions: int = 1
    compacted: bool = False
    retention: timedelta | None = None  # None: the broker's default

    def settings(self) -> dict[str, str]:
        """Return the topic's configuration as Kafka names it."""
        settings = {
            "message.timestamp.type": "LogAppendTime",
            "cleanup.policy": "compact" if self.compacted else "delete",
        }
        if self.retention is not None:
            settings["retention.ms"] = str(self.retention // timedelta(milliseconds=1))
        return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record as read; *timestamp_ms* is the broker's, in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int


@contextmanager
def broker_errors(config: KafkaConfig, what: str) -> Iterator[None]:
    """Turn a client's `KafkaException` into a `BrokerError` that says *what* could not be done."""
    try:
        yield
    except KafkaException as error:
        reason = error.args[0].str() if isinstance(error.args[0], KafkaError) else str(error)
        raise BrokerError(
            f"{what} at {config.bootstrap}: {reason}",
            hint="is that broker up and reachable from here? `tidemill kafka` starts a local one",
        ) from error


def ensure_topics(config: KafkaConfig, topics: Iterable[Topic], *, timeout_s: float = 30.0) -> None:
    """Create those of *topics* that are missing, and return when each has its leaders.

    Raises:
        BrokerError: the broker does not answer within *timeout_s*, or refuses.
        ContractError: a topic exists with another number of partitions.
    """
    wanted = {topic.name: topic for topic in topics}
    deadline = time.monotonic() + timeout_s
    admin = AdminClient(config.client())
    with broker_errors(config, "topics could not be created"):
        metadata = admin.list_topics(timeout=timeout_s)
        replicas = min(3, len(metadata.brokers))
        missing = [
            NewTopic(
                topic.name,
                num_partitions=topic.partitions,
                replication_factor=replicas,
                config=topic.settings(),
            )
            for topic in wanted.values()
            if topic.name not in metadata.topics
        ]
        if missing:
            _create(admin, missing, timeout_s)
        while True:
            found = {name: _partitions(admin, name, timeout_s) for name in wanted}
            if all(found.values()) or time.monotonic() > deadline:
                break
            time.sleep(0.02)
    for name, topic in wanted.items():
        _check_partitions(config, topic, found[name])


def _create(admin: AdminClient, missing: list[NewTopic], timeout_s: float) -> None:
    for created in admin.create_topics(missing, operation_timeout=timeout_s).values():
        try:
            created.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def _partitions(admin: AdminClient, topic: str, timeout_s: float) -> int | None:
    """Return the number of partitions, or None while any of them has no leader."""
    found = admin.list_topics(timeout=timeout_s).topics.get(topic)
    if found is None or found.error is not None or not found.partitions:
        return None
    led = all(partition.leader >= 0 for partition in found.partitions.values())
    return len(found.partitions) if led else None


def _check_partitions(config: KafkaConfig, topic: Topic, found: int | None) -> None:
    if found is None:
        raise BrokerError(
            f"topic {topic.name} at {config.bootstrap} has no leader for some partition",
            hint="look at the brokers' logs: one of them is down or still starting",
        )
    if found != topic.partitions:
        raise ContractError(
            f"topic {topic.name} has {found} partitions, not {topic.partitions}",
            hint=f"set partitions: {found} in the loop, or take a new loop name: the keys of a "
            "topic are bound to its number of partitions",
        )


def partition_count(config: KafkaConfig, topic: str, *, timeout_s: float = 30.0) -> int | None:
    """Return the number of partitions of *topic*, or None if there is no such topic.

    Raises:
        BrokerError: the broker does not answer within *timeout_s*.
    """
    with broker_errors(config, f"topic {topic} could not be looked up"):
        metadata = AdminClient(config.client()).list_topics(timeout=timeout_s)
    found = metadata.topics.get(topic)
    return len(found.partitions) if found is not None and found.partitions else None


def _producer(config: KafkaConfig, more: Mapping[str, object]) -> Producer:
    settings = config.client(
        partitioner="murmur2_random",  # as the Java clients: a key has the same partition for all
        compression_type="lz4",
        acks="all",
        enable_idempotence=True,
    )
    return Producer({**settings, **more}, logger=log)


class Writer:
    """Send records without ever waiting; safe to share between threads.

    At most *queue_messages* records wait for the broker, for as long as it takes. When that buffer
    is full the newest record is refused and counted. A thread of its own serves the client.
    """

    def __init__(
        self, config: KafkaConfig, *, queue_messages: int = 100_000, linger_ms: float = 5
    ) -> None:
        self.dropped = 0
        self.failed = 0
        self._accepted = 0
        self._lost = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        more: dict[str, object] = {
            "queue.buffering.max.messages": queue_messages,
            "linger.ms": linger_ms,
            "message.timeout.ms": 0,  # the buffer is the limit, not the time
            "delivery.report.only.error": True,  # a Python call for each success would cost 1 us
            "on_delivery": self._on_failure,
        }
        self._producer = _producer(config, more)
        self._server = threading.Thread(target=self._serve, name="kafka-writer", daemon=True)
        self._server.start()

    def write(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] | None = None,
        partition: int = -1,
    ) -> bool:
        """Hand one record to the client; False if it was not taken.

        A full buffer counts as `dropped`; a record the client itself refuses, say one over its
        size limit, counts as `failed`. A *partition* of -1 means: by the key.
        """
        try:
            if headers:
                self._producer.produce(topic, value, key, partition, headers=list(headers))
            else:
                self._producer.produce(topic, value, key, partition)
        except BufferError:
            with self._lock:
                self.dropped += 1
            return False
        except KafkaException as error:
            self._on_failure(error.args[0], None)
            return False
        with self._lock:
            self._accepted += 1
        return True

    @property
    def delivered(self) -> int:
        """How many records the broker has acknowledged; exact once `flush` returned 0."""
        with self._lock:
            return max(0, self._accepted - self._lost - len(self._producer))

    @property
    def waiting(self) -> int:
        """How many records wait in the buffer or for their acknowledgement."""
        return len(self._producer)

    def flush(self, timeout_s: float) -> int:
        """Wait for the acknowledgements; return the number of records still without one."""
        return int(self._producer.flush(timeout_s))

    def close(self, timeout_s: float = 10.0) -> None:
        """Flush for at most *timeout_s* and stop; what is undelivered then is lost, and logged."""
        waiting = self.flush(timeout_s)
        self._closed.set()
        self._server.join()
        if waiting:
            log.error("%d records were never acknowledged and are lost", waiting)

    def _on_failure(self, error: KafkaError, message: Message | None) -> None:
        with self._lock:
            self.failed += 1
            if message is not None:
                self._lost += 1
        log.error("a record was not delivered: %s", error)

    def _serve(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(0.1)


def write_all(
    config: KafkaConfig,
    topic: str,
    items: Iterable[tuple[bytes, bytes | None]],
    *,
    timeout_s: float = 30.0,
) -> None:
    """Write key-value pairs in their order and return when each is acknowledged.

    Raises:
        BrokerError: one of them was refused, or not acknowledged in *timeout_s*; some may be there.
    """
    errors: list[str] = []

    def report(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            errors.append(error.str())

    producer = _producer(
        config, {"message.timeout.ms": int(timeout_s * 1000), "on_delivery": report}
    )
    with broker_errors(config, f"could not write to {topic}"):
        for key, value in items:
            while True:
                try:
                    producer.produce(topic, value, key)
                    break
                except BufferError:
                    producer.poll(0.1)
        waiting = producer.flush(timeout_s + 1)
    if errors or waiting:
        raise BrokerError(
            f"{len(errors) + waiting} records for {topic} were not acknowledged by "
            f"{config.bootstrap}: {errors[0] if errors else f'no answer in {timeout_s} s'}",
            hint="see that the brokers are up and the topic exists, then do it again",
        )


class Tail:
    """Read all partitions of a topic from the beginning, on and on, in no consumer group.

    For compacted topics. A broker that goes away is waited for; reading goes on when it returns.
    """

    def __init__(self, config: KafkaConfig, topic: str, *, timeout_s: float = 30.0) -> None:
        """Find the partitions and their ends.

        Raises:
            BrokerError: there is no such topic, or no answer in *timeout_s*.
        """
        self._config = config
        settings = config.client(
            group_id="tidemill-tail",  # demanded by the client, never used
            enable_auto_commit=False,
            enable_partition_eof=True,
            auto_offset_reset="earliest",
            fetch_wait_max_ms=100,
        )
        self._consumer = Consumer(settings, logger=log)
        try:
            self._behind = self._assign(topic, timeout_s)
        except BrokerError:
            self._consumer.close()
            raise

    def _assign(self, topic: str, timeout_s: float) -> dict[int, int]:
        """Start at the beginning; return the end offset of each partition that is not empty."""
        with broker_errors(self._config, f"topic {topic} could not be read"):
            found = self._consumer.list_topics(timeout=timeout_s).topics.get(topic)
            if found is None or not found.partitions:
                raise BrokerError(
                    f"there is no topic {topic} at {self._config.bootstrap}",
                    hint="publish a loop first (tidemill publish LOOP.yaml): it makes the topics",
                )
            places = [
                TopicPartition(topic, number, OFFSET_BEGINNING) for number in found.partitions
            ]
            self._consumer.assign(places)
            behind = {}
            for place in places:
                low, high = self._consumer.get_watermark_offsets(place, timeout=timeout_s)
                if high > low:
                    behind[place.partition] = high
        return behind

    @property
    def caught_up(self) -> bool:
        """Whether everything that was there when this reader was made has been returned."""
        return not self._behind

    def poll(self, timeout_s: float) -> list[Record]:
        """Return what has arrived, waiting at most *timeout_s* for the first record.

        Raises:
            BrokerError: the broker refuses for good, say for want of a right.
        """
        first = self._consumer.poll(timeout_s)
        messages = [] if first is None else [first, *self._consumer.consume(10_000, timeout=0)]
        return [record for message in messages if (record := self._record(message)) is not None]

    def _record(self, message: Message) -> Record | None:
        error, partition, offset = message.error(), message.partition(), message.offset()
        topic = message.topic()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._behind.pop(
                    partition or 0, None
                )  # the last records may be a transaction's marks
            elif error.fatal() or error.code() in _REFUSALS:
                raise BrokerError(
                    f"{self._config.bootstrap} refuses to be read: {error.str()}",
                    hint="check KAFKA_SASL_* and the rights of this user",
                )
            return None
        if topic is None or partition is None or offset is None:
            return None
        if self._behind.get(partition, offset + 2) <= offset + 1:
            del self._behind[partition]
        return Record(
            topic=topic,
            partition=partition,
            offset=offset,
            key=message.key(),
            value=message.value(),
            timestamp_ms=message.timestamp()[1],
        )

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


_REFUSALS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError._AUTHENTICATION,
}


def read_compacted(
    config: KafkaConfig, topic: str, *, timeout_s: float = 30.0
) -> dict[bytes, bytes]:
    """Return the newest value of each key, up to the end offsets at the call; no tombstones.

    Raises:
        BrokerError: there is no such topic, or its end was not reached in *timeout_s*.
    """
    deadline = time.monotonic() + timeout_s
    newest: dict[bytes, bytes] = {}
    tail = Tail(config, topic, timeout_s=timeout_s)
    try:
        while not tail.caught_up:
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"topic {topic} at {config.bootstrap} was not read to its end in {timeout_s} s",
                    hint="look whether the broker is up; then try again",
                )
            for record in tail.poll(0.1):
                if record.key is None:
                    continue
                newest.pop(record.key, None)  # keep the order of the log
                if record.value is not None:
                    newest[record.key] = record.value
    finally:
        tail.close()
    return newest
