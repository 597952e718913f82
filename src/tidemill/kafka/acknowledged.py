"""Write records, and tell when Kafka has them, without ever blocking."""

import threading
from collections.abc import Callable, Sequence
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message

from tidemill.kafka.config import KafkaConfig
from tidemill.kafka.writer import new_producer

TopicRecord = tuple[str, bytes | None, bytes | None]
"""Topic, key and value of a record to write."""


class AcknowledgedWriter:
    """Sends records, and calls back once the brokers have them; safe to share among threads.

    Unlike `Writer` it has a report for each record, which costs a microsecond of a thread of its
    own, and it gives a record up after *timeout_s*.
    """

    def __init__(
        self,
        config: KafkaConfig,
        *,
        queue_messages: int = 100_000,
        linger_ms: float = 0,
        timeout_s: float = 5.0,
    ) -> None:
        self.delivered = 0
        self.dropped = 0
        self.failed = 0
        self._closed = threading.Event()
        more: dict[str, object] = {
            "queue.buffering.max.messages": queue_messages,
            "linger.ms": linger_ms,
            "enable.idempotence": True,
            "message.timeout.ms": int(timeout_s * 1_000),
        }
        self._producer = new_producer(config, more)
        self._thread = threading.Thread(
            target=self._serve, name="kafka-acknowledged-writer", daemon=True
        )
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many records have no report yet."""
        return len(self._producer)

    def write_all(
        self, records: Sequence[TopicRecord], done: Callable[[str | None], object]
    ) -> None:
        """Hand *records* to the client and return at once.

        *done* is called once: with None when the brokers have all of them, or with what kept one of
        them from the brokers; others may have arrived then.
        """
        batch = _Unacknowledged(len(records), done)
        report = partial(self._on_delivery, batch)
        for topic, key, value in records:
            try:
                self._producer.produce(topic, value, key, on_delivery=report)
            except BufferError:
                self.dropped += 1
                batch.fail("the buffer for Kafka is full")
                return
            except KafkaException as error:
                self.failed += 1
                batch.fail(error.args[0].str())
                return

    def flush(self, timeout_s: float) -> int:
        """Wait for the reports; return how many records have none yet."""
        return int(self._producer.flush(timeout_s))

    def close(self, timeout_s: float = 10.0) -> None:
        """Flush for at most *timeout_s* and stop."""
        self.flush(timeout_s)
        self._closed.set()
        self._thread.join()

    def _on_delivery(
        self, batch: "_Unacknowledged", error: KafkaError | None, _message: Message
    ) -> None:
        if error is None:
            self.delivered += 1
            batch.take()
        else:
            self.failed += 1
            batch.fail(error.str())

    def _serve(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(0.1)


class _Unacknowledged:
    """Records that were written together, until all have their report."""

    __slots__ = ("_done", "_left")

    def __init__(self, count: int, done: Callable[[str | None], object]) -> None:
        self._left = count
        self._done: Callable[[str | None], object] | None = done

    def take(self) -> None:
        """Note that the brokers have one more."""
        self._left -= 1
        if self._left == 0:
            self._finish(None)

    def fail(self, trouble: str) -> None:
        """Note that one is not with the brokers."""
        self._finish(trouble)

    def _finish(self, trouble: str | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(trouble)
