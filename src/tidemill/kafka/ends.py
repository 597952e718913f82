"""The end offsets of a topic, read repeatedly over one connection: has anything been written?

`read_range` reads the records between two offsets of a partition, without a consumer group.
"""

from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tidemill.kafka.config import ANSWER_S, KafkaConfig, client_log
from tidemill.kafka.outage import broker_errors
from tidemill.kafka.tail import Record, record_of


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


def read_range(
    config: KafkaConfig, topic: str, partition: int, first: int, behind: int
) -> list[Record]:
    """Return the records of a partition from offset *first* to before *behind* that are there.

    Raises:
        BrokerError: there is no answer.
    """
    settings = config.client(
        group_id="tidemill-range",  # required by the client, never used
        enable_auto_commit=False,
        enable_partition_eof=True,
        auto_offset_reset="earliest",
    )
    consumer = Consumer(settings, logger=client_log)
    try:
        with broker_errors(config, f"{topic}/{partition} could not be read", consumer):
            consumer.assign([TopicPartition(topic, partition, first)])
            return [each for each in _until(consumer, behind) if each.offset < behind]
    finally:
        consumer.close()


def _until(consumer: Consumer, behind: int) -> Iterator[Record]:
    """Yield the records up to offset *behind*, and perhaps more, or to the end of the log."""
    while True:
        messages = consumer.consume(10_000, timeout=ANSWER_S)
        if not messages:
            raise TimeoutError(f"no answer within {ANSWER_S:g} s")
        for message in messages:
            error = message.error()
            if error is None:
                yield record_of(message)
            elif error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if error is not None or (message.offset() or 0) >= behind - 1:
                return
