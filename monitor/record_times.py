"""How old the first unread record of a partition is, found by asking a log for times only.

A broker answers "the first record at or after time t" to anyone who may DESCRIBE a topic.
Bisecting that answer finds the timestamp of the record at an offset, exact to the millisecond,
without reading a record. It knows no Kafka: the broker is the function it is given.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Found:
    """The first record at or after the time that was asked for."""

    offset: int
    timestamp_ms: int


Ask = Callable[[Mapping[K, int]], Mapping[K, Found | None]]


@dataclass(slots=True)
class _Search:
    """One partition: the wanted record's time lies in [low, high], and *low* is a record's."""

    offset: int
    low: Found
    high_ms: int
    high: Found | None
    high_offset: int
    turn: int = 0

    @property
    def is_exact(self) -> bool:
        return self.high is not None and self.high.offset == self.offset

    @property
    def is_done(self) -> bool:
        return self.is_exact or self.high_ms - self.low.timestamp_ms <= 1

    def probe(self) -> int:
        """Return the next time to ask for: by turns guessed from the offsets, next, the middle."""
        low_ms, span = self.low.timestamp_ms, self.high_ms - self.low.timestamp_ms
        match self.turn % 3:
            case 0:
                share = (self.offset - self.low.offset) / (self.high_offset - self.low.offset)
                step = int(span * share)
            case 1:
                step = 1  # decides at once if the wanted record shares its batch's time with low
            case _:
                step = span // 2
        self.turn += 1
        return low_ms + min(max(step, 1), span - 1)

    def learn(self, asked_ms: int, found: Found | None) -> None:
        if found is not None and found.offset < self.offset:
            self.low = found
            return
        self.high_ms, self.high = asked_ms, found
        if found is not None:
            self.high_offset = found.offset

    @property
    def timestamp_ms(self) -> int:
        if self.high is not None and self.is_exact:
            return self.high.timestamp_ms
        return self.low.timestamp_ms  # of one batch, and so of one time


def record_times(ask: Ask[K], offsets: Mapping[K, int], newest: Mapping[K, Found]) -> dict[K, int]:
    """Return the timestamp of the record at each offset, in milliseconds since the epoch.

    Timestamps must not go down along a log (LogAppendTime). At an offset that holds no record
    any more, a transaction's mark say, the answer is the time of the record before it: too old,
    never too young. An offset before the log's start is taken for the start; a partition
    without records is left out.

    Args:
        ask: answers, for a time in ms per partition, the first record at or after it, or None.
        offsets: the wanted offset of each partition, below the end of its log.
        newest: a record with the largest timestamp of each log.
    """
    times: dict[K, int] = {}
    open_: dict[K, _Search] = {}
    for key, first in ask(dict.fromkeys(offsets, 0)).items():
        if first is None:
            continue
        if first.offset >= offsets[key]:
            times[key] = first.timestamp_ms
        else:
            last = newest[key]
            past = max(last.offset, offsets[key]) + 1
            open_[key] = _Search(offsets[key], first, last.timestamp_ms + 1, None, past)
    while True:
        for key in [key for key, search in open_.items() if search.is_done]:
            times[key] = open_.pop(key).timestamp_ms
        if not open_:
            return times
        asked = {key: search.probe() for key, search in open_.items()}
        for key, found in ask(asked).items():
            open_[key].learn(asked[key], found)
