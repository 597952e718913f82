"""Finds the timestamp of the record at an offset without reading the record.

A broker answers "the first record at or after time t" to anyone who may DESCRIBE a topic. A search
by bisection over these answers finds the timestamp, exact to the millisecond. The caller passes the
function that asks the broker.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Found:
    """The first record at or after a time."""

    offset: int
    timestamp_ms: int


Ask = Callable[[Mapping[K, int]], Mapping[K, Found | None]]


@dataclass(slots=True)
class _Search:
    """The search in one partition: the wanted time is between that of *low* and *high_ms*."""

    offset: int
    low: Found
    high_ms: int
    high: Found | None
    high_offset: int
    probes: int = 0

    @property
    def is_exact(self) -> bool:
        return self.high is not None and self.high.offset == self.offset

    @property
    def is_done(self) -> bool:
        return self.is_exact or self.high_ms - self.low.timestamp_ms <= 1

    def probe(self) -> int:
        """Return the next time to ask for: in turn a guess by offsets, the next one, the middle."""
        low_ms, span = self.low.timestamp_ms, self.high_ms - self.low.timestamp_ms
        match self.probes % 3:
            case 0:
                share = (self.offset - self.low.offset) / (self.high_offset - self.low.offset)
                step = int(span * share)
            case 1:
                step = 1  # enough if the wanted record is in the batch of low and so has its time
            case _:
                step = span // 2
        self.probes += 1
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
        return self.low.timestamp_ms  # both are in one batch, so they have one time


def record_times(ask: Ask[K], offsets: Mapping[K, int], newest: Mapping[K, Found]) -> dict[K, int]:
    """Return the timestamp of the record at each offset, in milliseconds since the epoch.

    Timestamps must not decrease along a log (LogAppendTime). For an offset without a record, such
    as a transaction marker, the answer is the time of the record before it: too old, never too
    young. An offset before the start of the log counts as the start. A partition without records
    is left out.

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
