"""Where a worker writes its events, without ever waiting.

An event is dropped and counted if the buffer has no room for it. A deployed worker uses
`KafkaEventLog`, which has a bounded buffer for the broker.
"""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from tidemill.schemas.record_signature import RecordHeaders


class Event(NamedTuple):
    """One event as it was written."""

    topic: str
    key: bytes | None
    value: bytes | None


WriteEvent = Callable[[str, bytes | None, bytes | None], bool]
"""Takes topic, key and value, and returns False if it had no room."""
OnDelivered = Callable[[str | None], object]
"""Called once, from any thread: with None, or with what kept an event from Kafka."""


class EventLog(Protocol):
    """The write side of the event topics."""

    @property
    def dropped(self) -> int:
        """How many events were refused because the buffer was full."""

    @property
    def failed(self) -> int:
        """How many events the broker or its client refused for good."""

    @property
    def delivered(self) -> int:
        """How many events the broker has acknowledged."""

    @property
    def waiting(self) -> int:
        """How many events are still in the buffer."""

    @property
    def journal_bytes(self) -> int:
        """How much of the disk the journal takes, if there is one."""

    @property
    def journal_missed(self) -> int:
        """How many events the journal had no room for."""

    @property
    def troubles(self) -> list[str]:
        """What an operator should know about the delivery, a clause each."""

    @property
    def write(self) -> WriteEvent:
        """Takes one event and returns at once; False if it was dropped."""

    def write_volatile(
        self, topic: str, key: bytes | None, value: bytes | None, *, headers: RecordHeaders = ()
    ) -> bool:
        """The same for a record that need not survive this process: an acknowledgement."""

    def deliver(self, events: Sequence[Event], done: OnDelivered) -> None:
        """Take *events* and return at once; call *done* when the broker has all of them, or not."""

    def flush(self, timeout_s: float) -> int:
        """Wait until all events are acknowledged; return how many are not after *timeout_s*."""

    def close(self, timeout_s: float = 10.0) -> None:
        """Flush for at most *timeout_s* and stop."""


class MemoryEventLog:
    """Keeps at most *capacity* events in this process, for tests and for trying a loop out.

    Clear `events` to make room for more.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self.events: list[Event] = []
        self.headers: dict[Event, RecordHeaders] = {}
        self.dropped = 0
        self.failed = 0
        self.journal_bytes = 0
        self.journal_missed = 0
        self.troubles: list[str] = []
        self._capacity = capacity
        self._lock = threading.Lock()

    @property
    def delivered(self) -> int:
        """How many events it holds."""
        return len(self.events)

    @property
    def waiting(self) -> int:
        """Always 0: an event is delivered at once."""
        return 0

    def write(self, topic: str, key: bytes | None, value: bytes | None, /) -> bool:
        """Take one event; False if *capacity* is reached."""
        with self._lock:
            if len(self.events) >= self._capacity:
                self.dropped += 1
                return False
            self.events.append(Event(topic, key, value))
            return True

    def write_volatile(
        self, topic: str, key: bytes | None, value: bytes | None, *, headers: RecordHeaders = ()
    ) -> bool:
        """Take one record; False if *capacity* is reached."""
        self.headers[Event(topic, key, value)] = headers
        return self.write(topic, key, value)

    def deliver(self, events: Sequence[Event], done: OnDelivered) -> None:
        """Take all events or none, and call *done* at once."""
        with self._lock:
            if len(self.events) + len(events) > self._capacity:
                self.dropped += len(events)
                trouble = "the buffer for Kafka is full"
            else:
                self.events.extend(events)
                trouble = None
        done(trouble)

    def flush(self, timeout_s: float) -> int:
        """Return 0 at once."""
        return 0

    def close(self, timeout_s: float = 10.0) -> None:
        """Do nothing: the events stay readable."""
