"""Model manifests: what a trainer publishes about a model, signed, and the chunks of its payload.

This is the protocol of the model topic. A manifest is the value of key ``<loop>/<slot>``. A payload
over `INLINE_BYTES` is written before it in chunks under ``<loop>/payload/<digest>/<i>``. Only the
manifest is signed; it contains the digest of the payload. `assembler.py` joins the records again.

Longer than 300 lines because what signs, verifies and checks a record shares one strict decoding.
"""

import contextlib
import hashlib
import io
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Literal, Self

import fastavro

from tidemill.errors import ModelError
from tidemill.schemas.models.signing import SigningKey, TrustedKeys

CHUNK_BYTES = 900_000  # below Kafka's default record limit of 1 MB with room for the headers
INLINE_BYTES = 200_000
MAX_PAYLOAD_BYTES = 64 * 2**20  # a larger model would take seconds to load in every worker
MAX_RECORD_BYTES = 1_048_576
LIVE = "live"
CANARY = "canary"
"""The slot of a candidate that makes a share of the decisions."""
SHADOW = "shadow"
"""The slot of a candidate that scores decisions which others make."""
DEFAULT = "default"
"""The learner in the manifest of no model: the default decides from then on."""
DEFAULT_PAYLOAD = b"the default decides"
_UNREADABLE = (
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
)

Reason = Literal[
    "malformed",  # not a manifest, or one that contradicts itself
    "oversize",  # claims or carries more bytes than the protocol allows
    "untrusted-key",  # signed by a key this worker does not trust
    "bad-signature",  # the bytes were changed after they were signed
    "misplaced",  # a valid manifest under the key of another loop or slot
    "replayed",  # older than a manifest that was read before
    "missing-chunk",  # a part of the payload is not on the topic
    "digest-mismatch",  # the payload is not the one of the manifest
]


class RefusedError(ModelError):
    """A manifest that must not serve; *reason* is one of the protocol's."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(what, hint="publish the model again; the live one goes on serving")
        self.reason: Reason = reason


MAX_ACK_BYTES = 8_192
_REASON_CHARS = 500  # six bytes each, if they are none of ASCII


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelManifest:
    """One published model; the fields are explained in ``manifest.avsc``."""

    loop: str
    loop_version: int
    slot: str = LIVE
    version: str
    number: int
    sequence: int
    rollback: bool = False
    learner: str
    label_type: str
    digest: str
    payload_bytes: int
    chunks: int
    features: str
    features_digest: str
    policy_version: int
    snapshot: int
    trained_on_rows: int
    base_rate: float
    metrics: Mapping[str, float]
    created_at: datetime
    label_digest: str | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        """Refuse a value that contradicts itself.

        Raises:
            RefusedError: with reason ``oversize`` or ``malformed``.
        """
        if not 0 < self.payload_bytes <= MAX_PAYLOAD_BYTES:
            raise RefusedError("oversize", f"{self.version} claims {self.payload_bytes} bytes")
        if self.chunks not in (0, chunk_count(self.payload_bytes)):
            raise RefusedError("malformed", f"{self.version} claims {self.chunks} chunks")
        if not re.fullmatch(r"[0-9a-f]{64}", self.digest):
            raise RefusedError("malformed", f"{self.digest!r} is not a SHA-256 in hex")
        if hashlib.sha256(self.features.encode()).hexdigest() != self.features_digest:
            raise RefusedError(
                "malformed", f"{self.version}: the feature signature has another digest"
            )
        if min(self.number, self.sequence, self.trained_on_rows, self.snapshot) < 0:
            raise RefusedError("malformed", f"{self.version} has a negative count")
        if not math.isfinite(self.base_rate):
            raise RefusedError("malformed", f"{self.version} has base rate {self.base_rate}")
        if self.share is not None and not 0.0 <= self.share <= 1.0:
            raise RefusedError("malformed", f"{self.version} has share {self.share}")

    @property
    def key(self) -> bytes:
        """The key of its record."""
        return manifest_key(self.loop, self.slot)


def manifest_key(loop: str, slot: str = LIVE) -> bytes:
    """Return the key of the manifest of *slot*."""
    return f"{loop}/{slot}".encode()


def chunk_key(loop: str, digest: str, index: int) -> bytes:
    """Return the key of one chunk of the payload with this digest."""
    return f"{loop}/payload/{digest}/{index}".encode()


def parse_chunk_key(key: bytes) -> tuple[str, str, int] | None:
    """Return loop, digest and index of a chunk's key; None for any other key."""
    match = re.fullmatch(rb"([a-z0-9-]+)/payload/([0-9a-f]{64})/([0-9]{1,6})", key)
    return (match[1].decode(), match[2].decode(), int(match[3])) if match else None


def check_key(key: bytes | None) -> None:
    """Check that *key* is one of a manifest or of a chunk.

    Raises:
        RefusedError: with reason ``malformed``.
    """
    if not re.fullmatch(rb"[a-z0-9-]+/([\w-]+|payload/[0-9a-f]{64}/[0-9]{1,6})", key or b""):
        raise RefusedError("malformed", "its key is neither one of a manifest nor of a chunk")


def chunk_count(size: int) -> int:
    """Return how many chunks a payload of *size* bytes takes."""
    return -(-size // CHUNK_BYTES)


def chunked(payload: bytes, limit: int = CHUNK_BYTES) -> list[bytes]:
    """Return *payload* in chunks of at most *limit* bytes, in order."""
    return [payload[start : start + limit] for start in range(0, len(payload), limit)]


def payload_digest(payload: bytes) -> str:
    """Return the SHA-256 of *payload* in hex."""
    return hashlib.sha256(payload).hexdigest()


def sign(manifest: ModelManifest, key: SigningKey, *, payload: bytes | None = None) -> bytes:
    """Return the record value: the manifest in Avro with its signature.

    Args:
        manifest: what to sign.
        key: the key to sign with.
        payload: the model if ``chunks`` is 0, else None.
    """
    if (payload is not None) != (manifest.chunks == 0):
        raise ValueError(f"{manifest.version} has {manifest.chunks} chunks")
    fields = asdict(manifest)
    body = _encode(_announcement(_needed(fields)), fields)
    value = {"key_id": key.id, "signature": key.sign(body), "body": body, "payload": payload}
    return _encode(_schemas()["Signed"], value)


def verify(value: bytes, trusted: TrustedKeys) -> tuple[ModelManifest, bytes | None]:
    """Return the manifest of a record value, and its payload if that is inline.

    The signature is checked before any field of the manifest is read, and the digest of an inline
    payload too.

    Raises:
        RefusedError: with the reason.
    """
    if len(value) > MAX_RECORD_BYTES:
        raise RefusedError("oversize", f"a manifest of {len(value)} bytes")
    signed = _decode(_schemas()["Signed"], value)
    key, body, payload = signed["key_id"], signed["body"], signed["payload"]
    if key not in trusted.keys:
        raise RefusedError(
            "untrusted-key", f"signed by key {str(key)[:32]!r}, which is not trusted"
        )
    if not trusted.verify(key, signed["signature"], body):
        raise RefusedError("bad-signature", f"the manifest is not what key {key} signed")
    return _checked(body, payload), payload


def check_record(key: bytes | None, value: bytes) -> None:
    """Check what can be checked of a record of the model topic without the keys that are trusted.

    Raises:
        RefusedError: with the reason.
    """
    check_key(key)
    is_chunk = parse_chunk_key(key or b"") is not None
    if len(value) > (CHUNK_BYTES if is_chunk else MAX_RECORD_BYTES):
        raise RefusedError("oversize", f"a record of {len(value)} bytes")
    if is_chunk:
        return
    signed = _decode(_schemas()["Signed"], value)
    manifest = _checked(signed["body"], signed["payload"])
    if manifest.key != key:
        raise RefusedError("misplaced", f"a manifest of {manifest.key.decode()}")


def _checked(body: bytes, payload: bytes | None) -> ModelManifest:
    """Return the manifest of *body*, whose *payload* is the one that it names, if it is inline."""
    manifest = ModelManifest(**_announced(body))
    if manifest.chunks == 0:
        check_payload(manifest, payload or b"")
    elif payload is not None:
        raise RefusedError("malformed", f"{manifest.version} has chunks and an inline payload")
    return manifest


def check_payload(manifest: ModelManifest, payload: bytes) -> None:
    """Refuse a payload that is not the one of *manifest*.

    Raises:
        RefusedError: with reason ``digest-mismatch``.
    """
    if len(payload) != manifest.payload_bytes or payload_digest(payload) != manifest.digest:
        raise RefusedError(
            "digest-mismatch", f"the payload of {manifest.version} is not the one of its manifest"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """What a worker reports on topic ``tidemill.acks``, one record for each slot.

    Its record has at most `MAX_ACK_BYTES`: readers remember one for each key. *load_ms* is how long
    the model took to be tried and loaded, *sequence* that of its manifest. Both are left out where
    they are None, so that earlier releases can read what they have read so far.
    """

    worker: str
    loop: str
    slot: str
    version: str
    digest: str
    status: Literal["serving", "refused"]
    reason: str = ""
    at: datetime
    load_ms: float | None = None
    sequence: int | None = None

    @property
    def key(self) -> bytes:
        """The key of its record: ``<worker>/<loop>`` of the live slot, else with the slot."""
        slot = "" if self.slot == LIVE else f"/{self.slot}"
        return f"{self.worker}/{self.loop}{slot}".encode()

    def to_json(self) -> bytes:
        """Return the record's value; the end of a long *reason* is left out."""
        value = asdict(self) | {"at": self.at.isoformat(), "reason": self.reason[:_REASON_CHARS]}
        said = {name: each for name, each in value.items() if each is not None}
        return json.dumps(said, sort_keys=True).encode()

    @classmethod
    def from_json(cls, value: bytes) -> Self:
        """Read what `to_json` wrote, also that of a later release with more fields.

        Raises:
            ModelError: it is not an acknowledgement.
        """
        if len(value) > MAX_ACK_BYTES:
            raise ModelError(
                f"an acknowledgement of {len(value):,} bytes, over {MAX_ACK_BYTES:,}",
                hint="look at who can write to this topic",
            )
        try:
            said = dict(json.loads(value))
            numbers: dict[str, Any] = {name: said.get(name) for name in ("load_ms", "sequence")}
            texts = {field.name: said[field.name] for field in fields(cls) if field.name in said}
            texts = {name: each for name, each in texts.items() if name not in numbers}
            at = datetime.fromisoformat(texts.pop("at"))
            if texts["status"] not in ("serving", "refused"):
                raise ValueError(f"status {texts['status']!r}")
            if at.tzinfo is None:
                raise ValueError("a time without a zone")
            if not all(isinstance(text, str) for text in texts.values()):
                raise TypeError("a field is no text")
            if not all(each is None or type(each) in (int, float) for each in numbers.values()):
                raise TypeError("a field is no number")
            if isinstance(numbers["sequence"], float):
                raise TypeError("a sequence that is not whole")
            return cls(**texts, **numbers, at=at)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"not an acknowledgement: {error!r}", hint="let workers of one release run together"
            ) from error


def _announced(body: bytes) -> dict[str, Any]:
    """Return the fields of an announcement, also of one that an earlier release has made."""
    for count in range(len(_added()), 0, -1):
        with contextlib.suppress(RefusedError):
            return _decode(_announcement(count), body)
    return _decode(_announcement(0), body)


def _needed(fields: Mapping[str, object]) -> int:
    """Return how many of the added fields an announcement needs, up to the last that is not null.

    One that needs none of them is written as earlier releases have written it, and they can read
    it.
    """
    return max((n for n, name in enumerate(_added(), 1) if fields[name] is not None), default=0)


@cache
def _schemas() -> Mapping[str, Any]:
    text = files("tidemill.schemas.models").joinpath("manifest.avsc").read_text()
    return {schema["name"]: schema for schema in json.loads(text)}


@cache
def _added() -> tuple[str, ...]:
    """Return the fields that came after the first release, in their order: those with a default."""
    fields = _schemas()["Announcement"]["fields"]
    return tuple(each["name"] for each in fields if "default" in each)


@cache
def _announcement(count: int) -> Mapping[str, Any]:
    """Return the schema of an announcement with the first *count* of the added fields."""
    schema, left = _schemas()["Announcement"], _added()[count:]
    return {**schema, "fields": [each for each in schema["fields"] if each["name"] not in left]}


def _encode(schema: Mapping[str, Any], value: Mapping[str, object]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, _parsed(json.dumps(schema)), value)
    return out.getvalue()


def _decode(schema: Mapping[str, Any], data: bytes) -> dict[str, Any]:
    """Decode one datum; refuse bytes that do not encode to themselves again.

    The round trip refuses trailing bytes, negative lengths and whatever else fastavro accepts
    beyond the Avro specification.
    """
    name = schema["name"]
    try:
        value = fastavro.schemaless_reader(io.BytesIO(data), _parsed(json.dumps(schema)), None)
        if isinstance(value, dict) and _encode(schema, value) == data:
            return value
    except _UNREADABLE as error:
        raise RefusedError("malformed", f"not a {name} in Avro: {error!r}") from error
    raise RefusedError("malformed", f"not a {name} in canonical Avro")


@cache
def _parsed(schema: str) -> Any:  # noqa: ANN401  # fastavro's own parsed form
    return fastavro.parse_schema(json.loads(schema), named_schemas={})


def utc_now() -> datetime:
    """Return the present time in UTC: the default clock."""
    return datetime.now(UTC)
