"""The inbox: put the records of the model topic together to verified models, or refuse them.

Feed it every record of the topic in order. It believes nothing: chunks are held under a limit
until a signed announcement names their digest, and what does not verify is refused with a reason.
It knows no Kafka and no clock.

What it cannot know: a worker that starts from an emptied topic has no memory of what it served
before, so someone who may write to the topic can show it an older announcement of a trusted key.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

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

HELD_BYTES = 2 * MAX_PAYLOAD_BYTES  # one payload that serves next and one that is being written
_MAX_PLACES = 10_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """A model that was announced by a trusted key and has arrived whole."""

    announcement: ModelManifest
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An announcement that must not serve. Version and digest are empty where none was readable."""

    loop: str
    slot: str
    version: str = ""
    digest: str = ""
    reason: Reason
    detail: str


Chunks = dict[int, bytes]


class ModelAssembler:
    """Turn the records of the model topic into deliveries and refusals.

    Args:
        trusted: whose signatures count.
        wants: which loops to look at; every record of others is passed over.
        slots: which slots to look at; learners keep their own state in slots of their own.
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
        self.held_bytes = 0  # of chunks; never over HELD_BYTES after a call
        self._newest: dict[tuple[str, str], ModelManifest] = {}
        self._rereading: set[tuple[str, str]] = set()
        self._waiting: dict[tuple[str, str], ModelManifest] = {}

    def feed(self, key: bytes | None, value: bytes | None) -> Delivery | Refusal | None:
        """Take one record; return what it completed, or None if nothing is decided by it."""
        place = parse_chunk_key(key or b"")
        if place:
            return self._take_chunk(*place, value) if self._wants(place[0]) else None
        loop, separator, slot = (key or b"").decode("utf-8", "replace").partition("/")
        if not separator or slot not in self._slots or not self._wants(loop):
            return None
        if value is None:
            self._waiting.pop((loop, slot), None)
            return None
        try:
            return self._take_announcement(loop, slot, value)
        except RefusedError as error:
            return Refusal(loop=loop, slot=slot, reason=error.reason, detail=error.what)

    def rewind(self) -> None:
        """Expect the topic from its beginning again, as after a lost connection.

        What was superseded then comes once more; it is passed over until what stands now has come.
        """
        self._rereading = set(self._newest)

    def pending(self) -> list[Refusal]:
        """Return the announcements whose payload has not arrived whole, as refusals.

        Ask once the topic is read to its end: chunks come before their announcement, so what is
        missing then is missing. A chunk that comes later still completes it.
        """
        return [
            _refusal(item, "missing-chunk", f"chunks {self._missing(item)} are not on the topic")
            for item in self._waiting.values()
        ]

    def _take_announcement(self, loop: str, slot: str, value: bytes) -> Delivery | Refusal | None:
        announcement, payload = verify(value, self._trusted)
        if announcement.key != manifest_key(loop, slot):
            found = announcement.key.decode()
            return _refusal(announcement, "misplaced", f"{found} stands under {loop}/{slot}")
        before = self._newest.get((loop, slot))
        if before is not None:
            if announcement == before:
                self._rereading.discard((loop, slot))
                return None  # the same once more: read again after a reconnect, or signed anew
            if announcement.sequence < before.sequence and (loop, slot) in self._rereading:
                return None
            if announcement.sequence <= before.sequence:
                detail = f"sequence {announcement.sequence} after {before.sequence}"
                return _refusal(announcement, "replayed", detail)
            if announcement.number < before.number and not announcement.rollback:
                detail = f"number {announcement.number} after {before.number} without rollback"
                return _refusal(announcement, "replayed", detail)
        elif len(self._newest) >= _MAX_PLACES:
            return _refusal(announcement, "oversize", f"over {_MAX_PLACES} loops and slots")
        self._newest[loop, slot] = announcement
        self._rereading.discard((loop, slot))
        self._waiting.pop((loop, slot), None)
        if payload is not None:
            return Delivery(announcement, payload)
        self._waiting[loop, slot] = announcement
        return self._complete(announcement)

    def _take_chunk(
        self, loop: str, digest: str, index: int, value: bytes | None
    ) -> Delivery | Refusal | None:
        group = self._chunks.setdefault((loop, digest), {})
        self.held_bytes -= len(group.pop(index, b""))
        if value is None or index >= chunk_count(MAX_PAYLOAD_BYTES) or len(value) > CHUNK_BYTES:
            if not group:
                del self._chunks[loop, digest]
            return None
        group[index] = value
        self.held_bytes += len(value)
        self._chunks.move_to_end((loop, digest))
        while self.held_bytes > HELD_BYTES:
            self._drop(next(iter(self._chunks)))
        for waiting in self._waiting.values():
            if (waiting.loop, waiting.digest) == (loop, digest):
                return self._complete(waiting)
        return None

    def _complete(self, announcement: ModelManifest) -> Delivery | Refusal | None:
        if self._missing(announcement):
            return None
        where = (announcement.loop, announcement.digest)
        group = self._chunks[where]
        payload = b"".join(group[index] for index in range(announcement.chunks))
        self._drop(where)
        try:
            check_payload(announcement, payload)
        except RefusedError as error:
            return _refusal(announcement, error.reason, error.what)
        del self._waiting[announcement.loop, announcement.slot]
        return Delivery(announcement, payload)

    def _missing(self, announcement: ModelManifest) -> list[int]:
        group = self._chunks.get((announcement.loop, announcement.digest), {})
        return [index for index in range(announcement.chunks) if index not in group]

    def _drop(self, where: tuple[str, str]) -> None:
        self.held_bytes -= sum(map(len, self._chunks.pop(where, {}).values()))


def _refusal(announcement: ModelManifest, reason: Reason, detail: str) -> Refusal:
    return Refusal(
        loop=announcement.loop,
        slot=announcement.slot,
        version=announcement.version,
        digest=announcement.digest,
        reason=reason,
        detail=detail,
    )
