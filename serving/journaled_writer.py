"""Writes events to Kafka and to a journal, which forgets what Kafka has.

A report for each event would cost more than the event. So a segment of the journal belongs to one
of two producers: when a segment is full, the other producer takes over if it has nothing left to
send, and once the first one has nothing left either, Kafka has all events of its segments.
"""

import logging
import threading
from dataclasses import dataclass, field
from typing import Protocol

from tidemill.serving.journal import Journal, JournalSegment

logger = logging.getLogger(__name__)

_KEEP_S = 0.05  # how often the journal is compared with what Kafka has
_SENT_AT_ONCE = 1_000  # decisions wait so long: a few milliseconds


class Producer(Protocol):
    """What sends events; `tidemill.kafka.Writer` is one."""

    failed: int
    """How many events were refused for good."""

    @property
    def waiting(self) -> int:
        """How many events are not acknowledged yet."""

    def write(self, topic: str, key: bytes | None, value: bytes | None) -> bool:
        """Take one event; False if there is no room."""


@dataclass(slots=True)
class _Generation:
    """The segments whose events one producer sends."""

    writer: Producer
    segments: list[JournalSegment] = field(default_factory=list)
    refused: list[tuple[JournalSegment, int]] = field(default_factory=list)
    """Events that the producer had no room for; they are sent from the journal later."""
    failed_before: int = 0

    @property
    def is_delivered(self) -> bool:
        """Whether the brokers have answered for all events."""
        return not self.refused and self.writer.waiting == 0


class JournaledWriter:
    """Writes each event to one of two producers and to the journal; safe to share among threads."""

    def __init__(self, journal: Journal, writers: tuple[Producer, Producer]) -> None:
        self.missed = 0  # events for which the journal had no room
        self._journal = journal
        self._current, self._other = (_Generation(writer) for writer in writers)
        self._active = journal.segments[-1]
        self._current.segments.append(self._active)
        self._append = self._active.append
        self._produce = self._current.writer.write
        self._kept = 0  # segments with events that Kafka has refused for good
        self._saved = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="journal", daemon=True)
        self._thread.start()

    def write(self, topic: str, key: bytes | None, value: bytes | None, /) -> bool:
        """Take one event; False if neither the buffer nor the journal has room for it."""
        with self._lock:
            start = self._append(topic, key, value) or self._append_to_next(topic, key, value)
            if self._produce(topic, key, value):
                return True
            if not start:
                return False
            self._current.refused.append((self._active, start))
            self._saved += 1
            return True

    def _append_to_next(self, topic: str, key: bytes | None, value: bytes | None) -> int:
        """Go on in a new segment; return 0 if there is none."""
        segment = self._journal.next_segment()
        if segment is None:
            self.missed += 1
            return 0
        if not self._other.segments:
            self._current, self._other = self._other, self._current
            self._current.failed_before = self._current.writer.failed
            self._produce = self._current.writer.write
        self._current.segments.append(segment)
        self._active = segment
        self._append = segment.append
        return self._append(topic, key, value)

    @property
    def saved(self) -> int:
        """How often a producer had no room for an event that the journal has."""
        return self._saved

    @property
    def waiting(self) -> int:
        """How many events are in the journal alone."""
        return len(self._current.refused) + len(self._other.refused)

    @property
    def trouble(self) -> str | None:
        """Why the journal does not take events, or None."""
        return self._journal.trouble

    @property
    def size_bytes(self) -> int:
        """How much of the disk the journal takes."""
        return sum(segment.end for segment in list(self._journal.segments))

    def keep(self) -> None:
        """Delete what Kafka has, and send what a producer had no room for."""
        with self._lock:
            if not self._other.is_delivered:
                self._send_refused(self._other)
            elif self._other.segments:
                self._forget(self._other, len(self._other.segments))
            current, end = self._current, self._active.end
            if not current.is_delivered:
                self._send_refused(current)
            elif current.writer.failed == current.failed_before:
                self._forget(current, len(current.segments) - 1)
                self._active.note_delivered(end)

    def _forget(self, generation: _Generation, count: int) -> None:
        done, generation.segments = generation.segments[:count], generation.segments[count:]
        if generation.writer.failed != generation.failed_before:
            self._kept += len(done)  # the next start tries once more
            return
        for segment in done:
            self._journal.remove(segment)

    def _send_refused(self, generation: _Generation) -> None:
        sent = 0
        for segment, start in generation.refused[:_SENT_AT_ONCE]:
            if not generation.writer.write(*segment.event_at(start)):
                self._saved += 1
                break
            sent += 1
        del generation.refused[:sent]

    def _keep(self) -> None:
        while not self._closed.wait(_KEEP_S):
            self.keep()
            self._journal.make_spare()

    def close(self) -> None:
        """Stop; delete the journal if Kafka has all of it."""
        self._closed.set()
        self._thread.join()
        self.keep()
        failed = self._kept or self._current.writer.failed != self._current.failed_before
        left = not (self._current.is_delivered and self._other.is_delivered) or failed
        self._journal.close(is_delivered=not left)
        if left:
            logger.error("events are left in %s: the next start sends them", self._journal.folder)
