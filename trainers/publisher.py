"""Publishing to the model topic: chunks first, the announcement last, old chunks removed after.

Delivery: at least once. A crash anywhere repeats the same records byte for byte (announcements are
values, Ed25519 is deterministic), and readers pass the repetition over; an announcement is never on
the topic before its payload. It knows no learner and no lake.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from tidemill.errors import ModelError
from tidemill.kafka import KafkaConfig, Topic, ensure_topics, read_compacted, write_all
from tidemill.schemas import topics
from tidemill.schemas.models.manifest import (
    ModelManifest,
    chunk_key,
    chunked,
    manifest_key,
    parse_chunk_key,
    sign,
    verify,
)
from tidemill.schemas.models.signing import SigningKey, TrustedKeys

KeyedRecord = tuple[bytes, bytes | None]


class ModelTopic(Protocol):
    """A compacted log of keys and values: the model topic of Kafka, or one in memory."""

    def write(self, items: Iterable[KeyedRecord]) -> None:
        """Append *items* in order; return once all are safe.

        Raises:
            BrokerError: it is not known which are safe; writing them again does no harm.
        """

    def read(self) -> Mapping[bytes, bytes]:
        """Return the newest value of every key that has one, in the order they were written.

        Raises:
            BrokerError: the topic is away.
        """


class MemoryModelTopic:
    """Keeps the log in this process; for tests and notebooks. *log* is all that was written."""

    def __init__(self) -> None:
        self.log: list[KeyedRecord] = []

    def write(self, items: Iterable[KeyedRecord]) -> None:
        """Append *items*; see `ModelTopic`."""
        self.log.extend(items)

    def read(self) -> Mapping[bytes, bytes]:
        """Return the newest values; see `ModelTopic`."""
        newest: dict[bytes, bytes] = {}
        for key, value in self.log:
            newest.pop(key, None)
            if value is not None:
                newest[key] = value
        return newest


class KafkaModelTopic:
    """The topic ``tidemill.models``, made on first use if it is missing."""

    def __init__(self, config: KafkaConfig, topic: str = topics.MODELS) -> None:
        self._config, self._topic = config, topic

    def write(self, items: Iterable[KeyedRecord]) -> None:
        """Write *items* and wait for all acknowledgements; see `ModelTopic`."""
        write_all(self._config, self._topic, items)

    def read(self) -> Mapping[bytes, bytes]:
        """Read the topic to its present end; see `ModelTopic`."""
        ensure_topics(self._config, [Topic(name=self._topic, compacted=True)])
        return read_compacted(self._config, self._topic)


class Publisher:
    """Put the models of one loop on the topic.

    Args:
        topic: where to.
        loop: whose models; the records of other loops are left alone.
        key: who signs.
    """

    def __init__(self, topic: ModelTopic, loop: str, key: SigningKey) -> None:
        self._topic, self._loop, self._key = topic, loop, key
        self._chunks: set[bytes] | None = None
        self._announced: dict[str, ModelManifest] = {}

    def announced(self, slot: str) -> ModelManifest | None:
        """Return what stands in *slot* on the topic under this key's signature.

        Raises:
            BrokerError: the topic is away.
        """
        self._look()
        return self._announced.get(slot)

    def publish(self, announcement: ModelManifest, payload: bytes) -> bool:
        """Bring the topic to say *announcement*; return whether anything had to be written.

        Raises:
            BrokerError: nothing, or a part of it, was written; publish again.
            ModelError: a later announcement stands there already.
        """
        chunks = self._look()
        standing = self._announced.get(announcement.slot)
        items = list(_chunk_items(announcement, payload))
        if standing == announcement and chunks.issuperset(key for key, _ in items):
            return False
        if standing is not None and standing.sequence > announcement.sequence:
            raise ModelError(
                f"{standing.version} stands in slot {standing.slot} of {self._loop} already, "
                f"which is later than {announcement.version}",
                hint="let one trainer run for a loop; both must use the same lake",
            )
        self._topic.write(items)
        inline = payload if announcement.chunks == 0 else None
        self._topic.write([(announcement.key, sign(announcement, self._key, payload=inline))])
        self._announced[announcement.slot] = announcement
        chunks.update(key for key, _ in items)
        self._sweep(chunks)
        return True

    def _sweep(self, chunks: set[bytes]) -> None:
        """Remove the chunks that no announcement of this loop names any more."""
        named = {one.digest for one in self._announced.values() if one.chunks}
        old = [key for key in chunks if (place := parse_chunk_key(key)) and place[1] not in named]
        self._topic.write((key, None) for key in sorted(old))
        chunks.difference_update(old)

    def _look(self) -> set[bytes]:
        """Read the topic once; from then on this process knows what it wrote itself."""
        if self._chunks is None:
            records = self._topic.read()
            places = ((key, parse_chunk_key(key)) for key in records)
            chunks = {key for key, place in places if place and place[0] == self._loop}
            self._announced = dict(self._standing(records))
            self._chunks = chunks
        return self._chunks

    def _standing(self, records: Mapping[bytes, bytes]) -> Iterator[tuple[str, ModelManifest]]:
        trusted = TrustedKeys.of([self._key.public])
        prefix = manifest_key(self._loop, "")
        for key, value in records.items():
            if not key.startswith(prefix) or parse_chunk_key(key):
                continue
            try:
                announcement, _ = verify(value, trusted)
            except ModelError:
                continue  # of an older key, or not ours: it is replaced, not built upon
            if announcement.key == key:
                yield announcement.slot, announcement


def _chunk_items(announcement: ModelManifest, payload: bytes) -> Iterator[KeyedRecord]:
    if announcement.chunks:
        for index, piece in enumerate(chunked(payload)):
            yield chunk_key(announcement.loop, announcement.digest, index), piece
