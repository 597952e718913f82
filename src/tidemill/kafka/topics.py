"""Topics: their settings, creation of missing ones, and their numbers of partitions."""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from tidemill.errors import BrokerError, ContractError
from tidemill.kafka.config import ANSWER_S, KafkaConfig, client_log
from tidemill.kafka.outage import broker_errors

_AT_ONCE = 200  # topics in one request: a broker makes a thousand in some seconds
_TIMESTAMP_TYPE = "message.timestamp.type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """The settings of a topic. Its records always have the broker's time (LogAppendTime)."""

    name: str
    partitions: int = 1
    compacted: bool = False
    retention: timedelta | None = None  # None: the broker's default

    def settings(self) -> dict[str, str]:
        """Return the topic's configuration by Kafka's names."""
        settings = {
            _TIMESTAMP_TYPE: "LogAppendTime",
            "cleanup.policy": "compact" if self.compacted else "delete",
        }
        if self.retention is not None:
            settings["retention.ms"] = str(self.retention // timedelta(milliseconds=1))
        return settings


def ensure_topics(config: KafkaConfig, topics: Iterable[Topic], *, timeout_s: float = 30.0) -> None:
    """Create the missing ones of *topics*; return when every partition has a leader.

    Raises:
        BrokerError: the broker does not answer within *timeout_s*, or refuses.
        ContractError: a topic exists with another number of partitions.
    """
    wanted = {topic.name: topic for topic in topics}
    deadline = time.monotonic() + timeout_s
    admin = AdminClient(config.client(), logger=client_log)
    with broker_errors(config, "topics could not be created", admin):
        metadata = admin.list_topics(timeout=min(ANSWER_S, timeout_s))
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
            found = _led_partitions(admin, wanted, timeout_s)
            if all(found.values()) or time.monotonic() > deadline:
                break
            time.sleep(0.02)
    for name, topic in wanted.items():
        count = found[name]
        if count is None:
            raise BrokerError(
                f"topic {name} at {config.bootstrap} has no leader for some partition",
                hint="look at the brokers' logs: one of them is down or still starting",
            )
        check_partitions(topic, count)


def _create(admin: AdminClient, missing: list[NewTopic], timeout_s: float) -> None:
    for first in range(0, len(missing), _AT_ONCE):
        part = missing[first : first + _AT_ONCE]
        for created in admin.create_topics(part, operation_timeout=timeout_s).values():
            try:
                created.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise


def _led_partitions(
    admin: AdminClient, names: Iterable[str], timeout_s: float
) -> dict[str, int | None]:
    """Return the number of partitions of each topic, None while any of them has no leader."""
    known = admin.list_topics(timeout=timeout_s).topics
    counts: dict[str, int | None] = {}
    for name in names:
        found = known.get(name)
        is_led = (
            found is not None
            and found.error is None
            and all(partition.leader >= 0 for partition in found.partitions.values())
        )
        counts[name] = (len(found.partitions) or None) if found is not None and is_led else None
    return counts


def check_partitions(topic: Topic, found: int) -> None:
    """Do nothing if the *found* number of partitions is that of *topic*; else ContractError."""
    if found != topic.partitions:
        raise ContractError(
            f"topic {topic.name} has {found} partitions, not {topic.partitions}",
            hint=f"set partitions: {found} in the loop, or take a new loop name: the keys of a "
            "topic are bound to its number of partitions",
        )


def partition_count(config: KafkaConfig, topic: str, *, timeout_s: float = ANSWER_S) -> int | None:
    """Return the number of partitions of *topic*, or None if there is no such topic.

    Raises:
        BrokerError: the broker does not answer within *timeout_s*.
    """
    return partition_counts(config, [topic], timeout_s=timeout_s)[topic]


def partition_counts(
    config: KafkaConfig, topics: Collection[str], *, timeout_s: float = ANSWER_S
) -> dict[str, int | None]:
    """Return the number of partitions of each of *topics*, None for one that is not there.

    Raises:
        BrokerError: the broker does not answer within *timeout_s*.
    """
    admin = AdminClient(config.client(), logger=client_log)
    named = f"topic {next(iter(topics))}" if len(topics) == 1 else f"{len(topics)} topics"
    with broker_errors(config, f"{named} could not be looked up", admin):
        known = admin.list_topics(timeout=timeout_s).topics
    found = {name: known.get(name) for name in topics}
    return {name: (len(each.partitions) or None) if each else None for name, each in found.items()}


def topics_with_producer_time(
    config: KafkaConfig, topics: Iterable[str], *, timeout_s: float = 30.0
) -> list[str]:
    """Return those of *topics* that exist and whose records have their producer's time.

    Raises:
        BrokerError: the broker does not answer within *timeout_s*, or refuses.
    """
    admin = AdminClient(config.client(), logger=client_log)
    with broker_errors(config, "the settings of topics could not be read", admin):
        known = admin.list_topics(timeout=timeout_s).topics
        wanted = [ConfigResource(ResourceType.TOPIC, name) for name in topics if name in known]
        found = admin.describe_configs(wanted, request_timeout=timeout_s) if wanted else {}
        settings = {resource.name: answer.result() for resource, answer in found.items()}
    return [
        name
        for name, entries in settings.items()
        if _TIMESTAMP_TYPE not in entries or entries[_TIMESTAMP_TYPE].value != "LogAppendTime"
    ]
