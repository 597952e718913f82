"""Where a worker leaves its events. Writing never waits: what does not fit is dropped and counted.

`tidemill.kafka.Writer` is the log of a real worker, with a bounded buffer before the broker.
"""

import threading
from typing import NamedTuple, Protocol


class EventLog(Protocol):
    """The write side of the event topics, as a worker sees it."""

    dropped: int
    """How many events were refused because the buffer was full."""
    failed: int
    """How many events the broker, or the client for it, refused for good."""

    @property
    def delivered(self) -> int:
        """How many events are safe."""

    @property
    def waiting(self) -> int:
        """How many events are still in the buffer."""

    def write(self, topic: str, key: bytes | None, value: bytes | None) -> bool:
        """Take one event and return at once; False if it was not taken."""

    def flush(self, timeout_s: float) -> int:
        """Wait until all events are safe; return how many are not after *timeout_s*."""

    def close(self, timeout_s: float = 10.0) -> None:
        """Flush for at most *timeout_s* and stop."""


class Event(NamedTuple):
    """One event as it was written."""

    topic: str
    key: bytes | None
    value: bytes | None


class MemoryEventLog:
    """Keeps the newest events in this process, at most *capacity* until they are taken away.

    For tests and for trying a loop out. Clear `events` to make room, as a broker would.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self.events: list[Event] = []
        self.dropped = 0
        self.failed = 0
        self._capacity = capacity
        self._lock = threading.Lock()

    @property
    def delivered(self) -> int:
        """How many events are kept."""
        return len(self.events)

    @property
    def waiting(self) -> int:
        """None ever waits: they are all kept."""
        return 0

    def write(self, topic: str, key: bytes | None, value: bytes | None) -> bool:
        """Keep one event; False if there is no room."""
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
