"""The current start and end offsets of the logs of a loop; reading them takes only DESCRIBE."""

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from tidemill.kafka import KafkaConfig, broker_errors, client_log
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import joined_topics


def log_ends(
    config: KafkaConfig, loop: Loop, *, timeout_s: float = 10.0
) -> dict[tuple[Log, int], int]:
    """Return the offset after the last record, by log and partition.

    Raises:
        BrokerError: the broker does not answer in time, or the loop has no topics.
    """
    return _offsets(config, loop, OffsetSpec.latest(), timeout_s)  # type: ignore[no-untyped-call]


def log_starts(
    config: KafkaConfig, loop: Loop, *, timeout_s: float = 10.0
) -> dict[tuple[Log, int], int]:
    """Return the offset of the first record that Kafka still has; see `log_ends`."""
    return _offsets(config, loop, OffsetSpec.earliest(), timeout_s)  # type: ignore[no-untyped-call]


def _offsets(
    config: KafkaConfig, loop: Loop, spec: OffsetSpec, timeout_s: float
) -> dict[tuple[Log, int], int]:
    logs = {topic: log for log, topic in joined_topics(loop).items()}
    asked = {
        TopicPartition(topic, partition): spec
        for topic in logs
        for partition in range(loop.partitions)
    }
    admin = AdminClient(config.client(), logger=client_log)
    with broker_errors(config, f"the logs of {loop.loop} could not be looked up", admin):
        answers = admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=timeout_s
        )
        return {
            (logs[place.topic], place.partition): int(answer.result(timeout_s).offset)
            for place, answer in answers.items()
        }
