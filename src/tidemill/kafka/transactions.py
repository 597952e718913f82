"""Writing records in transactions: all of one are there for readers, or none of them.

Delivery: exactly once, for readers of committed records. Who opens a writer under a name ends the
transaction of whoever had it before and shuts them out, a zombie or a process killed in the middle
included. Offsets of a consumer group can be part of a transaction.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tidemill.errors import BrokerError, FencedError
from tidemill.kafka.config import KafkaConfig, client_log

logger = logging.getLogger(__name__)

MAX_BYTES = 64 * 2**20  # of one record; topics have limits of their own
_FENCED = {
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
}


class TransactionalWriter:
    """Writes in transactions under a name that only one process has at a time. Not thread-safe."""

    def __init__(self, config: KafkaConfig, name: str, *, timeout_s: float = 30.0) -> None:
        """Take over *name*, and return when the transaction of its last owner has ended.

        Raises:
            BrokerError: the broker does not answer in *timeout_s*, or refuses.
        """
        self._config = config
        self._name = name
        self._timeout_s = timeout_s
        self._offsets_of: Consumer | None = None
        settings = config.client(
            transactional_id=name,
            partitioner="murmur2_random",  # as the Java clients: a key has the same place for all
            compression_type="lz4",
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
        """Commit what the block writes, or nothing of it if the block ends by an error.

        Raises:
            FencedError: somebody has opened a writer of the same name since.
            BrokerError: it could not be committed; nothing of it will be seen.
        """
        try:
            with self._errors("was not committed"):
                self._producer.begin_transaction()
                yield
                self._producer.commit_transaction(self._timeout_s)
        except BaseException:
            with suppress(KafkaException):  # who is fenced cannot, and need not
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
        """Write one record of the transaction; a *partition* of -1 means: by the key."""
        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=list(headers))
                return
            except BufferError:
                self._producer.poll(0.1)

    def move(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Make *offsets* of a consumer *group* part of the transaction.

        They are the next ones to read, by topic and partition.
        """
        places = [TopicPartition(topic, number, at) for (topic, number), at in offsets.items()]
        metadata = self._group(group).consumer_group_metadata()
        self._producer.send_offsets_to_transaction(places, metadata, self._timeout_s)

    def offsets(self, group: str, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """Return the next offset of each of *partitions* of which *group* has committed one.

        Raises:
            BrokerError: the broker does not answer.
        """
        places = [TopicPartition(topic, number) for number in partitions]
        with self._errors("could not be begun"):
            found = self._group(group).committed(places, timeout=self._timeout_s)
        return {place.partition: place.offset for place in found if place.offset >= 0}

    def _group(self, group: str) -> Consumer:
        if self._offsets_of is None:
            settings = self._config.client(group_id=group, enable_auto_commit=False)
            self._offsets_of = Consumer(settings, logger=client_log)
        return self._offsets_of

    def close(self) -> None:
        """Leave the broker."""
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
        """Return what made the client give up for good, where *error* only says that it did."""
        if error.code() == KafkaError._FATAL:
            try:
                self._producer.abort_transaction(self._timeout_s)
            except KafkaException as cause:
                found: KafkaError = cause.args[0]
                return found
        return error
