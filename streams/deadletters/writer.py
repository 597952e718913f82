"""Writes records that cannot be read to `tidemill.dead-letters`, with their reason and source.

Delivery: at least once. The broker acknowledges every dead letter before the commit of the lake
that passes its record; a crash between the two writes it again. The source (topic, partition,
offset) identifies a dead letter and is its key. Their number is counted exactly, in the lake, by
the same commit.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol, Self

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Writer
from tidemill.schemas import topics

logger = logging.getLogger(__name__)

PART_BYTES = 900_000  # below 1 MiB, the default limit of a topic
_PREFIX_BYTES = 10  # single-object encoding: two marker bytes and the schema's fingerprint


REASONS = (
    *("empty", "oversize", "unknown-schema", "wrong-type", "truncated", "overlong", "malformed"),
    *("out-of-range", "skew", "age", "record-time"),
    *("recursive-schema", "malformed-schema", "incompatible-schema"),
)
"""Every reason of a dead letter, as docs/guide/contracts.md explains them."""


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
    def partition_offset(self) -> tuple[int, int]:
        """The partition and the offset of the record."""
        return self.partition, self.offset

    @property
    def source(self) -> str:
        """The record's topic/partition/offset, which identifies the dead letter."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def with_value(self, value: bytes) -> Self:
        """Return the same dead letter with another *value*."""
        return replace(self, value=value)

    def headers(self) -> list[tuple[str, bytes]]:
        """Return the headers of its record."""
        prefix = b"" if self.value is None else self.value[:_PREFIX_BYTES]
        fields = {
            "reason": self.reason,
            "detail": self.detail,
            "topic": self.topic,
            "partition": str(self.partition),
            "offset": str(self.offset),
            "timestamp_ms": str(self.timestamp_ms),
            "schema": prefix[2:].hex() if prefix[:2] == b"\xc3\x01" else prefix[:5].hex(),
        }
        headers = [(name, text.encode()) for name, text in fields.items()]
        return headers if self.key is None else [*headers, ("key", self.key)]

    def parts(self) -> list[tuple[bytes | None, list[tuple[str, bytes]]]]:
        """Return value and headers of each record it is written as; several if it is too large."""
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
    """A destination of dead letters."""

    def write(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Write *dead_letters*; return once all of them are acknowledged.

        Raises:
            BrokerError: some were not acknowledged.
        """


class MemoryDeadLetters:
    """Dead letters in memory; for tests and notebooks."""

    def __init__(self) -> None:
        self.written: list[DeadLetter] = []

    def write(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Append *dead_letters* to `written`."""
        self.written += dead_letters


class NoDeadLetters:
    """Writes nothing: for a replay, whose dead letters were written at the first reading."""

    def write(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Do nothing."""


class DeadLetterWriter:
    """Writes dead letters to Kafka, and waits until the broker acknowledges them."""

    def __init__(self, config: KafkaConfig, *, timeout_s: float = 30.0) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._writer: Writer | None = None

    def write(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Write *dead_letters*; return once the broker has acknowledged all of them.

        Raises:
            BrokerError: some were refused, or not acknowledged in time; others may be written.
        """
        dead_letters = list(dead_letters)
        if not dead_letters:
            return
        if self._writer is None:
            self._writer = Writer(self._config)
        failed = self._writer.failed
        for dead_letter in dead_letters:
            key = dead_letter.source.encode()
            for value, headers in dead_letter.parts():
                self._send(self._writer, key, value, headers)
        waiting = self._writer.flush(self._timeout_s)
        if waiting or self._writer.failed > failed:
            raise self._not_acknowledged(waiting + self._writer.failed - failed)

    def close(self) -> None:
        """Close the connection; everything written was acknowledged already."""
        if self._writer is not None:
            self._writer.close(0.0)

    def _send(
        self, writer: Writer, key: bytes, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> None:
        failed = writer.failed
        while not writer.write(topics.DEAD_LETTERS, key=key, value=value, headers=headers):
            waiting = writer.flush(self._timeout_s)
            if waiting or writer.failed > failed:
                raise self._not_acknowledged(max(waiting, 1))

    def _not_acknowledged(self, count: int) -> BrokerError:
        return BrokerError(
            f"{count} dead letters were not acknowledged by {self._config.bootstrap}",
            hint=f"is the broker up, and is there a topic {topics.DEAD_LETTERS}? "
            "Nothing is lost: their records are read again",
        )
