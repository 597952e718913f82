"""Reads `tidemill.dead-letters`: each dead letter once, and which of them were sent again.

A dead letter may be written twice, and a large one is written in parts. When it is sent again,
`redrive.py` writes a record with the header `RESENT` under its key.
"""

import heapq
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from tidemill.errors import BrokerError
from tidemill.kafka import ANSWER_S, KafkaConfig, Record, Tail
from tidemill.schemas import topics
from tidemill.streams.deadletters.writer import DeadLetter

logger = logging.getLogger(__name__)

RESENT = "resent"
"""The header with the time, in ISO 8601, at which the dead letter of the key was sent again."""

OnProgress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which dead letters to read; a condition that is None or empty is fulfilled by all."""

    loop: str | None = None
    topic: str | None = None
    reasons: frozenset[str] = frozenset()
    since: datetime | None = None  # the time at which the broker got the record
    sources: frozenset[str] = frozenset()  # topic/partition/offset

    def has(self, dead_letter: DeadLetter) -> bool:
        """Return whether *dead_letter* fulfils all conditions."""
        return (
            (self.loop is None or dead_letter.topic.startswith(f"{self.loop}."))
            and self.topic in (None, dead_letter.topic)
            and (not self.reasons or dead_letter.reason in self.reasons)
            and (self.since is None or dead_letter.timestamp_ms >= self.since.timestamp() * 1000)
            and (not self.sources or dead_letter.source in self.sources)
        )


@dataclass(slots=True)
class DeadLetterReader:
    """The dead letters of one broker, up to the end of the topic at the time of reading."""

    config: KafkaConfig
    timeout_s: float = 30.0
    copies: int = 0  # second copies of a dead letter, which were skipped
    resent: dict[str, str] = field(default_factory=dict)  # source to time; filled by reading

    def read(self, wanted: Wanted, on_progress: OnProgress | None = None) -> Iterator[DeadLetter]:
        """Yield the dead letters that are *wanted*, each once, in the order they were written.

        *on_progress* is called with the number of records in each portion that was read.

        Raises:
            BrokerError: there is no such topic, or the broker stopped to answer.
        """
        self.copies = 0
        known: set[str] = set()
        parts: dict[str, dict[int, bytes]] = {}
        for record in self._records(on_progress):
            headers = dict(record.headers)
            source = (record.key or b"").decode(errors="replace")
            if RESENT in headers:
                self.resent[source] = headers[RESENT].decode(errors="replace")
                continue
            if source in known:
                self.copies += headers.get("part", b"1/")[:2] == b"1/"
                continue
            dead_letter = _dead_letter(record, headers)
            if dead_letter is None or not wanted.has(dead_letter):
                continue
            if "part" in headers:
                dead_letter = _completed(dead_letter, headers["part"], parts.setdefault(source, {}))
            if dead_letter is not None:
                known.add(source)
                parts.pop(source, None)
                yield dead_letter

    def read_resent(self, on_progress: OnProgress | None = None) -> int:
        """Fill `resent` from the topic; return how many records were read.

        Raises:
            BrokerError: there is no such topic, or the broker stopped to answer.
        """
        records = 0
        for record in self._records(on_progress):
            records += 1
            headers = dict(record.headers)
            if RESENT in headers:
                source = (record.key or b"").decode(errors="replace")
                self.resent[source] = headers[RESENT].decode(errors="replace")
        return records

    def _records(self, on_progress: OnProgress | None) -> Iterator[Record]:
        wait_s = min(ANSWER_S, self.timeout_s)
        tail = Tail(self.config, topics.DEAD_LETTERS, timeout_s=wait_s)
        answered_s = time.monotonic()
        try:
            while not tail.caught_up:
                records = tail.poll(0.1)
                if records:
                    answered_s = time.monotonic()
                elif time.monotonic() - answered_s > self.timeout_s:
                    raise BrokerError(
                        f"{self.config.bootstrap} stopped to send {topics.DEAD_LETTERS}",
                        hint="check that the broker is up, then repeat the command",
                    )
                yield from records
                if on_progress is not None:
                    on_progress(len(records))
        finally:
            tail.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Some dead letters, and the counts of all by reason: those *waiting* and those sent again."""

    dead_letters: list[DeadLetter]
    waiting: Counter[str]
    resent: Counter[str]


def overview(
    reader: DeadLetterReader,
    wanted: Wanted,
    *,
    limit: int,
    by_offset: bool,
    on_progress: OnProgress | None = None,
) -> Overview:
    """Read the dead letters that are *wanted*; return the *limit* newest, or the first *by_offset*.

    Raises:
        BrokerError: there is no such topic, or the broker stopped to answer.
    """
    reasons: dict[str, str] = {}

    def counted() -> Iterator[DeadLetter]:
        for dead_letter in reader.read(wanted, on_progress):
            reasons[dead_letter.source] = dead_letter.reason
            yield dead_letter

    if by_offset:
        dead_letters = heapq.nsmallest(
            limit, counted(), lambda each: (each.topic, *each.partition_offset)
        )
    else:
        dead_letters = [*deque(counted(), maxlen=limit)][::-1]
    resent = Counter(reasons[source] for source in reader.resent if source in reasons)
    return Overview(
        dead_letters=dead_letters, waiting=Counter(reasons.values()) - resent, resent=resent
    )


def _dead_letter(record: Record, headers: dict[str, bytes]) -> DeadLetter | None:
    """Return the dead letter of one record, or None if the record is no dead letter."""
    text = {name: value.decode(errors="replace") for name, value in headers.items()}
    try:
        return DeadLetter(
            topic=text["topic"],
            partition=int(text["partition"]),
            offset=int(text["offset"]),
            timestamp_ms=int(text["timestamp_ms"]),
            reason=text["reason"],
            detail=text["detail"],
            key=headers.get("key"),
            value=record.value,
        )
    except (KeyError, ValueError):
        logger.warning(
            "%s/%d at %d is no dead letter",
            *(record.topic, record.partition, record.offset),
            extra={"partition": record.partition},
        )
        return None


def _completed(dead_letter: DeadLetter, part: bytes, parts: dict[int, bytes]) -> DeadLetter | None:
    """Add *part* to *parts*; return the whole dead letter once all parts are there."""
    named = re.fullmatch(rb"([0-9]{1,9})/([0-9]{1,9})", part)
    if named is None:
        return dead_letter
    parts[int(named[1])] = dead_letter.value or b""
    if len(parts) < int(named[2]):
        return None
    return dead_letter.with_value(b"".join(parts[number] for number in sorted(parts)))
