"""Write records: without ever blocking (`Writer`), or until all are durable (`write_all`).

Clients of every language read what is written here: single events are not compressed, and what
`write_all` puts on shared topics is compressed with gzip. Not every client reads lz4 and zstd; and
gzip costs 8 us of CPU for an event. A topic's own `compression.type` has the broker compress it.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tidemill.errors import BrokerError
from tidemill.kafka.config import ANSWER_S, KafkaConfig, client_log
from tidemill.kafka.outage import broker_errors

logger = logging.getLogger(__name__)

STUCK_S = 5.0  # brokers that are well acknowledge within milliseconds


def new_producer(config: KafkaConfig, more: Mapping[str, object]) -> Producer:
    """Return a producer that puts a key where every client of the loop puts it."""
    settings = config.client(
        partitioner="murmur2_random",  # as the Java clients, so that a key has one partition
        acks="all",
    )
    return Producer({**settings, **more}, logger=client_log)


class Writer:
    """Sends records without ever blocking; safe to share among threads.

    At most *queue_messages* records wait for the broker, for as long as it takes. When the buffer
    is full, the newest record is refused and counted. A thread of its own polls the client.
    """

    def __init__(
        self, config: KafkaConfig, *, queue_messages: int = 100_000, linger_ms: float = 5
    ) -> None:
        self.dropped = 0
        self.failed = 0
        self._accepted = 0
        self._lost = 0
        self._lock = threading.Lock()
        self._progress = Progress()
        self._closed = threading.Event()
        more: dict[str, object] = {
            "queue.buffering.max.messages": queue_messages,
            "linger.ms": linger_ms,
            "enable.idempotence": True,
            "message.timeout.ms": 0,  # the buffer is the limit, not a timeout
            "delivery.report.only.error": True,  # a Python call for each success would cost 1 us
            "on_delivery": self._on_failure,
        }
        self._producer = new_producer(config, more)
        self._server = threading.Thread(target=self._serve, name="kafka-writer", daemon=True)
        self._server.start()

    def write(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Sequence[tuple[str, bytes]] | None = None,
        partition: int = -1,
    ) -> bool:
        """Hand one record to the client; return False if it was refused.

        With a full buffer it counts as `dropped`; a record that the client refuses, say one over
        its size limit, counts as `failed`. A *partition* of -1 means the partition of the key.
        """
        try:
            if headers:
                self._producer.produce(topic, value, key, partition, headers=list(headers))
            else:
                self._producer.produce(topic, value, key, partition)
        except BufferError:
            with self._lock:
                self.dropped += 1
            return False
        except KafkaException as error:
            self._on_failure(error.args[0], None)
            return False
        self._accepted += 1  # one step for CPython's threads; a lock would be a tenth of a write
        return True

    @property
    def delivered(self) -> int:
        """How many records the broker has acknowledged; exact once `flush` has returned 0."""
        with self._lock:
            return max(0, self._accepted - self._lost - len(self._producer))

    @property
    def waiting(self) -> int:
        """How many records are in the buffer or not yet acknowledged."""
        return len(self._producer)

    def flush(self, timeout_s: float) -> int:
        """Wait for the acknowledgements; return how many records have none yet."""
        return int(self._producer.flush(timeout_s))

    def close(self, timeout_s: float = 10.0, *, consequence: str = "are lost") -> None:
        """Flush for at most *timeout_s* and stop; log how many records were not delivered.

        *consequence* says what becomes of those.
        """
        waiting = self.flush(timeout_s)
        self._closed.set()
        self._server.join()
        if waiting:
            logger.error("%d records were never acknowledged and %s", waiting, consequence)

    def _on_failure(self, error: KafkaError, message: Message | None) -> None:
        with self._lock:
            self.failed += 1
            if message is not None:
                self._lost += 1
        logger.error("a record was not delivered: %s", error)

    @property
    def trouble(self) -> str | None:
        """What is wrong with the delivery, in a clause, before anything is lost; else None."""
        stuck_s = self._progress.stuck_s
        if stuck_s < STUCK_S:
            return None
        return f"events wait for Kafka ({self.waiting:,}), which has taken none for {stuck_s:.0f} s"

    def _serve(self) -> None:
        is_told = False
        while not self._closed.is_set():
            self._producer.poll(0.1)
            waiting = len(self._producer)
            self._progress.look(time.monotonic(), waiting=waiting, done=self._accepted - waiting)
            trouble = self.trouble
            if trouble and not is_told:
                logger.warning("%s\n  hint: see that the brokers are up and not full", trouble)
            elif is_told and not trouble:
                logger.warning("Kafka takes events again")
            is_told = trouble is not None


class Progress:
    """Tells for how long records have waited while none was done."""

    def __init__(self) -> None:
        self.stuck_s = 0.0
        self._done = 0
        self._since_s: float | None = None

    def look(self, now_s: float, *, waiting: int, done: int) -> None:
        """Take in how many records wait at the monotonic time *now_s*, and how many are done."""
        if not waiting or done > self._done or self._since_s is None:
            self._since_s = now_s
        self._done = max(done, self._done)
        self.stuck_s = now_s - self._since_s


def write_all(
    config: KafkaConfig,
    topic: str,
    items: Iterable[tuple[bytes, bytes | None]],
    *,
    headers: Sequence[tuple[str, bytes]] = (),
    timeout_s: float = 30.0,
) -> None:
    """Write key-value pairs in their order, each with *headers*; return when all are acknowledged.

    If an answer of the broker is lost, a record may be written twice.

    Raises:
        BrokerError: one was refused, or not acknowledged within *timeout_s*; others may be written.
    """
    errors: list[str] = []

    def report(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            errors.append(error.str())

    more = {
        "compression.type": "gzip",
        "message.timeout.ms": int(timeout_s * 1000),
        "max.in.flight.requests.per.connection": 1,  # in order; an idempotent one starts in 0.5 s
        "on_delivery": report,
    }
    producer = new_producer(config, more)
    with broker_errors(config, f"could not write to {topic}"):
        producer.list_topics(topic, timeout=min(ANSWER_S, timeout_s))  # is anybody there?
        for key, value in items:
            while True:
                try:
                    producer.produce(topic, value, key, headers=list(headers))
                    break
                except BufferError:
                    producer.poll(0.1)
        waiting = producer.flush(timeout_s + 1)
    if errors or waiting:
        raise BrokerError(
            f"{len(errors) + waiting} records for {topic} were not acknowledged by "
            f"{config.bootstrap}: {errors[0] if errors else f'no answer in {timeout_s} s'}",
            hint="check that the brokers are up and the topic exists; then try again",
        )
