"""Where a worker writes its events, without ever waiting.

An event is dropped and counted if the buffer has no room for it. A deployed worker uses
`tidemill.kafka.Writer`, which has a bounded buffer for the broker.
"""

import threading
from typing import NamedTuple, Protocol


class EventLog(Protocol):
    """The write side of the event topics."""

    dropped: int
    """How many events were refused because the buffer was full."""
    failed: int
    """How many events the broker or its client refused for good."""

    @property
    def delivered(self) -> int:
        """How many events the broker has acknowledged."""

    @property
    def waiting(self) -> int:
        """How many events are still in the buffer."""

    @property
    def trouble(self) -> str | None:
        """What is wrong with the delivery, in a clause; None if it is well."""

    def write(self, topic: str, key: bytes | None, value: bytes | None) -> bool:
        """Take one event and return at once; False if it was dropped."""

    def flush(self, timeout_s: float) -> int:
        """Wait until all events are acknowledged; return how many are not after *timeout_s*."""

    def close(self, timeout_s: float = 10.0) -> None:
        """Flush for at most *timeout_s* and stop."""


class Event(NamedTuple):
    """One event as it was written."""

    topic: str
    key: bytes | None
    value: bytes | None


class MemoryEventLog:
    """Keeps at most *capacity* events in this process, for tests and for trying a loop out.

    Clear `events` to make room for more.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self.events: list[Event] = []
        self.dropped = 0
        self.failed = 0
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

    @property
    def trouble(self) -> str | None:
        """Always None."""
        return None

    def write(self, topic: str, key: bytes | None, value: bytes | None) -> bool:
        """Take one event; False if *capacity* is reached."""
        with self._lock:
            if len(self.events) >= self._capacity:
                self.dropped += 1
                return False
            self.events.append(Event(topic, key, value))
            return True

    def flush(self, timeout_s: float) -> int:
        """Return 0 at once."""
        return 0

    def close(self, timeout_s: float = 10.0) -> None:
        """Do nothing: the events stay readable."""
