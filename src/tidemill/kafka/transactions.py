"""Write records in transactions: readers get all records of a transaction, or none.

Delivery: exactly once, for readers of committed records. Opening a writer under a name aborts the
transaction of its former owner and fences it, whether that is a zombie or a process that was killed
in the middle. Offsets of a consumer group can be part of a transaction.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tidemill.errors import BrokerError, FencedError
from tidemill.kafka.config import KafkaConfig, client_log

logger = logging.getLogger(__name__)

MAX_BYTES = 64 * 2**20  # of one record; each topic has its own limit
_FENCED = {
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
}


class TransactionalWriter:
    """Writes in transactions under a name that one process owns at a time. Not thread-safe."""

    def __init__(self, config: KafkaConfig, name: str, *, timeout_s: float = 30.0) -> None:
        """Take over *name*; return when the transaction of its former owner has ended.

        Raises:
            BrokerError: the broker does not answer within *timeout_s*, or refuses.
        """
        self._config = config
        self._name = name
        self._timeout_s = timeout_s
        self._offsets_of: Consumer | None = None
        settings = config.client(
            transactional_id=name,
            partitioner="murmur2_random",  # as the Java clients, so that a key has one partition
            linger_ms=5,
            transaction_timeout_ms=int(timeout_s * 1000),
            message_timeout_ms=int(timeout_s * 1000),
            message_max_bytes=MAX_BYTES,
            queue_buffering_max_messages=200_000,
        )
        self._producer = Producer(settings, logger=client_log)
        with self._errors("could not be begun"):
            self._producer.init_transactions(timeout_s)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block writes, or nothing if the block raises.

        Raises:
            FencedError: another process has opened a writer of the same name.
            BrokerError: it could not be committed; readers will get nothing of it.
        """
        try:
            with self._errors("was not committed"):
                self._producer.begin_transaction()
                yield
                self._producer.commit_transaction(self._timeout_s)
        except BaseException:
            with suppress(KafkaException):  # a fenced writer cannot, and need not
                self._producer.abort_transaction(self._timeout_s)
            raise

    def write(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int = -1,
    ) -> None:
        """Write one record of the transaction; -1 means the partition of the key."""
        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=list(headers))
                return
            except BufferError:
                self._producer.poll(0.1)

    def move(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Make *offsets* of a consumer *group* part of the transaction.

        They are the next offsets to read, by topic and partition.
        """
        places = [TopicPartition(topic, number, at) for (topic, number), at in offsets.items()]
        metadata = self._group(group).consumer_group_metadata()
        self._producer.send_offsets_to_transaction(places, metadata, self._timeout_s)

    def offsets(self, group: str, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """Return the next offset of those of *partitions* for which *group* has committed one.

        Raises:
            BrokerError: the broker does not answer.
        """
        places = [TopicPartition(topic, number) for number in partitions]
        with self._errors("could not be begun"):
            found = self._group(group).committed(places, timeout=self._timeout_s)
        return {place.partition: place.offset for place in found if place.offset >= 0}

    def partitions(self, topic: str) -> int:
        """Return how many partitions *topic* has now.

        Raises:
            BrokerError: the broker does not answer.
        """
        with self._errors("cannot go on"):
            return len(self._producer.list_topics(topic, self._timeout_s).topics[topic].partitions)

    def _group(self, group: str) -> Consumer:
        if self._offsets_of is None:
            settings = self._config.client(group_id=group, enable_auto_commit=False)
            self._offsets_of = Consumer(settings, logger=client_log)
        return self._offsets_of

    def close(self) -> None:
        """Disconnect."""
        if self._offsets_of is not None:
            self._offsets_of.close()
            self._offsets_of = None

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            found = self._cause(error.args[0])
            if found.code() in _FENCED:
                raise FencedError(
                    f"another process writes as {self._name} now",
                    hint="nothing to repair: what this one had not committed is not there",
                ) from error
            raise BrokerError(
                f"a transaction of {self._name} {what} at {self._config.bootstrap}: {found.str()}",
                hint="nothing of it is there; see that the brokers are up, then do it again",
            ) from error

    def _cause(self, error: KafkaError) -> KafkaError:
        """Return the first error of a client that failed, where *error* only says that it did."""
        if error.code() == KafkaError._FATAL:
            try:
                self._producer.abort_transaction(self._timeout_s)
            except KafkaException as cause:
                found: KafkaError = cause.args[0]
                return found
        return error
