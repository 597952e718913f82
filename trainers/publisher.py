"""Publishing to the model topic: chunks of the payload first, then the manifest.

Delivery: at least once. After a crash the same records are written again byte for byte (manifests
are values, Ed25519 is deterministic), and readers skip repeated ones. A manifest is never on the
topic before its payload. Chunks that no manifest names any more are removed last.
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
            BrokerError: some may not be safe; writing all of them again does no harm.
        """

    def read(self) -> Mapping[bytes, bytes]:
        """Return the newest value of every key that has one, in the order they were written.

        Raises:
            BrokerError: no broker answers.
        """


class MemoryModelTopic:
    """A model topic in this process, for tests and notebooks; *log* holds all records written."""

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
    """The topic ``tidemill.models`` of Kafka; the first read creates it if it is missing."""

    def __init__(self, config: KafkaConfig, topic: str = topics.MODELS) -> None:
        self._config, self._topic = config, topic

    def write(self, items: Iterable[KeyedRecord]) -> None:
        """Write *items* and wait for all acknowledgements; see `ModelTopic`."""
        write_all(self._config, self._topic, items)

    def read(self) -> Mapping[bytes, bytes]:
        """Read the topic to its current end; see `ModelTopic`."""
        ensure_topics(self._config, [Topic(name=self._topic, compacted=True)])
        return read_compacted(self._config, self._topic)


class Publisher:
    """Puts the models of one loop on the topic.

    Args:
        topic: where the models go.
        loop: whose models; records of other loops are not touched.
        key: signs the manifests.
        sweeps: whether to remove the chunks that no manifest names. A command must not: a trainer
            that runs beside it may have written chunks whose manifest comes next.
    """

    def __init__(
        self, topic: ModelTopic, loop: str, key: SigningKey, *, sweeps: bool = True
    ) -> None:
        self._topic, self._loop, self._key, self._sweeps = topic, loop, key, sweeps
        self._chunks: set[bytes] | None = None
        self._manifests: dict[str, ModelManifest] = {}

    def manifest(self, slot: str) -> ModelManifest | None:
        """Return the manifest in *slot* on the topic, if it is signed with this key.

        Raises:
            BrokerError: no broker answers.
        """
        self._read_once()
        return self._manifests.get(slot)

    def publish(self, manifest: ModelManifest, payload: bytes) -> bool:
        """Write *manifest* and its payload; return False if the topic has both already.

        Raises:
            BrokerError: nothing, or a part of it, was written; publish again.
            ModelError: the slot has a later manifest already.
        """
        chunks = self._read_once()
        current = self._manifests.get(manifest.slot)
        items = list(_chunk_items(manifest, payload))
        if current == manifest and chunks.issuperset(key for key, _ in items):
            return False
        if current is not None and current.sequence > manifest.sequence:
            raise ModelError(
                f"slot {current.slot} of {self._loop} already has {current.version}, "
                f"which is later than {manifest.version}",
                hint="let one trainer run for a loop, on the lake that has its models; into a lake "
                f"that has lost them: tidemill model restore {self._loop}",
            )
        self._topic.write(items)
        inline = payload if manifest.chunks == 0 else None
        self._topic.write([(manifest.key, sign(manifest, self._key, payload=inline))])
        self._manifests[manifest.slot] = manifest
        chunks.update(key for key, _ in items)
        if self._sweeps:
            self._sweep(chunks)
        return True

    def _sweep(self, chunks: set[bytes]) -> None:
        """Remove the chunks that no manifest of this loop names."""
        named = {one.digest for one in self._manifests.values() if one.chunks}
        old = [key for key in chunks if (parsed := parse_chunk_key(key)) and parsed[1] not in named]
        self._topic.write((key, None) for key in sorted(old))
        chunks.difference_update(old)

    def _read_once(self) -> set[bytes]:
        """Return the chunk keys of the loop; the topic is read only once, at the first call."""
        if self._chunks is None:
            records = self._topic.read()
            parsed = ((key, parse_chunk_key(key)) for key in records)
            chunks = {key for key, found in parsed if found and found[0] == self._loop}
            self._manifests = dict(self._current(records))
            self._chunks = chunks
        return self._chunks

    def _current(self, records: Mapping[bytes, bytes]) -> Iterator[tuple[str, ModelManifest]]:
        trusted = TrustedKeys.of([self._key.public])
        prefix = manifest_key(self._loop, "")
        for key, value in records.items():
            if not key.startswith(prefix) or parse_chunk_key(key):
                continue
            try:
                manifest, _ = verify(value, trusted)
            except ModelError:
                continue  # signed with another key: it will be replaced
            if manifest.key == key:
                yield manifest.slot, manifest


def _chunk_items(manifest: ModelManifest, payload: bytes) -> Iterator[KeyedRecord]:
    if manifest.chunks:
        for index, piece in enumerate(chunked(payload)):
            yield chunk_key(manifest.loop, manifest.digest, index), piece
