"""The model assembler: it joins the records of the model topic to verified models, or refuses them.

Feed it every record of the topic in order. It trusts no record: it buffers chunks up to a limit
until a signed manifest names their digest, and refuses with a reason what it cannot verify.

One attack it cannot detect: a worker that starts on an emptied topic does not know what it served
before, so someone with the right to write to the topic can replay an older manifest of a trusted
key.
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Self
from weakref import WeakValueDictionary

from tidemill.schemas.models.manifest import (
    CHUNK_BYTES,
    LIVE,
    MAX_PAYLOAD_BYTES,
    ModelManifest,
    Reason,
    RefusedError,
    check_payload,
    chunk_count,
    manifest_key,
    parse_chunk_key,
    verify,
)
from tidemill.schemas.models.signing import TrustedKeys

BUFFER_BYTES = 2 * MAX_PAYLOAD_BYTES  # a complete payload and one that is being written
_MAX_SLOTS = 10_000


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Delivery:
    """A complete model whose manifest was signed by a trusted key.

    A worker keeps that of each model that serves, to try it again for the next version of its loop,
    so the payload is kept compressed: the text of LightGBM takes less than half.
    """

    manifest: ModelManifest
    compressed: bytes

    @classmethod
    def of(cls, manifest: ModelManifest, payload: bytes) -> Self:
        """Return the model of *manifest*, whose *payload* was checked."""
        return cls(manifest, zlib.compress(payload, level=1))

    @property
    def payload(self) -> bytes:
        """The payload as it was published."""
        return zlib.decompress(self.compressed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A manifest that must not serve. Version and digest are empty if they were not readable."""

    loop: str
    slot: str
    version: str = ""
    digest: str = ""
    reason: Reason
    detail: str


Chunks = dict[int, bytes]


class ModelAssembler:
    """Turns the records of the model topic into deliveries and refusals.

    Args:
        trusted: the keys whose signatures are accepted.
        wants: returns whether to read a loop; records of other loops are skipped.
        slots: the slots to read; learners store their state in slots of their own.
    """

    def __init__(
        self,
        trusted: TrustedKeys,
        wants: Callable[[str], bool] | None = None,
        *,
        slots: Collection[str] = (LIVE,),
    ) -> None:
        self._trusted = trusted
        self._slots = frozenset(slots)
        self._wants = wants or (lambda _loop: True)
        self._chunks: OrderedDict[tuple[str, str], Chunks] = OrderedDict()
        self.buffered_bytes = 0  # of chunks; at most BUFFER_BYTES after a call
        self._newest: dict[tuple[str, str], ModelManifest] = {}
        self._rereading: set[tuple[str, str]] = set()
        self._waiting: dict[tuple[str, str], ModelManifest] = {}
        self._delivered: WeakValueDictionary[tuple[str, str], Delivery] = WeakValueDictionary()

    def feed(self, key: bytes | None, value: bytes | None) -> Delivery | Refusal | None:
        """Take one record; return the model it completes or the refusal it causes, else None."""
        chunk = parse_chunk_key(key or b"")
        if chunk:
            return self._take_chunk(*chunk, value) if self._wants(chunk[0]) else None
        loop, separator, slot = (key or b"").decode("utf-8", "replace").partition("/")
        if not separator or slot not in self._slots or not self._wants(loop):
            return None
        if value is None:
            self._waiting.pop((loop, slot), None)
            return None
        try:
            return self._take_manifest(loop, slot, value)
        except RefusedError as error:
            return Refusal(loop=loop, slot=slot, reason=error.reason, detail=error.what)

    def rewind(self) -> None:
        """Expect the topic from its beginning again, as after a lost connection.

        Superseded manifests then arrive again; they are skipped until the newest one has arrived.
        """
        self._rereading = set(self._newest)

    def completed(self) -> list[Delivery]:
        """Return the models that wait for a payload which another slot has got meanwhile.

        Two slots name one payload while a model goes from one to the other, and after a compaction
        the topic has its chunks once. Call it when the topic has been read to its end.
        """
        waiting = list(self._waiting.values())
        found = (self._as_in_another_slot(manifest) for manifest in waiting)
        return [delivery for delivery in found if delivery is not None]

    def pending(self) -> list[Refusal]:
        """Return a refusal for each manifest whose payload is incomplete.

        Call it when the topic has been read to its end: chunks are written before their manifest,
        so a chunk that is not there by then is missing. If it arrives later, it still completes the
        model.
        """
        return [
            _refusal(item, "missing-chunk", f"chunks {self._missing(item)} are not on the topic")
            for item in self._waiting.values()
        ]

    def _take_manifest(self, loop: str, slot: str, value: bytes) -> Delivery | Refusal | None:
        manifest, payload = verify(value, self._trusted)
        if manifest.key != manifest_key(loop, slot):
            signed = manifest.key.decode()
            return _refusal(manifest, "misplaced", f"{signed} was written under {loop}/{slot}")
        before = self._newest.get((loop, slot))
        if before is not None:
            if manifest == before:
                self._rereading.discard((loop, slot))
                return None  # a duplicate: read again after a reconnect, or signed again
            if manifest.sequence < before.sequence and (loop, slot) in self._rereading:
                return None
            if manifest.sequence <= before.sequence:
                detail = f"sequence {manifest.sequence} after {before.sequence}"
                return _refusal(manifest, "replayed", detail)
            if manifest.number < before.number and not manifest.rollback:
                detail = f"number {manifest.number} after {before.number} without rollback"
                return _refusal(manifest, "replayed", detail)
        elif len(self._newest) >= _MAX_SLOTS:
            return _refusal(manifest, "oversize", f"over {_MAX_SLOTS} loops and slots")
        self._newest[loop, slot] = manifest
        self._rereading.discard((loop, slot))
        self._waiting.pop((loop, slot), None)
        if payload is not None:
            return Delivery.of(manifest, payload)
        self._waiting[loop, slot] = manifest
        return self._complete(manifest)

    def _take_chunk(
        self, loop: str, digest: str, index: int, value: bytes | None
    ) -> Delivery | Refusal | None:
        group = self._chunks.setdefault((loop, digest), {})
        self.buffered_bytes -= len(group.pop(index, b""))
        if value is None or index >= chunk_count(MAX_PAYLOAD_BYTES) or len(value) > CHUNK_BYTES:
            if not group:
                del self._chunks[loop, digest]
            return None
        group[index] = value
        self.buffered_bytes += len(value)
        self._chunks.move_to_end((loop, digest))
        while self.buffered_bytes > BUFFER_BYTES:
            self._drop(next(iter(self._chunks)))
        for waiting in self._waiting.values():
            if (waiting.loop, waiting.digest) == (loop, digest):
                return self._complete(waiting)
        return None

    def _complete(self, manifest: ModelManifest) -> Delivery | Refusal | None:
        if self._missing(manifest):
            return self._as_in_another_slot(manifest)
        key = (manifest.loop, manifest.digest)
        group = self._chunks[key]
        payload = b"".join(group[index] for index in range(manifest.chunks))
        self._drop(key)
        try:
            check_payload(manifest, payload)
        except RefusedError as error:
            return _refusal(manifest, error.reason, error.what)
        return self._deliver(Delivery.of(manifest, payload))

    def _as_in_another_slot(self, manifest: ModelManifest) -> Delivery | None:
        """Return the model of *manifest* with the payload of a slot that somebody still has."""
        other = self._delivered.get((manifest.loop, manifest.digest))
        return None if other is None else self._deliver(Delivery(manifest, other.compressed))

    def _deliver(self, delivery: Delivery) -> Delivery:
        manifest = delivery.manifest
        del self._waiting[manifest.loop, manifest.slot]
        self._delivered[manifest.loop, manifest.digest] = delivery
        return delivery

    def _missing(self, manifest: ModelManifest) -> list[int]:
        group = self._chunks.get((manifest.loop, manifest.digest), {})
        return [index for index in range(manifest.chunks) if index not in group]

    def _drop(self, key: tuple[str, str]) -> None:
        self.buffered_bytes -= sum(map(len, self._chunks.pop(key, {}).values()))


def _refusal(manifest: ModelManifest, reason: Reason, detail: str) -> Refusal:
    return Refusal(
        loop=manifest.loop,
        slot=manifest.slot,
        version=manifest.version,
        digest=manifest.digest,
        reason=reason,
        detail=detail,
    )
