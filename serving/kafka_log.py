"""The events of a worker on their way to Kafka.

Delivery: at least once, and each id counts once. Decisions go to a buffer and, with a journal, to
memory-mapped files; feedback over HTTP is answered when Kafka has it. A worker that is killed loses
what is in the buffer and not in the journal. The next start delivers the journal; what Kafka had
already comes twice then, which the join sees by its id.
"""

import logging
import threading
import time
from collections.abc import Sequence

from tidemill.errors import ConfigError
from tidemill.kafka import AcknowledgedWriter, KafkaConfig, Writer
from tidemill.schemas.record_signature import RecordHeaders
from tidemill.serving.decision.event_log import Event, OnDelivered, WriteEvent
from tidemill.serving.journal import Journal, JournalConfig, LeftJournal, left_journals
from tidemill.serving.journaled_writer import JournaledWriter

logger = logging.getLogger(__name__)

_RETRY_S = 0.1
_KEPT = "stay in the journal: the next start sends them"


class KafkaEventLog:
    """Writes events without waiting for Kafka; safe to share among threads.

    Args:
        config: the brokers.
        queue_events: how many events may wait in a buffer.
        linger_ms: how long a decision may wait to be sent in one batch with others.
        acknowledge_s: after so long feedback is given up.
        journal: where decisions survive `kill -9`; None for nowhere.
    """

    def __init__(
        self,
        config: KafkaConfig,
        *,
        queue_events: int = 100_000,
        linger_ms: int = 50,
        acknowledge_s: float = 5.0,
        journal: JournalConfig | None = None,
    ) -> None:
        self._config = config
        self._queue_events = queue_events
        self._acknowledge_s = acknowledge_s
        self._lock = threading.Lock()
        self._acknowledged: AcknowledgedWriter | None = None
        self._journal_trouble: str | None = None
        made = self._new_journal(journal) if journal is not None else None
        count = 1 if made is None else 2
        self._writers = [
            Writer(config, queue_messages=queue_events, linger_ms=linger_ms) for _ in range(count)
        ]
        self.write: WriteEvent = self._writers[0].write
        self.journaled: JournaledWriter | None = None
        self._left: _LeftDelivery | None = None
        if journal is not None and made is not None:
            self.journaled = JournaledWriter(made, (self._writers[0], self._writers[1]))
            self.write = self.journaled.write
            self._left = _LeftDelivery(config, journal)

    def write_volatile(
        self, topic: str, key: bytes | None, value: bytes | None, *, headers: RecordHeaders = ()
    ) -> bool:
        """Take one record that need not survive this process."""
        return self._writers[0].write(topic, key, value, headers=headers)

    def _new_journal(self, journal: JournalConfig) -> Journal | None:
        try:
            return Journal(journal, self._config.bootstrap)
        except ConfigError as error:
            if journal.is_required:
                raise
            logger.warning("%s", error)
            self._journal_trouble = f"there is no journal: {error.what}"
            return None

    @property
    def dropped(self) -> int:
        """How many events were refused because the buffer, and the journal if any, were full."""
        saved = self.journaled.saved if self.journaled is not None else 0
        return sum(each.dropped for each in self._all()) - saved

    @property
    def failed(self) -> int:
        """How many events the broker or its client refused for good."""
        return sum(each.failed for each in self._all())

    @property
    def delivered(self) -> int:
        """How many events the broker has acknowledged."""
        return sum(each.delivered for each in self._all())

    @property
    def waiting(self) -> int:
        """How many events are not acknowledged yet."""
        in_journal = self.journaled.waiting if self.journaled is not None else 0
        return in_journal + sum(each.waiting for each in self._all())

    @property
    def journal_bytes(self) -> int:
        """How much of the disk the journal takes, if there is one."""
        return self.journaled.size_bytes if self.journaled is not None else 0

    @property
    def journal_missed(self) -> int:
        """How many events the journal had no room for."""
        return self.journaled.missed if self.journaled is not None else 0

    @property
    def troubles(self) -> list[str]:
        """What an operator should know about the delivery and the journal, a clause each."""
        found = [each.trouble for each in self._writers]
        found += [] if self.journaled is None else [self.journaled.trouble]
        found += [] if self._left is None else [self._left.trouble]
        found.append(self._journal_trouble)
        return [trouble for trouble in found if trouble is not None]

    def deliver(self, events: Sequence[Event], done: OnDelivered) -> None:
        """Take *events* and return at once; call *done* when the broker has all of them, or not."""
        self._acknowledging().write_all(events, done)

    def flush(self, timeout_s: float) -> int:
        """Wait until all events are acknowledged; return how many are not after *timeout_s*."""
        deadline = time.monotonic() + timeout_s
        for each in self._all():
            each.flush(max(0.0, deadline - time.monotonic()))
        while self.journaled is not None and self.waiting and time.monotonic() < deadline:
            self.journaled.keep()
            for each in self._writers:
                each.flush(max(0.0, min(_RETRY_S, deadline - time.monotonic())))
        return self.waiting

    def close(self, timeout_s: float = 10.0) -> None:
        """Flush for at most *timeout_s* and stop; the journal keeps what Kafka does not have."""
        self.flush(timeout_s)
        if self._left is not None:
            self._left.close()
        if self.journaled is not None:
            self.journaled.close()
        for writer in self._writers:
            writer.close(timeout_s=0.0, consequence=self._left_behind())
        if self._acknowledged is not None:
            self._acknowledged.close(timeout_s=0.0)

    def _left_behind(self) -> str:
        """Return what becomes of events that Kafka does not have at the end."""
        if self.journaled is None:
            return "are lost"
        missed = self.journal_missed
        return f"{_KEPT}, but for at most {missed} without room in it" if missed else _KEPT

    def _all(self) -> list[Writer | AcknowledgedWriter]:
        acknowledged = self._acknowledged
        return [*self._writers, *([acknowledged] if acknowledged is not None else [])]

    def _acknowledging(self) -> AcknowledgedWriter:
        """Return the writer for feedback over HTTP; a worker inside a service has none."""
        if self._acknowledged is None:
            with self._lock:
                if self._acknowledged is None:
                    self._acknowledged = AcknowledgedWriter(
                        self._config,
                        queue_messages=self._queue_events,
                        timeout_s=self._acknowledge_s,
                    )
        return self._acknowledged


class _LeftDelivery:
    """Sends what ended workers have left in the folder of the journal, in a thread of its own."""

    def __init__(self, config: KafkaConfig, journal: JournalConfig) -> None:
        self.trouble: str | None = None
        self._config = config
        self._closed = threading.Event()
        self._left = left_journals(journal)
        self._thread = threading.Thread(target=self._run, name="left-journals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what is not delivered stays."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        ours = []
        for left in self._left:
            if left.bootstrap == self._config.bootstrap:
                ours.append(left)
            elif next(left.events(), None) is None:
                left.remove()
            else:
                left.close()
        if ours:
            writer = Writer(self._config)
            for left in ours:
                self._send(left, writer)
            writer.close(timeout_s=0.0, consequence=_KEPT)

    def _send(self, left: LeftJournal, writer: Writer) -> None:
        failed, events = writer.failed, list(left.events())
        if events:
            self.trouble = f"{len(events)} events of an ended worker wait for Kafka"
        for event in events:
            while not (self._closed.is_set() or writer.write(*event)):
                self._closed.wait(_RETRY_S)
        while not self._closed.is_set() and writer.flush(_RETRY_S):
            pass
        if self._closed.is_set():
            left.close()
            return
        left.remove()
        self.trouble = None
        if events:
            logger.info("%d events of an ended worker are with Kafka now", len(events))
        if writer.failed > failed:
            logger.error("%d of them were refused for good", writer.failed - failed)
