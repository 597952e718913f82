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
    """One partition: the wanted record's time lies in (low_ms, high_ms], low_ms is a record's."""

    offset: int
    low: Found
    high_ms: int
    high: Found | None
    halve: bool = False

    @property
    def done(self) -> bool:
        return self.high_ms - self.low.timestamp_ms <= 1

    def probe(self) -> int:
        """Return the next time to ask for: by turns a guess from the offsets, and the middle."""
        low_ms, span = self.low.timestamp_ms, self.high_ms - self.low.timestamp_ms
        share = 0.5
        if not self.halve and self.high is not None:
            share = (self.offset - self.low.offset) / (self.high.offset - self.low.offset)
        self.halve = not self.halve
        return low_ms + min(max(int(span * share), 1), span - 1)

    def learn(self, asked_ms: int, found: Found | None) -> None:
        if found is not None and found.offset < self.offset:
            self.low = found
        else:
            self.high_ms, self.high = asked_ms, found

    @property
    def timestamp_ms(self) -> int:
        """The record's time; records of one batch share theirs, then it is the lower end."""
        exact = self.high is not None and self.high.offset == self.offset
        return self.high.timestamp_ms if exact and self.high else self.low.timestamp_ms


def record_times(ask: Ask[K], offsets: Mapping[K, int], newest_ms: Mapping[K, int]) -> dict[K, int]:
    """Return the timestamp of the record at each offset, in milliseconds since the epoch.

    Timestamps must not go down along a log (LogAppendTime). At an offset that holds no record
    any more, a transaction's mark say, the answer is the time of the record before it: too old,
    never too young. An offset before the log's start is taken for the start; a partition
    without records is left out.

    Args:
        ask: answers, for a time in ms per partition, the first record at or after it, or None.
        offsets: the wanted offset of each partition, below the end of its log.
        newest_ms: the largest timestamp in each log.
    """
    times: dict[K, int] = {}
    open_: dict[K, _Search] = {}
    for key, first in ask(dict.fromkeys(offsets, 0)).items():
        if first is None:
            continue
        if first.offset >= offsets[key]:
            times[key] = first.timestamp_ms
        else:
            open_[key] = _Search(offsets[key], first, newest_ms[key] + 1, None)
    while True:
        for key in [key for key, search in open_.items() if search.done]:
            times[key] = open_.pop(key).timestamp_ms
        if not open_:
            return times
        asked = {key: search.probe() for key, search in open_.items()}
        for key, found in ask(asked).items():
            open_[key].learn(asked[key], found)
