"""Tests of the wire formats against the specification and against fastavro."""

import pytest

from tidemill.errors import ContractError
from tidemill.schemas.avro.wire import (
    confluent_id,
    confluent_prefix,
    schema_fingerprint,
    single_object_prefix,
)

RECORD = {
    "type": "record",
    "name": "Test",
    "namespace": "a.b",
    "doc": "stripped",
    "fields": [
        {"name": "f", "type": {"type": "long", "logicalType": "timestamp-micros"}, "default": 0}
    ],
}
CANONICAL = b'{"name":"a.b.Test","type":"record","fields":[{"name":"f","type":"long"}]}'


def rabin(text: bytes) -> int:
    """Return the 64-bit Rabin fingerprint as the specification gives it, bit by bit."""
    empty = 0xC15D213AA4D7A795
    fingerprint = empty
    for byte in text:
        fingerprint ^= byte
        for _ in range(8):
            fingerprint = fingerprint >> 1 ^ (empty if fingerprint & 1 else 0)
    return fingerprint


def test_fingerprints_are_those_of_the_specification() -> None:
    """Readers in other languages compute them too; on the wire they are little-endian."""
    assert rabin(b'"int"') == 8247732601305521295  # Avro's share/test/data/schema-tests.txt
    assert schema_fingerprint({"type": "int"}) == (8247732601305521295).to_bytes(8, "little")
    assert schema_fingerprint(RECORD) == rabin(CANONICAL).to_bytes(8, "little")
    assert single_object_prefix(RECORD) == b"\xc3\x01" + schema_fingerprint(RECORD)


def test_a_registrys_number_is_big_endian_behind_a_zero() -> None:
    """Confluent's wire format, as its documentation gives it."""
    assert confluent_prefix(258) == b"\x00\x00\x00\x01\x02"
    assert confluent_id(b"\x00\x00\x00\x01\x02") == 258
    assert confluent_id(single_object_prefix({"type": "null"})) is None


def test_what_is_no_schema_has_no_fingerprint() -> None:
    """A store that others write to may hold anything."""
    for junk in ({"type": "recorrd"}, {}, {"type": "record", "name": "R", "fields": [{}]}):
        with pytest.raises(ContractError):
            schema_fingerprint(junk)
