"""Bad records of the topics that all processes share: each is told once, counted, and passed over.

Whoever may write to such a topic can put anything on it. What a reader cannot use costs that one
record and nothing else: neither the reader, nor the loops that it does not belong to.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from prometheus_client.core import GaugeMetricFamily

from tidemill.errors import TidemillError
from tidemill.harmless import harmless
from tidemill.kafka.tail import Record

logger = logging.getLogger(__name__)

T = TypeVar("T")

METRIC = "tidemill_bad_shared_records"

_KEY_BYTES = 200
_WHY_CHARS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRecord:
    """One record that its readers pass over, and *why*; both texts are short and printable."""

    topic: str
    partition: int
    offset: int
    key: str
    why: str

    @classmethod
    def of(cls, record: Record, error: Exception) -> Self:
        """Return *record* as one that a reader refused with *error*."""
        key = (record.key or b"")[:_KEY_BYTES].decode(errors="backslashreplace")
        why = error.what if isinstance(error, TidemillError) else f"{type(error).__name__}: {error}"
        return cls(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=harmless(key),
            why=harmless(why[:_WHY_CHARS]),
        )

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition} offset {self.offset}, key '{self.key}': {self.why}"


def parsed(record: Record, parse: Callable[[Record], T]) -> T | BadRecord:
    """Return what *parse* makes of *record*, or the bad record that it refuses by an error."""
    try:
        return parse(record)
    except Exception as error:  # whatever a record does to its parser costs that record alone
        return BadRecord.of(record, error)


class BadRecords:
    """The bad records that one process knows of, by topic. Safe to share among threads.

    It is a collector of Prometheus too: a topic that was read has a value, also if that is 0.
    """

    def __init__(self) -> None:
        self._known: dict[str, Sequence[BadRecord]] = {}
        self._told: dict[tuple[str, int], int] = {}  # the last offset, by topic and partition
        self._lock = threading.Lock()

    def report(self, topic: str, bad: Sequence[BadRecord]) -> None:
        """Take *bad* for all bad records that *topic* has now; log those that are new."""
        with self._lock:
            self._known[topic] = tuple(bad)
            new = [each for each in bad if each.offset > self._told_to(each)]
            for each in new:
                self._told[each.topic, each.partition] = max(each.offset, self._told_to(each))
        for each in new:
            logger.error(
                "a bad record is passed over: %s\n"
                "  hint: look at who can write to this topic; if a newer tidemill wrote it, "
                "upgrade this one; else write the right value, or a tombstone, under its key",
                each,
                extra={"partition": each.partition},
            )

    def _told_to(self, bad: BadRecord) -> int:
        return self._told.get((bad.topic, bad.partition), -1)

    def all(self) -> list[BadRecord]:
        """Return the bad records that the topics have now."""
        with self._lock:
            return [each for bad in self._known.values() for each in bad]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the metric: how many bad records each topic has now."""
        gauge = GaugeMetricFamily(
            METRIC,
            "Records of a shared topic that cannot be read and are passed over",
            labels=["topic"],
        )
        with self._lock:
            for topic, bad in self._known.items():
                gauge.add_metric([topic], len(bad))
        yield gauge
