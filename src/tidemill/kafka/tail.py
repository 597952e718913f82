"""Read a whole topic without a consumer group: its compacted content, or its tail without end."""

import logging
import time
from collections.abc import Callable
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
from tidemill.kafka.config import ANSWER_S, KafkaConfig, client_log
from tidemill.kafka.outage import broker_errors

logger = logging.getLogger(__name__)

_REFUSALS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError._AUTHENTICATION,
}
_UNSETTLED = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,  # the answer of a broker that has not heard of a new topic yet
    KafkaError._UNKNOWN_TOPIC,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record; *timestamp_ms* is the broker's, in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...] = ()


class Tail:
    """Reads all partitions of a topic from the beginning, without end and without a consumer group.

    It is made for compacted topics. If the broker goes away, it waits and goes on when it returns.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topic: str,
        *,
        timeout_s: float = 30.0,
        newest: int | None = None,
    ) -> None:
        """Find the partitions and their end offsets; begin *newest* offsets before these, if given.

        Raises:
            BrokerError: there is no such topic, or the broker does not answer within *timeout_s*.
        """
        self._config = config
        settings = config.client(
            group_id="tidemill-tail",  # required by the client, never used
            enable_auto_commit=False,
            enable_partition_eof=True,
            auto_offset_reset="earliest",
            fetch_wait_max_ms=100,
        )
        self._topic = topic
        self._partitions: list[TopicPartition] = []
        self._next: dict[int, int] = {}  # the next offset, by partition; -1 before the first record
        self._aimed_from: dict[int, int] = {}  # the next offset at the last aim
        self._refusal: KafkaError | None = None
        self._is_open = False
        self._consumer = Consumer({**settings, "error_cb": self._on_error}, logger=client_log)
        self._unread_to: dict[int, int] = {}
        try:
            self._assign(timeout_s, newest)
        except BrokerError:
            self._consumer.close()
            raise
        self._is_open = True

    def _assign(self, timeout_s: float, newest: int | None) -> None:
        """Start at the beginning of each partition, or *newest* offsets before its end."""
        topic = self._topic
        with broker_errors(self._config, f"topic {topic} could not be read", self._consumer):
            found = self._consumer.list_topics(timeout=timeout_s).topics.get(topic)
            if found is None or not found.partitions:
                raise BrokerError(
                    f"there is no topic {topic} at {self._config.bootstrap}",
                    hint="publish a loop first (tidemill publish LOOP.yaml): it makes the topics",
                )
            self._partitions = [
                TopicPartition(topic, number, OFFSET_BEGINNING) for number in found.partitions
            ]
            self._next = dict.fromkeys(found.partitions, -1)
            if newest is not None:
                for partition in self._partitions:
                    low, high = self._watermarks(partition, time.monotonic() + timeout_s)
                    partition.offset = max(low, high - newest)
            self._consumer.assign(self._partitions)
        self.aim_at_end(timeout_s)

    def aim_at_end(self, timeout_s: float = 30.0) -> None:
        """Count as caught up only at the end offsets that the partitions have now.

        Raises:
            BrokerError: the broker does not answer within *timeout_s*.
        """
        what = f"the end of topic {self._topic} could not be read"
        with broker_errors(self._config, what, self._consumer):
            for partition in self._partitions:
                low, high = self._watermarks(partition, time.monotonic() + timeout_s)
                number = partition.partition
                self._aimed_from[number] = self._next[number]
                if high > max(low, self._next[number]):
                    self._unread_to[number] = high

    def _watermarks(self, partition: TopicPartition, deadline: float) -> tuple[int, int]:
        """Return the first offset and the end; wait while a leader is being elected."""
        while True:
            left = max(0.1, deadline - time.monotonic())
            try:
                low, high = self._consumer.get_watermark_offsets(partition, timeout=left)
            except KafkaException as error:
                if error.args[0].code() not in _UNSETTLED or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # a new topic: there is no event to wait for
            else:
                return low, high

    @property
    def caught_up(self) -> bool:
        """Whether all records have been returned that existed at the start or at `aim_at_end`."""
        return not self._unread_to

    def poll(self, timeout_s: float) -> list[Record]:
        """Return the records that have arrived; wait at most *timeout_s* for the first.

        Raises:
            BrokerError: the broker refuses permanently, say because a right is missing.
        """
        first = self._consumer.poll(timeout_s)
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise self._refused(refusal)
        messages = [] if first is None else [first, *self._consumer.consume(10_000, timeout=0)]
        return [record for message in messages if (record := self._record(message)) is not None]

    def _record(self, message: Message) -> Record | None:
        error, partition, offset = message.error(), message.partition(), message.offset()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._note_end(partition or 0, offset or 0)
            elif error.fatal() or error.code() in _REFUSALS:
                raise self._refused(error)
            return None
        if partition is None or offset is None:
            return None
        self._next[partition] = offset + 1
        if self._unread_to.get(partition, offset + 2) <= offset + 1:
            del self._unread_to[partition]
        return record_of(message)

    def _note_end(self, partition: int, offset: int) -> None:
        """Take that *partition* ended at *offset*, unless that was so before the last aim.

        The last offsets may be control records of a transaction, or of one that is still open.
        """
        if offset > self._aimed_from[partition]:
            self._unread_to.pop(partition, None)

    def _on_error(self, error: KafkaError) -> None:
        """Take an error that concerns no partition; the client calls it within a poll."""
        if error.fatal() or error.code() in _REFUSALS:
            self._refusal = error
        elif error.code() == KafkaError._ALL_BROKERS_DOWN and self._is_open:
            # Reported once per outage; whoever opens a tail gets the error instead.
            logger.warning(
                "no broker of %s answers; waiting for one\n"
                "  hint: check that the brokers are up; nothing is lost meanwhile",
                self._config.bootstrap,
            )

    def _refused(self, error: KafkaError) -> BrokerError:
        return BrokerError(
            f"{self._config.bootstrap} refuses to be read: {error.str()}",
            hint="check KAFKA_SASL_* and the rights of this user",
        )

    def __str__(self) -> str:
        return f"topic {self._topic} at {self._config.bootstrap}"

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


def record_of(message: Message) -> Record:
    """Return *message*, which has no error, as a record."""
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=message.key(),
        value=message.value(),
        timestamp_ms=message.timestamp()[1],
        headers=_headers(message),
    )


def _headers(message: Message) -> tuple[tuple[str, bytes], ...]:
    try:
        found = message.headers() or []
    except (UnicodeDecodeError, SystemError):  # a name that is no text: its record has none
        return ()
    pairs = found.items() if isinstance(found, dict) else found
    return tuple((name, value) for name, value in pairs if isinstance(value, bytes))


def read_to_end(
    tail: Tail, take: Callable[[list[Record]], object], *, timeout_s: float = 30.0
) -> None:
    """Give the records of *tail* to *take* until it has caught up.

    Raises:
        BrokerError: it has not within *timeout_s*.
    """
    deadline = time.monotonic() + timeout_s
    while not tail.caught_up:
        if time.monotonic() > deadline:
            raise BrokerError(
                f"{tail} was not read to its end in {timeout_s} s",
                hint="check that the broker is up; then try again",
            )
        take(tail.poll(0.1))


def read_compacted(
    config: KafkaConfig, topic: str, *, timeout_s: float = 30.0
) -> dict[bytes, bytes]:
    """Return the newest value of each key up to the end offsets at the call, without tombstones.

    Raises:
        BrokerError: there is no such topic, or its end was not reached within *timeout_s*.
    """
    newest: dict[bytes, bytes] = {}

    def take(records: list[Record]) -> None:
        for record in records:
            if record.key is None:
                continue
            newest.pop(record.key, None)  # keys in the order of their newest record
            if record.value is not None:
                newest[record.key] = record.value

    tail = Tail(config, topic, timeout_s=min(ANSWER_S, timeout_s))
    try:
        read_to_end(tail, take, timeout_s=timeout_s)
    finally:
        tail.close()
    return newest
