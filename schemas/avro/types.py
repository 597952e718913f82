"""Accessors for an Avro schema: its name, its fields, the type of column for its values.

A schema is parsed JSON: a text, a list for a union, a mapping for everything else.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import polars as pl

from tidemill.schemas.avro.wire import Schema

_COLUMNS: Mapping[str, pl.DataType] = {
    "boolean": pl.Boolean(),
    "int": pl.Int32(),
    "long": pl.Int64(),
    "float": pl.Float32(),
    "double": pl.Float64(),
    "string": pl.String(),
    "bytes": pl.Binary(),
    "timestamp-micros": pl.Datetime("us", "UTC"),
}


def full_name(schema: Mapping[str, object], namespace: str = "") -> str:
    """Return the name of a named type with its namespace; *namespace* is the enclosing one.

    Raises:
        ValueError: the type has no name.
    """
    name = schema.get("name")
    if not isinstance(name, str):
        raise ValueError("has a type without a name")
    namespace = str(schema.get("namespace", namespace))
    return name if "." in name or not namespace else f"{namespace}.{name}"


def fields_of(schema: object) -> Sequence[Mapping[str, object]]:
    """Return the fields of a record schema."""
    return cast(Sequence[Mapping[str, object]], cast(Schema, schema)["fields"])


def item_of(schema: object) -> object:
    """Return the item type of an array schema."""
    return cast(Schema, schema)["items"]


def optional(schema: object) -> tuple[bool, object]:
    """Return whether *schema* is a union of null with one type, and that type."""
    if isinstance(schema, list) and len(schema) == 2 and "null" in schema:
        return True, schema[1] if schema[0] == "null" else schema[0]
    return False, schema


def type_name(schema: object) -> str:
    """Return one word for the type *schema*: of a logical type that columns support, its name."""
    if isinstance(schema, list):
        return "union"
    if isinstance(schema, Mapping):
        logical = schema.get("logicalType")
        if logical == "timestamp-micros" and schema.get("type") == "long":
            return "timestamp-micros"
        return type_name(schema["type"])
    return str(schema)


def described(schema: object) -> str:
    """Return what the type *schema* is, for people.

    >>> described({"type": "array", "items": ["null", "long"]})
    'array of null or long'
    >>> described({"type": "long", "logicalType": "timestamp-millis"})
    'long (timestamp-millis)'
    """
    if isinstance(schema, list) and len(schema) != 2:
        return f"union of {', '.join(map(described, schema))}"
    if isinstance(schema, list):
        return " or ".join(map(described, schema))
    if not isinstance(schema, Mapping) or type_name(schema) == "timestamp-micros":
        return type_name(schema)
    match schema.get("type"):
        case "array":
            return f"array of {described(schema.get('items'))}"
        case "map":
            return f"map of {described(schema.get('values'))}"
        case "record" | "enum" | "fixed" | "error" as kind:
            return f"{kind} {schema.get('name', '?')}"
        case plain:
            logical = schema.get("logicalType")
            return described(plain) + (f" ({logical})" if logical else "")


def without_column(schema: object, path: str) -> tuple[str, object] | None:
    """Return path and type of the first part of *schema*, at *path*, that no column can hold."""
    if column_type(schema) is not None:
        return None
    if type_name(schema) == "record":
        for field in fields_of(schema):
            found = without_column(field["type"], f"{path}.{field['name']}")
            if found is not None:
                return found
    return path, schema


def column_type(schema: object) -> pl.DataType | None:
    """Return the type of column for values of *schema*, or None if there is none.

    Every column may hold nulls, so a nullable type has the column type of the type itself.
    """
    nullable, plain = optional(schema)
    name = type_name(plain)
    if name == "array":
        item = item_of(plain)
        if type_name(item) == "record":
            record = column_type(item)
            return None if record is None or _holds_records(item) else pl.List(record)
        return pl.List(_COLUMNS[str(item)]) if item in ("string", "double") else None
    if name == "record":
        if nullable:
            return None
        fields = {str(field["name"]): column_type(field["type"]) for field in fields_of(plain)}
        return pl.Struct(cast(dict[str, pl.DataType], fields)) if all(fields.values()) else None
    return _COLUMNS.get(name)


def _holds_records(schema: object) -> bool:
    """Return whether a list of records is somewhere in the record *schema*."""
    kinds = [optional(field["type"])[1] for field in fields_of(schema)]
    return any(
        (type_name(kind) == "array" and type_name(item_of(kind)) == "record")
        or (type_name(kind) == "record" and _holds_records(kind))
        for kind in kinds
    )
