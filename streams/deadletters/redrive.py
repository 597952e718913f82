"""Dead letters go back to where they came from, once whatever made them unreadable is repaired.

Delivery: exactly once. The record and the mark that its letter was sent are one transaction, under
a name that one process has at a time, and marks are looked up after that name was taken. A process
that is killed in between has sent nothing; two at once cannot both send.

What is sent is the original key and value, to the end of the original partition: for the join it
arrives now, and what is past its time is late. Whether it can be read is tried before, with the
schemas and loops that there are now.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from tidemill.kafka import KafkaConfig, TransactionalWriter, partition_count
from tidemill.schemas import topics
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import Log, is_feedback, stream_of
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import Published, newest, produced_topics, versions
from tidemill.schemas.registry.choose import SchemaStore
from tidemill.streams.deadletters.reader import RESENT, DeadLetterReader, OnProgress, Wanted
from tidemill.streams.deadletters.writer import DeadLetter

NAME = "tidemill-dead-letters"
"""Under which letters are sent again, for the broker to let only one process do it."""

_TOGETHER = 500  # letters in one transaction: so many are done again after a kill
_TOGETHER_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """Whether a letter can be read now; if not, *reason* and *detail* say why."""

    letter: DeadLetter
    reason: str | None
    detail: str = ""


class Judge:
    """Tries to read letters with the loops and schemas that there are now."""

    def __init__(
        self,
        loops: Published,
        store: SchemaStore,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Judge by the newest versions among *loops*; *now* is what skew is measured from."""
        self._loops = loops
        self._store = store
        self._now = now
        self._decoders: dict[str, tuple[Loop, EventDecoder]] = {}

    def judge(self, dead_letters: Sequence[DeadLetter]) -> list[Opinion]:
        """Return an opinion on each of *dead_letters*, in their order.

        Raises:
            BrokerError: a schema is looked for and the store does not answer.
        """
        found: dict[str, Opinion] = {}
        for topic in dict.fromkeys(letter.topic for letter in dead_letters):
            here = [letter for letter in dead_letters if letter.topic == topic]
            found.update((opinion.letter.source, opinion) for opinion in self._of(topic, here))
        return [found[letter.source] for letter in dead_letters]

    def _of(self, topic: str, dead_letters: Sequence[DeadLetter]) -> Iterator[Opinion]:
        known = self._decoder(topic)
        if known is None:
            what = f"no loop is published that reads {topic}"
            yield from (
                Opinion(letter=each, reason="no-loop", detail=what) for each in dead_letters
            )
            return
        loop, decoder = known
        decoded = decoder.decode([letter.value for letter in dead_letters])
        why = {bad.row: (bad.reason, bad.detail) for bad in decoded.poison}
        ahead = decoded.frame.filter(pl.col("at") > self._now() + loop.max_skew)["row"]
        why |= dict.fromkeys(ahead, ("skew", "its event time is still to come"))
        for row, letter in enumerate(dead_letters):
            reason, detail = why.get(row, (None, ""))
            yield Opinion(letter=letter, reason=reason, detail=detail)

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
    """Return the logs of *loop* by the topics that its letters can be from."""
    found = {topic: log for log, topic in produced_topics(loop).items()}
    answers = filter(is_feedback, loop.logs)
    return found | {topics.rekeyed(loop.loop, stream_of(log)): log for log in answers}


@dataclass(slots=True)
class RedriveCounts:
    """What became of the letters that were asked for.

    Attributes:
        before: how many had been sent again before, by their reason.
        sent: how many were sent now, or would be, by their reason.
        left: how many cannot be read still, by their reason and the one of now.
        some_left: a few of those, for people to look at.
    """

    before: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    left: Counter[tuple[str, str]] = field(default_factory=Counter)
    some_left: list[Opinion] = field(default_factory=list)

    def add_left(self, opinion: Opinion) -> None:
        """Count a letter that stays where it is."""
        self.left[opinion.letter.reason, opinion.reason or ""] += 1
        if len(self.some_left) < 10:
            self.some_left.append(opinion)


def look(
    box: DeadLetterReader, wanted: Wanted, judge: Judge, tally: RedriveCounts, *, every: bool
) -> None:
    """Say in *tally* what `redrive` would do, and change nothing."""
    box.marks()
    for chunk in _chunks(box.read(wanted)):
        tally.sent.update(letter.reason for letter in _chosen(chunk, box, judge, tally, every))


def redrive(
    box: DeadLetterReader,
    wanted: Wanted,
    judge: Judge,
    tally: RedriveCounts,
    *,
    every: bool,
    told: Callable[[int], OnProgress] = lambda _records: lambda _more: None,
) -> None:
    """Send the *wanted* letters again, each once for ever; *tally* says how far it has come.

    Args:
        box: the letters.
        wanted: which of them.
        judge: says which can be read; the others stay, unless *every* one is to go.
        tally: is kept up to date, so that it is true after an interruption too.
        every: whether to send what cannot be read as well.
        told: is called with the number of records to read, and gives what hears of progress.

    Raises:
        FencedError: somebody else has begun to send letters again.
        BrokerError: the broker refuses; what is not in the tally was not sent.
    """
    with closing(TransactionalWriter(box.config, NAME)) as writer:
        records = box.marks()
        places = _Destinations(box.config)
        for chunk in _chunks(box.read(wanted, told(records))):
            chosen = _chosen(chunk, box, judge, tally, every)
            if chosen:
                _send(writer, places, chosen)
            tally.sent.update(letter.reason for letter in chosen)


def _send(
    writer: TransactionalWriter, places: "_Destinations", dead_letters: Iterable[DeadLetter]
) -> None:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    with writer.transaction():
        for letter in dead_letters:
            topic, partition = places.of(letter)
            writer.write(topic, letter.key, letter.value, partition=partition)
            told: Mapping[str, str] = {
                RESENT: at,
                "topic": letter.topic,
                "partition": str(letter.partition),
                "offset": str(letter.offset),
            }
            headers = [(name, text.encode()) for name, text in told.items()]
            writer.write(topics.DEAD_LETTERS, letter.source.encode(), None, headers=headers)


def _chosen(
    chunk: Sequence[DeadLetter],
    box: DeadLetterReader,
    judge: Judge,
    tally: RedriveCounts,
    every: bool,
) -> list[DeadLetter]:
    """Return those of *chunk* that are to be sent, and count the others."""
    tally.before.update(letter.reason for letter in chunk if letter.source in box.resent)
    opinions = judge.judge([letter for letter in chunk if letter.source not in box.resent])
    for opinion in opinions:
        if opinion.reason is not None and not every:
            tally.add_left(opinion)
    return [each.letter for each in opinions if each.reason is None or every]


class _Destinations:
    """Where letters go: to the partition they came from, while there is such a one."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._counts: dict[str, int] = {}

    def of(self, letter: DeadLetter) -> tuple[str, int]:
        """Return topic and partition; -1 for the one of its key."""
        topic = letter.topic
        if topic.endswith(topics.REKEYED):
            source = topic.removesuffix(topics.REKEYED)
            return source, -1  # it goes the whole way, to be keyed by its decision
        if topic not in self._counts:
            self._counts[topic] = partition_count(self._config, topic) or 0
        return topic, letter.partition if letter.partition < self._counts[topic] else -1


def _chunks(dead_letters: Iterable[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """Yield *dead_letters* in portions that fit into one transaction and into memory."""
    chunk: list[DeadLetter] = []
    size = 0
    for letter in dead_letters:
        chunk.append(letter)
        size += len(letter.value or b"")
        if len(chunk) >= _TOGETHER or size >= _TOGETHER_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
