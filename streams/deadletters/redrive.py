"""Redrive: sends dead letters to their topics again, once they can be read.

Delivery: exactly once. The record, and the one that says it was sent again, are one transaction,
under a transactional id that only one process can have. Which were sent before is read after the
process has that id. A process that is killed before the end of a transaction has sent nothing of
it, and of two processes only one can send.

The original key and value are written to the end of the original partition. For the join they
arrive now, so they may be late. Before, the dead letters are decoded with the current schemas and
loops.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from tidemill.kafka import KafkaConfig, TransactionalWriter, partition_count
from tidemill.schemas import topics
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import Log, is_feedback, stream_of
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import Published, newest, produced_topics, versions
from tidemill.schemas.registry.choose import SchemaStore
from tidemill.streams.deadletters.reader import RESENT, DeadLetterReader, OnProgress, Wanted
from tidemill.streams.deadletters.writer import DeadLetter
from tidemill.streams.join.event_times import EventTimes

NAME = "tidemill-dead-letters"
"""The transactional id, by which the broker lets only one process send dead letters again."""

_TRANSACTION_LETTERS = 500  # dead letters in one transaction, which a kill undoes
_TRANSACTION_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """The result for one dead letter: *reason* and *detail* are set if it still cannot be read."""

    dead_letter: DeadLetter
    reason: str | None
    detail: str = ""


class Judge:
    """Decodes dead letters with the current loops and schemas."""

    def __init__(
        self,
        loops: Published,
        store: SchemaStore,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Use the newest versions among *loops*, and the time *now* for the limit of skew."""
        self._loops = loops
        self._store = store
        self._now = now
        self._decoders: dict[str, tuple[Loop, EventDecoder]] = {}

    def judge(self, dead_letters: Sequence[DeadLetter]) -> list[Opinion]:
        """Return an opinion on each of *dead_letters*, in their order.

        Raises:
            BrokerError: a schema is needed and the store does not answer.
        """
        opinions: dict[str, Opinion] = {}
        for topic in dict.fromkeys(dead_letter.topic for dead_letter in dead_letters):
            of_topic = [dead_letter for dead_letter in dead_letters if dead_letter.topic == topic]
            opinions.update(
                (opinion.dead_letter.source, opinion) for opinion in self._of(topic, of_topic)
            )
        return [opinions[dead_letter.source] for dead_letter in dead_letters]

    def _of(self, topic: str, dead_letters: Sequence[DeadLetter]) -> Iterator[Opinion]:
        known = self._decoder(topic)
        if known is None:
            what = f"no loop is published that reads {topic}"
            yield from (
                Opinion(dead_letter=each, reason="no-loop", detail=what) for each in dead_letters
            )
            return
        loop, decoder = known
        decoded = decoder.decode([dead_letter.value for dead_letter in dead_letters])
        why = {bad.row: (bad.reason, bad.detail) for bad in decoded.poison}
        now_ms = int(self._now().timestamp() * 1_000)
        at = decoded.frame["at"].to_physical().to_numpy()
        times = EventTimes(max_skew=loop.max_skew, max_age=loop.max_age)
        _, refused = times.check(at, np.full(len(at), now_ms))
        why |= {decoded.frame["row"][number]: each for number, each in refused.items()}
        for row, dead_letter in enumerate(dead_letters):
            reason, detail = why.get(row, (None, ""))
            yield Opinion(dead_letter=dead_letter, reason=reason, detail=detail)

    def _decoder(self, topic: str) -> tuple[Loop, EventDecoder] | None:
        if topic not in self._decoders:
            name, _, _ = topic.partition(".")
            if not versions(self._loops, name):
                return None
            loop = newest(self._loops, name)
            log = _logs(loop).get(topic)
            if log is None:
                return None
            self._decoders[topic] = loop, EventDecoder(loop, log, self._store)
        return self._decoders[topic]


def _logs(loop: Loop) -> dict[str, Log]:
    """Return the logs of *loop* by the topics that its dead letters can be from."""
    produced = {topic: log for log, topic in produced_topics(loop).items()}
    answers = filter(is_feedback, loop.logs)
    return produced | {topics.rekeyed(loop.loop, stream_of(log)): log for log in answers}


@dataclass(slots=True)
class RedriveCounts:
    """What was done with the wanted dead letters.

    Attributes:
        before: how many had been sent again before, by their reason.
        sent: how many were sent now, or would be, by their reason.
        left: how many still cannot be read, by their original reason and the current one.
        some_left: a few of those, to show.
    """

    before: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    left: Counter[tuple[str, str]] = field(default_factory=Counter)
    some_left: list[Opinion] = field(default_factory=list)

    def add_left(self, opinion: Opinion) -> None:
        """Count a dead letter that is not sent."""
        self.left[opinion.dead_letter.reason, opinion.reason or ""] += 1
        if len(self.some_left) < 10:
            self.some_left.append(opinion)


def preview(
    reader: DeadLetterReader, wanted: Wanted, judge: Judge, counts: RedriveCounts, *, every: bool
) -> None:
    """Fill *counts* with what `redrive` would do; nothing is sent."""
    reader.read_resent()
    for portion in _portions(reader.read(wanted)):
        counts.sent.update(
            dead_letter.reason for dead_letter in _chosen(portion, reader, judge, counts, every)
        )


def redrive(
    reader: DeadLetterReader,
    wanted: Wanted,
    judge: Judge,
    counts: RedriveCounts,
    *,
    every: bool,
    on_progress: Callable[[int], OnProgress] = lambda _records: lambda _more: None,
) -> None:
    """Send the *wanted* dead letters again, each of them only once.

    Args:
        reader: reads the dead letters.
        wanted: which of them.
        judge: says which can be read now; the others are not sent, unless *every* is true.
        counts: is updated after each transaction, so it is right after an interruption too.
        every: whether to send dead letters that cannot be read as well.
        on_progress: is called with the number of records to read, and returns the function that
            gets the number of records in each portion.

    Raises:
        FencedError: another process has begun to send dead letters again.
        BrokerError: the broker refuses; what is not in *counts* was not sent.
    """
    with closing(TransactionalWriter(reader.config, NAME)) as writer:
        records = reader.read_resent()
        destinations = _Destinations(reader.config)
        for portion in _portions(reader.read(wanted, on_progress(records))):
            chosen = _chosen(portion, reader, judge, counts, every)
            if chosen:
                _send(writer, destinations, chosen)
            counts.sent.update(dead_letter.reason for dead_letter in chosen)


def _send(
    writer: TransactionalWriter, destinations: "_Destinations", dead_letters: Iterable[DeadLetter]
) -> None:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    with writer.transaction():
        for dead_letter in dead_letters:
            topic, partition = destinations.of(dead_letter)
            writer.write(topic, dead_letter.key, dead_letter.value, partition=partition)
            fields: Mapping[str, str] = {
                RESENT: at,
                "topic": dead_letter.topic,
                "partition": str(dead_letter.partition),
                "offset": str(dead_letter.offset),
            }
            headers = [(name, text.encode()) for name, text in fields.items()]
            writer.write(topics.DEAD_LETTERS, dead_letter.source.encode(), None, headers=headers)


def _chosen(
    portion: Sequence[DeadLetter],
    reader: DeadLetterReader,
    judge: Judge,
    counts: RedriveCounts,
    every: bool,
) -> list[DeadLetter]:
    """Return those of *portion* that are to be sent, and count the others."""
    counts.before.update(
        dead_letter.reason for dead_letter in portion if dead_letter.source in reader.resent
    )
    opinions = judge.judge(
        [dead_letter for dead_letter in portion if dead_letter.source not in reader.resent]
    )
    for opinion in opinions:
        if opinion.reason is not None and not every:
            counts.add_left(opinion)
    return [each.dead_letter for each in opinions if each.reason is None or every]


class _Destinations:
    """The partitions to send to: those the dead letters came from, if they still exist."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._counts: dict[str, int] = {}

    def of(self, dead_letter: DeadLetter) -> tuple[str, int]:
        """Return topic and partition; -1 means the partition of its key."""
        topic = dead_letter.topic
        if topic.endswith(topics.REKEYED):
            source = topic.removesuffix(topics.REKEYED)
            return source, -1  # to the source topic, so that it is re-keyed by its decision
        if topic not in self._counts:
            self._counts[topic] = partition_count(self._config, topic) or 0
        is_there = 0 <= dead_letter.partition < self._counts[topic]
        return topic, dead_letter.partition if is_there else -1


def _portions(dead_letters: Iterable[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """Yield *dead_letters* in portions that fit into one transaction and into memory."""
    portion: list[DeadLetter] = []
    size = 0
    for dead_letter in dead_letters:
        portion.append(dead_letter)
        size += len(dead_letter.value or b"")
        if len(portion) >= _TRANSACTION_LETTERS or size >= _TRANSACTION_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
