"""Payloads that nobody can read go to `tidemill.dead-letters`, with their reason and their source.

Delivery: at least once. Every letter is acknowledged by the broker before the commit of the lake
that moves past its record; a crash between the two writes it again. Letters are told apart by their
source (topic, partition, offset), which is also their key. How many there were is counted exactly,
in the lake, by the commit itself.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol, Self

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Writer
from tidemill.schemas import topics

log = logging.getLogger(__name__)

PART_BYTES = 900_000  # under the 1 MiB that topics take by default
_PREFIX_BYTES = 10  # single-object encoding: two marker bytes and the schema's fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One record that could not be read: *reason* is a word, *detail* is for people."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int  # the broker's
    reason: str
    detail: str
    key: bytes | None
    value: bytes | None

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset of the record."""
        return self.partition, self.offset

    @property
    def source(self) -> str:
        """Where the record lies, topic/partition/offset: the name of the letter."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def with_value(self, value: bytes) -> Self:
        """Return the same letter with all of its bytes."""
        return replace(self, value=value)

    def headers(self) -> list[tuple[str, bytes]]:
        """Return what travels beside the bytes."""
        prefix = b"" if self.value is None else self.value[:_PREFIX_BYTES]
        told = {
            "reason": self.reason,
            "detail": self.detail,
            "topic": self.topic,
            "partition": str(self.partition),
            "offset": str(self.offset),
            "timestamp_ms": str(self.timestamp_ms),
            "schema": prefix[2:].hex() if prefix[:2] == b"\xc3\x01" else prefix[:5].hex(),
        }
        headers = [(name, text.encode()) for name, text in told.items()]
        return headers if self.key is None else [*headers, ("key", self.key)]

    def parts(self) -> list[tuple[bytes | None, list[tuple[str, bytes]]]]:
        """Return value and headers of each record this letter takes; more than one if oversize."""
        headers = self.headers()
        if self.value is None or len(self.value) <= PART_BYTES:
            return [(self.value, headers)]
        starts = range(0, len(self.value), PART_BYTES)
        return [
            (
                self.value[start : start + PART_BYTES],
                [*headers, ("part", f"{number}/{len(starts)}".encode())],
            )
            for number, start in enumerate(starts, start=1)
        ]


class DeadLetterSink(Protocol):
    """Where dead letters go."""

    def write(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Return once every one of *dead_letters* is safe.

        Raises:
            BrokerError: they are not, or not all of them.
        """


class MemoryDeadLetters:
    """Keeps letters in this process; for tests and notebooks."""

    def __init__(self) -> None:
        self.written: list[DeadLetter] = []

    def write(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Return once every one of *dead_letters* is in `written`."""
        self.written += dead_letters


class NoDeadLetters:
    """Sends nothing: for records whose letters were written when they were read the first time."""

    def write(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Return at once."""


class DeadLetterWriter:
    """Writes letters and waits for the broker's word that they are safe."""

    def __init__(self, config: KafkaConfig, *, timeout_s: float = 30.0) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._writer: Writer | None = None

    def write(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Return once the broker has acknowledged every one of *dead_letters*.

        Raises:
            BrokerError: it has not within the timeout, or refused one; some may be there.
        """
        dead_letters = list(dead_letters)
        if not dead_letters:
            return
        if self._writer is None:
            self._writer = Writer(self._config)
        failed = self._writer.failed
        for letter in dead_letters:
            key = letter.source.encode()
            for value, headers in letter.parts():
                self._send(self._writer, key, value, headers)
        waiting = self._writer.flush(self._timeout_s)
        if waiting or self._writer.failed > failed:
            raise self._unsafe(waiting + self._writer.failed - failed)

    def close(self) -> None:
        """Stop; everything written was acknowledged already."""
        if self._writer is not None:
            self._writer.close(0.0)

    def _send(
        self, writer: Writer, key: bytes, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> None:
        failed = writer.failed
        while not writer.write(topics.DEAD_LETTERS, key=key, value=value, headers=headers):
            waiting = writer.flush(self._timeout_s)
            if waiting or writer.failed > failed:
                raise self._unsafe(max(waiting, 1))

    def _unsafe(self, dead_letters: int) -> BrokerError:
        return BrokerError(
            f"{dead_letters} dead letters were not acknowledged by {self._config.bootstrap}",
            hint=f"is the broker up, and is there a topic {topics.DEAD_LETTERS}? "
            "Nothing is lost: their records are read again",
        )
