"""The end of the source of re-keyed feedback: whether everything in it has been re-keyed."""

import logging

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tidemill.kafka import KafkaConfig, client_log
from tidemill.schemas.logs import FEEDBACK, Log, stream_of, topic_of
from tidemill.schemas.loop.definition import Loop

logger = logging.getLogger(__name__)

_ASK_S = 5.0


def group_of(loop_name: str, name: Log = FEEDBACK) -> str:
    """Return the consumer group, which is also the transactional id, for re-keying a log."""
    stream = stream_of(name)
    return f"tidemill-rekey-{loop_name}" + ("" if stream is None else f".{stream}")


class SourceEnd:
    """Whether all records of a log are re-keyed; it asks the broker, and blocks."""

    def __init__(self, kafka: KafkaConfig, loop: Loop, name: Log = FEEDBACK) -> None:
        self._topic = topic_of(loop.loop, name)
        settings = kafka.client(
            group_id=group_of(loop.loop, name),
            enable_auto_commit=False,
            isolation_level="read_uncommitted",  # an open transaction is a reason to wait
        )
        self._consumer = Consumer(settings, logger=client_log)

    def is_reached(self) -> bool:
        """Return whether no record of the source waits to be re-keyed; False if unknown."""
        try:
            topic = self._consumer.list_topics(self._topic, timeout=_ASK_S).topics[self._topic]
            tps = [TopicPartition(self._topic, number) for number in topic.partitions]
            known = self._consumer.committed(tps, timeout=_ASK_S)
            return bool(tps) and all(
                max(tp.offset, 0) >= self._consumer.get_watermark_offsets(tp, timeout=_ASK_S)[1]
                for tp in known
            )
        except KafkaException as error:
            logger.info("whether all of %s is re-keyed is unknown: %s", self._topic, error)
            return False

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()
