"""Wire formats: how a payload names its writer's schema.

Avro's single-object encoding and Confluent's framing both put a short *prefix* before the Avro
body. A prefix maps to exactly one schema in a schema store (`registry/`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

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


def check_same_values(known: Schema, new: Schema, *, subject: str) -> None:
    """Check that *new* means the same values as *known*, which has the same fingerprint.

    A fingerprint is over the canonical form, which has no logical types. So microseconds and
    milliseconds would be one schema to a reader, and it would read one of them wrongly.

    Raises:
        ContractError: the two differ in a logical type.
    """
    for before, now in zip(_logical_types(known), _logical_types(new), strict=False):
        if before != now:
            raise ContractError(
                f"{subject}: a schema with {before or 'no logical type'} is registered with the "
                f"same fingerprint as this one, which has {now or 'no logical type'} in its place",
                hint="use the logical type of the registered schema, or another record name",
            )


def _logical_types(schema: object) -> Iterator[str]:
    """Yield the logical type of each plain type in *schema*, "" for none, in their order."""
    if isinstance(schema, list):
        for branch in schema:
            yield from _logical_types(branch)
    elif not isinstance(schema, Mapping):
        yield ""
    elif schema.get("type") == "record":
        for field in cast(Sequence[Mapping[str, object]], schema["fields"]):
            yield from _logical_types(field["type"])
    elif schema.get("type") in ("array", "map"):
        yield from _logical_types(schema.get("items", schema.get("values")))
    elif isinstance(schema.get("type"), str):
        yield str(schema.get("logicalType", ""))
    else:
        yield from _logical_types(schema.get("type"))


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
