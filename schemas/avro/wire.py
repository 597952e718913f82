"""Wire formats: how a payload names its writer's schema.

Avro's single-object encoding and Confluent's framing both put a short *prefix* before the Avro
body. A prefix maps to exactly one schema in a schema store (`registry/`).
"""

import json
from collections.abc import Mapping

from fastavro.schema import (
    SchemaParseException,
    UnknownType,
    fingerprint,
    parse_schema,
    to_parsing_canonical_form,
)

from tidemill.errors import ContractError

Schema = Mapping[str, object]
"""An Avro record schema as parsed JSON."""

SINGLE_OBJECT = b"\xc3\x01"
"""The marker of Avro's single-object encoding; eight bytes of fingerprint follow."""
CONFLUENT = b"\x00"
"""The marker of Confluent's wire format; four bytes of schema id follow, big-endian."""
SINGLE_OBJECT_BYTES = 10
CONFLUENT_BYTES = 5
MAX_PAYLOAD_BYTES = 2**20
"""The largest payload that is read, prefix included; Kafka's default limit is the same 1 MiB."""


def canonical_json(schema: Schema) -> str:
    """Return *schema* as one line of JSON with sorted keys; equal schemas give equal text."""
    return json.dumps(schema, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def schema_fingerprint(schema: Schema) -> bytes:
    """Return the CRC-64-AVRO fingerprint of *schema*, eight bytes, little-endian as on the wire.

    Source: Apache Avro specification, "Schema Fingerprints" and "Single-object encoding".

    Raises:
        ContractError: *schema* is not an Avro schema.

    >>> schema_fingerprint({"type": "record", "name": "R", "fields": []}).hex()
    '39f160b814c962bb'
    """
    try:
        canonical = to_parsing_canonical_form(parse_schema(dict(schema), _write_hint=False))
        return bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))
    except (SchemaParseException, UnknownType, ValueError, TypeError, KeyError) as error:
        raise ContractError(
            f"not an Avro schema: {error}", hint="compare it with docs/guide/contracts.md"
        ) from error


def single_object_prefix(schema: Schema) -> bytes:
    """Return the ten bytes before a body written with *schema*: ``C3 01`` and the fingerprint."""
    return SINGLE_OBJECT + schema_fingerprint(schema)


def confluent_prefix(schema_id: int) -> bytes:
    """Return the five bytes before a body whose schema a registry knows as *schema_id*."""
    return CONFLUENT + schema_id.to_bytes(4, "big")


def confluent_id(prefix: bytes) -> int | None:
    """Return the schema id in *prefix*, or None if it is not one of Confluent's."""
    if len(prefix) != CONFLUENT_BYTES or prefix[:1] != CONFLUENT:
        return None
    return int.from_bytes(prefix[1:], "big")
