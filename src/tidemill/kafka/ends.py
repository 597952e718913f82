"""The end offsets of a topic, read repeatedly over one connection: has anything been written?"""

from confluent_kafka import Consumer, TopicPartition

from tidemill.kafka.config import KafkaConfig, client_log
from tidemill.kafka.outage import broker_errors


class TopicEnds:
    """Reads the end offset of each partition of one topic, with one round trip per partition."""

    def __init__(self, config: KafkaConfig, topic: str) -> None:
        self._config = config
        self._topic = topic
        self._consumer: Consumer | None = None
        self._partitions: list[int] = []

    def read(self, timeout_s: float) -> tuple[int, ...]:
        """Return the end offset of each partition; empty if there is no such topic.

        Raises:
            BrokerError: the broker does not answer within *timeout_s*.
        """
        if self._consumer is None:
            settings = self._config.client(group_id="tidemill-ends", enable_auto_commit=False)
            self._consumer = Consumer(settings, logger=client_log)
        what = f"the end of topic {self._topic} could not be read"
        with broker_errors(self._config, what, self._consumer):
            if not self._partitions:
                found = self._consumer.list_topics(self._topic, timeout=timeout_s)
                self._partitions = sorted(found.topics[self._topic].partitions)
            partitions = (TopicPartition(self._topic, number) for number in self._partitions)
            return tuple(
                self._consumer.get_watermark_offsets(partition, timeout=timeout_s)[1]
                for partition in partitions
            )

    def close(self) -> None:
        """Disconnect; the next `read` connects again."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
