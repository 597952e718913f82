"""Reading a whole topic without a consumer group, as its compacted content or on and on."""

import logging
import time
from dataclasses import dataclass

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from tidemill.errors import BrokerError
from tidemill.kafka.config import KafkaConfig, broker_errors, client_log

log = logging.getLogger(__name__)

_REFUSALS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError._AUTHENTICATION,
}
_UNSETTLED = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record as read; *timestamp_ms* is the broker's, in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...] = ()


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
        self._refusal: KafkaError | None = None
        self._is_open = False
        self._consumer = Consumer({**settings, "error_cb": self._on_error}, logger=client_log)
        try:
            self._behind = self._assign(topic, timeout_s)
        except BrokerError:
            self._consumer.close()
            raise
        self._is_open = True

    def _assign(self, topic: str, timeout_s: float) -> dict[int, int]:
        """Start at the beginning; return the end offset of each partition that is not empty."""
        with broker_errors(self._config, f"topic {topic} could not be read", self._consumer):
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
                low, high = self._watermarks(place, time.monotonic() + timeout_s)
                if high > low:
                    behind[place.partition] = high
        return behind

    def _watermarks(self, place: TopicPartition, deadline: float) -> tuple[int, int]:
        """Return the first offset and the end; wait for a leader where one is being chosen."""
        while True:
            left = max(0.1, deadline - time.monotonic())
            try:
                low, high = self._consumer.get_watermark_offsets(place, timeout=left)
            except KafkaException as error:
                if error.args[0].code() not in _UNSETTLED or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # a topic just made: the broker says so itself, there is no event
            else:
                return low, high

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
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise self._refused(refusal)
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
                raise self._refused(error)
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
            headers=_headers(message),
        )

    def _on_error(self, error: KafkaError) -> None:
        """Hear what concerns no partition; called by the client from within a poll."""
        if error.fatal() or error.code() in _REFUSALS:
            self._refusal = error
        elif error.code() == KafkaError._ALL_BROKERS_DOWN and self._is_open:
            # Said once for each outage; whoever opens a tail gets the error instead.
            log.warning(
                "no broker of %s answers; waiting for one\n"
                "  hint: look whether the brokers are up; nothing is lost meanwhile",
                self._config.bootstrap,
            )

    def _refused(self, error: KafkaError) -> BrokerError:
        return BrokerError(
            f"{self._config.bootstrap} refuses to be read: {error.str()}",
            hint="check KAFKA_SASL_* and the rights of this user",
        )

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def _headers(message: Message) -> tuple[tuple[str, bytes], ...]:
    found = message.headers() or []
    pairs = found.items() if isinstance(found, dict) else found
    return tuple((name, value) for name, value in pairs if isinstance(value, bytes))


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
