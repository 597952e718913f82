"""The values of a compacted topic: the newest that can be read of each key, and what cannot be.

`CompactedLog` is the value, whoever reads the records. `read_values` reads a topic once;
`LogFollower` reads it again and again, and each time only what was written since.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from tidemill.errors import BrokerError
from tidemill.kafka.bad_records import BadRecord, parsed
from tidemill.kafka.config import ANSWER_S, KafkaConfig
from tidemill.kafka.tail import Record, Tail, read_to_end

V = TypeVar("V")


class CompactedLog(Generic[V]):
    """The newest readable value of each key, in the order of their records, and the bad records.

    A record that *parse* refuses by an error is passed over: the value that its key had before
    stays. So is one whose value *check* refuses to follow that value. What is written later under
    its key, a tombstone too, removes it from `bad`.

    With *most*, about so many values are remembered, and as many bad records, for a topic on which
    anybody may write keys without end: first to go is what *is_weak*, then what is oldest.
    """

    def __init__(
        self,
        parse: Callable[[Record], V],
        check: Callable[[V, V], object] = lambda _before, _after: None,
        *,
        most: int | None = None,
        is_weak: Callable[[V], bool] = lambda _value: False,
    ) -> None:
        self._parse = parse
        self._check = check
        self._most = most
        self._is_weak = is_weak
        self._values: dict[bytes | None, V] = {}
        self._bad: dict[bytes | None, BadRecord] = {}

    @property
    def values(self) -> list[V]:
        """The values, in the order of their records."""
        return list(self._values.values())

    @property
    def bad(self) -> Sequence[BadRecord]:
        """The bad records that nothing has replaced."""
        return list(self._bad.values())

    def take(self, records: Iterable[Record]) -> list[V]:
        """Take *records*, also some that were taken before; return the values among them."""
        taken = []
        for record in records:
            self._bad.pop(record.key, None)
            if record.value is None:
                self._values.pop(record.key, None)
                continue
            found = parsed(record, self._follow)
            if isinstance(found, BadRecord):
                self._bad[record.key] = found
            else:
                self._values.pop(record.key, None)  # keys in the order of their newest record
                self._values[record.key] = found
                taken.append(found)
            self._forget()
        return taken

    def _forget(self) -> None:
        """Forget what is too much, in one go once it is a quarter more."""
        if self._most is None:
            return
        if len(self._bad) > self._most * 5 // 4:
            self._bad = dict(list(self._bad.items())[-self._most :])
        if len(self._values) > self._most * 5 // 4:
            ranked = sorted(self._values.items(), key=lambda item: not self._is_weak(item[1]))
            kept = {key for key, _ in ranked[-self._most :]}
            self._values = {key: each for key, each in self._values.items() if key in kept}

    def _follow(self, record: Record) -> V:
        value = self._parse(record)
        if record.key in self._values:
            self._check(self._values[record.key], value)
        return value


def read_values(
    config: KafkaConfig,
    topic: str,
    parse: Callable[[Record], V],
    check: Callable[[V, V], object] = lambda _before, _after: None,
    *,
    timeout_s: float = 30.0,
) -> CompactedLog[V]:
    """Return the values of *topic* up to the end offsets at the call; see `CompactedLog`.

    Raises:
        BrokerError: there is no such topic, or its end was not reached within *timeout_s*.
    """
    follower = LogFollower(config, topic, parse, check)
    try:
        return follower.read(timeout_s=timeout_s)
    finally:
        follower.close()


class LogFollower(Generic[V]):
    """Keeps the values of a topic up to date, over one connection. Not thread-safe.

    With *newest*, only the last so many offsets of each partition are read at first: for a topic
    that is not compacted and may be long. *most* and *is_weak* are those of `CompactedLog`.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topic: str,
        parse: Callable[[Record], V],
        check: Callable[[V, V], object] = lambda _before, _after: None,
        *,
        newest: int | None = None,
        most: int | None = None,
        is_weak: Callable[[V], bool] = lambda _value: False,
    ) -> None:
        self._config = config
        self._newest = newest
        self._topic = topic
        self._log = CompactedLog(parse, check, most=most, is_weak=is_weak)
        self._tail: Tail | None = None

    def read(self, *, timeout_s: float = 30.0) -> CompactedLog[V]:
        """Return the values up to the end offsets at the call.

        Raises:
            BrokerError: there is no such topic, or its end was not reached within *timeout_s*; the
                next call connects again.
        """
        try:
            answer_s = min(ANSWER_S, timeout_s)
            if self._tail is None:
                self._tail = Tail(
                    self._config, self._topic, timeout_s=answer_s, newest=self._newest
                )
            else:
                self._tail.aim_at_end(answer_s)
            read_to_end(self._tail, self._log.take, timeout_s=timeout_s)
        except BrokerError:
            self.close()
            raise
        return self._log

    def close(self) -> None:
        """Disconnect; the next `read` connects again."""
        if self._tail is not None:
            self._tail.close()
            self._tail = None
