"""Reading `tidemill.dead-letters` back: each letter once, and which of them were sent again.

A letter may be written twice, it may be in parts, and a mark under its key says that it was sent
again (`redrive.py`). It knows no loop; what is in a letter is not looked at.
"""

import heapq
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig, Record, Tail
from tidemill.schemas import topics
from tidemill.streams.deadletters.writer import DeadLetter

log = logging.getLogger(__name__)

RESENT = "resent"
"""The header of a mark: when the letter of the mark's key was sent again, ISO 8601."""

OnProgress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which letters are asked for; what is None or empty asks for all."""

    loop: str | None = None
    topic: str | None = None
    reasons: frozenset[str] = frozenset()
    since: datetime | None = None  # by when the broker got the record
    sources: frozenset[str] = frozenset()  # topic/partition/offset

    def has(self, letter: DeadLetter) -> bool:
        """Return whether *letter* is asked for."""
        return (
            (self.loop is None or letter.topic.startswith(f"{self.loop}."))
            and self.topic in (None, letter.topic)
            and (not self.reasons or letter.reason in self.reasons)
            and (self.since is None or letter.timestamp_ms >= self.since.timestamp() * 1000)
            and (not self.sources or letter.source in self.sources)
        )


@dataclass(slots=True)
class DeadLetterReader:
    """The letters of one broker, as of the moment it is read."""

    config: KafkaConfig
    timeout_s: float = 30.0
    copies: int = 0  # letters written again, and passed over
    resent: dict[str, str] = field(default_factory=dict)  # by source, when; known after a reading

    def read(self, wanted: Wanted, told: OnProgress | None = None) -> Iterator[DeadLetter]:
        """Yield the letters that are *wanted*, each once, in the order they were written.

        After each portion read, *told* is called with the number of records in it.

        Raises:
            BrokerError: there is no such topic, or the broker stopped to answer.
        """
        self.copies = 0
        known: set[str] = set()
        parts: dict[str, dict[int, bytes]] = {}
        for record in self._records(told):
            headers = dict(record.headers)
            source = (record.key or b"").decode(errors="replace")
            if RESENT in headers:
                self.resent[source] = headers[RESENT].decode(errors="replace")
                continue
            if source in known:
                self.copies += headers.get("part", b"1/")[:2] == b"1/"
                continue
            letter = _letter(record, headers)
            if letter is None or not wanted.has(letter):
                continue
            if "part" in headers:
                letter = _completed(letter, headers["part"], parts.setdefault(source, {}))
            if letter is not None:
                known.add(source)
                parts.pop(source, None)
                yield letter

    def marks(self, told: OnProgress | None = None) -> int:
        """Find out which letters were sent again; return how many records were read for it.

        Raises:
            BrokerError: there is no such topic, or the broker stopped to answer.
        """
        records = 0
        for record in self._records(told):
            records += 1
            headers = dict(record.headers)
            if RESENT in headers:
                source = (record.key or b"").decode(errors="replace")
                self.resent[source] = headers[RESENT].decode(errors="replace")
        return records

    def _records(self, told: OnProgress | None) -> Iterator[Record]:
        tail = Tail(self.config, topics.DEAD_LETTERS, timeout_s=self.timeout_s)
        heard_s = time.monotonic()
        try:
            while not tail.caught_up:
                records = tail.poll(0.1)
                if records:
                    heard_s = time.monotonic()
                elif time.monotonic() - heard_s > self.timeout_s:
                    raise BrokerError(
                        f"{self.config.bootstrap} stopped to send {topics.DEAD_LETTERS}",
                        hint="look whether the broker is up; then do it again",
                    )
                yield from records
                if told is not None:
                    told(len(records))
        finally:
            tail.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Some letters to look at, and how many there are by reason: *waiting* and sent again."""

    dead_letters: list[DeadLetter]
    waiting: Counter[str]
    resent: Counter[str]


def overview(
    box: DeadLetterReader,
    wanted: Wanted,
    *,
    limit: int,
    by_place: bool,
    told: OnProgress | None = None,
) -> Overview:
    """Read the letters that are *wanted*; keep the *limit* newest, or the first *by_place*.

    Raises:
        BrokerError: there is no such topic, or the broker stopped to answer.
    """
    reasons: dict[str, str] = {}

    def counted() -> Iterator[DeadLetter]:
        for letter in box.read(wanted, told):
            reasons[letter.source] = letter.reason
            yield letter

    if by_place:
        dead_letters = heapq.nsmallest(limit, counted(), lambda each: (each.topic, *each.place))
    else:
        dead_letters = [*deque(counted(), maxlen=limit)][::-1]
    resent = Counter(reasons[source] for source in box.resent if source in reasons)
    return Overview(
        dead_letters=dead_letters, waiting=Counter(reasons.values()) - resent, resent=resent
    )


def _letter(record: Record, headers: dict[str, bytes]) -> DeadLetter | None:
    """Return the letter of one record, or None if it is none of ours."""
    told = {name: value.decode(errors="replace") for name, value in headers.items()}
    try:
        return DeadLetter(
            topic=told["topic"],
            partition=int(told["partition"]),
            offset=int(told["offset"]),
            timestamp_ms=int(told["timestamp_ms"]),
            reason=told["reason"],
            detail=told["detail"],
            key=headers.get("key"),
            value=record.value,
        )
    except (KeyError, ValueError):
        log.warning("%s/%d at %d is no letter", record.topic, record.partition, record.offset)
        return None


def _completed(letter: DeadLetter, part: bytes, had: dict[int, bytes]) -> DeadLetter | None:
    """Return the whole letter once all of its parts are *had*; copies of a part are the same."""
    number, _, count = part.decode(errors="replace").partition("/")
    if not (number.isdigit() and count.isdigit()):
        return letter
    had[int(number)] = letter.value or b""
    if len(had) < int(count):
        return None
    return letter.with_value(b"".join(had[number] for number in sorted(had)))
