"""Where the logs of a loop end now, asked of the broker; nothing but DESCRIBE is needed for it."""

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from tidemill.kafka import KafkaConfig, broker_errors, client_log
from tidemill.schemas import topics
from tidemill.schemas.loop import Loop


def log_ends(
    config: KafkaConfig, loop: Loop, *, timeout_s: float = 10.0
) -> dict[tuple[str, int], int]:
    """Return the offset behind the last record, by log ("decisions", "feedback") and partition.

    Raises:
        BrokerError: the broker does not answer in time, or the loop has no topics.
    """
    logs = {topics.decisions(loop.loop): "decisions", topics.feedback(loop.loop): "feedback"}
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {
        TopicPartition(topic, partition): latest
        for topic in logs
        for partition in range(loop.partitions)
    }
    admin = AdminClient(config.client(), logger=client_log)
    with broker_errors(config, f"the ends of the logs of {loop.loop} could not be read", admin):
        answers = admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=timeout_s
        )
        return {
            (logs[place.topic], place.partition): int(answer.result(timeout_s).offset)
            for place, answer in answers.items()
        }
