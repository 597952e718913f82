"""Limits of a schema: a schema within them cannot make a reader allocate or recurse without bound.

Every schema is checked before it is registered, and again after it is read from a schema store,
because others write to the store too.
"""

from collections.abc import Mapping

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from tidemill.errors import ContractError
from tidemill.schemas.avro.types import full_name
from tidemill.schemas.avro.wire import Schema, canonical_json

MAX_SCHEMA_BYTES = 256 * 1024
MAX_DEPTH = 16
"""How deep types may be nested; a reader recurses once per level."""
MAX_FIELDS = 4_096


def check_schema(schema: Schema) -> None:
    """Check that *schema* is a record that can be read within limits.

    Raises:
        ContractError: it is not an Avro record, contains itself, has items of zero bytes, or is
            too large.
    """
    if refusal := why_unreadable(schema):
        raise ContractError(
            f"schema {schema.get('name', '?')!r} {refusal[1]}",
            hint="make the event a plain record of values and lists of values",
        )


def why_unreadable(schema: Schema) -> tuple[str, str] | None:
    """Return why *schema* must not be used to read payloads: a reason and a text, or None."""
    if not isinstance(schema, Mapping) or schema.get("type") != "record":
        return "malformed-schema", "is not a record"
    if len(canonical_json(schema)) > MAX_SCHEMA_BYTES:
        return "malformed-schema", f"is larger than {MAX_SCHEMA_BYTES} bytes"
    try:
        _Survey().visit(schema, "", 0)
        fastavro.parse_schema(dict(schema), _write_hint=False)
    except _UnboundedError as refused:
        return refused.reason, str(refused)
    except (SchemaParseException, UnknownType, KeyError, TypeError, ValueError) as error:
        return "malformed-schema", f"is not valid Avro: {error!r}"
    return None


class _UnboundedError(Exception):
    def __init__(self, text: str, *, reason: str = "malformed-schema") -> None:
        super().__init__(text)
        self.reason = reason


class _Survey:
    """One pass over a schema; `visit` returns the least number of bytes that a value takes."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.open: set[str] = set()
        self.fields = 0

    def visit(self, schema: object, namespace: str, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise _UnboundedError(f"is nested deeper than {MAX_DEPTH}")
        if isinstance(schema, list):
            sizes = [self.visit(branch, namespace, depth + 1) for branch in schema]
            if not sizes:
                raise _UnboundedError("has a union without branches")
            return 1 + min(sizes)
        if isinstance(schema, str):
            return self._named(schema, namespace)
        if not isinstance(schema, Mapping):
            raise _UnboundedError(f"has {schema!r} for a type")
        match schema.get("type"):
            case "record" | "error":
                return self._record(schema, namespace, depth)
            case "array":
                self._item(schema.get("items"), namespace, depth)
                return 1
            case "map":
                self._item(schema.get("values"), namespace, depth)
                return 1
            case "fixed":
                size = schema.get("size")
                if not isinstance(size, int) or not 0 < size <= 2**20:
                    raise _UnboundedError(f"has a fixed of size {size!r}")
                self.names[full_name(schema, namespace)] = size
                return size
            case "enum":
                self.names[full_name(schema, namespace)] = 1
                return 1
            case other:
                return self.visit(other, namespace, depth + 1)

    def _named(self, name: str, namespace: str) -> int:
        if name == "null":
            return 0
        if name in _LEAST_BYTES:
            return _LEAST_BYTES[name]
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        if full in self.open:
            raise _UnboundedError(f"names itself in {name!r}", reason="recursive-schema")
        if full not in self.names:
            raise _UnboundedError(f"has an unknown type {name!r}")
        return self.names[full]

    def _record(self, schema: Mapping[str, object], namespace: str, depth: int) -> int:
        full = full_name(schema, namespace)
        inner = full.rpartition(".")[0]
        fields = schema.get("fields")
        if full in self.open or not isinstance(fields, list):
            raise _UnboundedError(f"has a broken record {full!r}", reason="recursive-schema")
        self.open.add(full)
        self.fields += len(fields)
        if self.fields > MAX_FIELDS:
            raise _UnboundedError(f"has more than {MAX_FIELDS} fields")
        size = 0
        for field in fields:
            if not isinstance(field, Mapping) or field.get("type") == "null":
                raise _UnboundedError(f"has a field that holds nothing: {field!r}")
            size += self.visit(field.get("type"), inner, depth + 1)
        self.open.discard(full)
        self.names[full] = size
        return size

    def _item(self, schema: object, namespace: str, depth: int) -> None:
        if self.visit(schema, namespace, depth + 1) == 0:
            raise _UnboundedError("has items of no size: a few bytes could hold billions of them")


_LEAST_BYTES: Mapping[str, int] = {
    "boolean": 1,
    "int": 1,
    "long": 1,
    "float": 4,
    "double": 8,
    "bytes": 1,
    "string": 1,
}
