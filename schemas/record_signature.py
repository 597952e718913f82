"""Signatures of records on shared topics, in a header: who wrote what changes a result.

A signature covers topic, key and value. A signed record can be written again by anybody, so what it
asks for must be harmless a second time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tidemill.errors import ContractError
from tidemill.kafka import Record
from tidemill.schemas.models.signing import SIGNING_KEY, TRUSTED_KEYS, SigningKey, TrustedKeys

V = TypeVar("V")

HEADER = "tidemill-signature"  # the short name of the key, 16 hex digits, and 64 bytes
_CONTEXT = b"tidemill.records.1\n"
_NAME_BYTES = 16

RecordHeaders = tuple[tuple[str, bytes], ...]


def signed_headers(
    signer: SigningKey | None, topic: str, key: bytes, value: bytes
) -> RecordHeaders:
    """Return the headers of a record that *signer* signs; none without a key."""
    if signer is None:
        return ()
    signature = signer.sign(_body(topic, key, value), context=_CONTEXT)
    return ((HEADER, signer.id.encode() + signature),)


def is_signed(record: Record, trusted: TrustedKeys | None) -> bool:
    """Return whether one of the *trusted* keys has signed *record*; never without any."""
    signature = dict(record.headers).get(HEADER)
    if signature is None or trusted is None:
        return False
    name = signature[:_NAME_BYTES].decode(errors="replace")
    body = _body(record.topic, record.key or b"", record.value or b"")
    return trusted.verify(name, signature[_NAME_BYTES:], body, context=_CONTEXT)


def require_signature(record: Record, trusted: TrustedKeys | None, what: str) -> None:
    """Return if *record*, which is *what*, may be acted on: signed, or no keys are *trusted*.

    Raises:
        ContractError: none of the trusted keys has signed it.
    """
    if trusted is not None and not is_signed(record, trusted):
        raise ContractError(
            f"{what} without the signature of a trusted key",
            hint=f"write it with {SIGNING_KEY} set, to a key in {TRUSTED_KEYS} of its readers",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested(Generic[V]):
    """What a record says, when the broker stored it, and whether a trusted key has signed it."""

    value: V
    written_ms: int
    is_verified: bool


def attested(
    parse: Callable[[Record], V], trusted: TrustedKeys | None
) -> Callable[[Record], Attested[V]]:
    """Return *parse* with who says it."""
    return lambda record: Attested(
        value=parse(record),
        written_ms=record.timestamp_ms,
        is_verified=is_signed(record, trusted),
    )


def check_attested(before: Attested[V], after: Attested[V]) -> None:
    """Return if *after* may replace *before*, which was said under the same key.

    Raises:
        ContractError: it is not verified, and what it would replace is.
    """
    if before.is_verified and not after.is_verified:
        raise ContractError(
            "unsigned, though what it would replace is signed",
            hint=f"give its writer a {SIGNING_KEY}, or write a tombstone under its key first",
        )


def _body(topic: str, key: bytes, value: bytes) -> bytes:
    parts = (topic.encode(), key, value)
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
