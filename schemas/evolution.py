"""What a schema may be, what its successor may change, and how older columns become newer ones.

Two promises follow from it: every event that was ever published stays readable, and no schema can
make a reader run away. It knows no store, no payload and no loop.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import fastavro
import polars as pl
from fastavro.schema import SchemaParseException, UnknownType

from tidemill.errors import ContractError
from tidemill.schemas.wire import Schema, canonical_json

MAX_SCHEMA_BYTES = 256 * 1024
MAX_DEPTH = 16
"""How deep types may be nested; a reader recurses as deep."""
MAX_FIELDS = 4_096

_PROMOTIONS: Mapping[str, Sequence[str]] = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
}
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


def check_schema(schema: Schema) -> None:
    """Return if *schema* is a record that can be read within limits.

    Raises:
        ContractError: it is no Avro record, names itself, has items of no size, or is too large.
    """
    if refusal := why_unreadable(schema):
        raise ContractError(
            f"schema {schema.get('name', '?')!r} {refusal[1]}",
            hint="make the event a plain record of values and lists of values",
        )


def why_unreadable(schema: Schema) -> tuple[str, str] | None:
    """Return why *schema* must not be used to read payloads: a reason word and a text; or None."""
    if not isinstance(schema, Mapping) or schema.get("type") != "record":
        return "malformed-schema", "is not a record"
    if len(canonical_json(schema)) > MAX_SCHEMA_BYTES:
        return "malformed-schema", f"is larger than {MAX_SCHEMA_BYTES} bytes"
    try:
        _Survey().visit(schema, "", 0)
        fastavro.parse_schema(dict(schema), _write_hint=False)
    except _RefusedError as refused:
        return refused.reason, str(refused)
    except (SchemaParseException, UnknownType, KeyError, TypeError, ValueError) as error:
        return "malformed-schema", f"is not valid Avro: {error!r}"
    return None


class _RefusedError(Exception):
    def __init__(self, text: str, *, reason: str = "malformed-schema") -> None:
        super().__init__(text)
        self.reason = reason


class _Survey:
    """Walks through a schema once; `visit` returns the least bytes a value of it takes."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.open: set[str] = set()
        self.fields = 0

    def visit(self, schema: object, namespace: str, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise _RefusedError(f"is nested deeper than {MAX_DEPTH}")
        if isinstance(schema, list):
            sizes = [self.visit(branch, namespace, depth + 1) for branch in schema]
            if not sizes:
                raise _RefusedError("has a union without branches")
            return 1 + min(sizes)
        if isinstance(schema, str):
            return self._named(schema, namespace)
        if not isinstance(schema, Mapping):
            raise _RefusedError(f"has {schema!r} for a type")
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
                    raise _RefusedError(f"has a fixed of size {size!r}")
                self.names[_full_name(schema, namespace)] = size
                return size
            case "enum":
                self.names[_full_name(schema, namespace)] = 1
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
            raise _RefusedError(f"names itself in {name!r}", reason="recursive-schema")
        if full not in self.names:
            raise _RefusedError(f"has an unknown type {name!r}")
        return self.names[full]

    def _record(self, schema: Mapping[str, object], namespace: str, depth: int) -> int:
        full = _full_name(schema, namespace)
        inner = full.rpartition(".")[0]
        fields = schema.get("fields")
        if full in self.open or not isinstance(fields, list):
            raise _RefusedError(f"has a broken record {full!r}", reason="recursive-schema")
        self.open.add(full)
        self.fields += len(fields)
        if self.fields > MAX_FIELDS:
            raise _RefusedError(f"has more than {MAX_FIELDS} fields")
        size = 0
        for field in fields:
            if not isinstance(field, Mapping) or field.get("type") == "null":
                raise _RefusedError(f"has a field that holds nothing: {field!r}")
            size += self.visit(field.get("type"), inner, depth + 1)
        self.open.discard(full)
        self.names[full] = size
        return size

    def _item(self, schema: object, namespace: str, depth: int) -> None:
        if self.visit(schema, namespace, depth + 1) == 0:
            raise _RefusedError("has items of no size: a few bytes could hold billions of them")


_LEAST_BYTES: Mapping[str, int] = {
    "boolean": 1,
    "int": 1,
    "long": 1,
    "float": 4,
    "double": 8,
    "bytes": 1,
    "string": 1,
}


def _full_name(schema: Mapping[str, object], namespace: str) -> str:
    name = schema.get("name")
    if not isinstance(name, str):
        raise _RefusedError("has a type without a name")
    namespace = str(schema.get("namespace", namespace))
    return name if "." in name or not namespace else f"{namespace}.{name}"


def check_successor(subject: str, older: Iterable[Schema], new: Schema) -> None:
    """Return if events of every schema in *older* can be read as *new*.

    Raises:
        ContractError: some could not; the first is named.
    """
    for old in older:
        check_compatible(old, new, subject=subject)


def check_compatible(old: Schema, new: Schema, *, subject: str = "") -> None:
    """Return if events written with *old* can be read as *new*: Avro's BACKWARD compatibility.

    A field may go; a new one needs a default or must be nullable; a type may become wider (int,
    long, float, double) or nullable, and nothing else.

    Raises:
        ContractError: a change breaks that.
    """
    label = subject or str(new.get("name"))
    if full_name(old) != full_name(new):
        raise ContractError(
            f"{label}: {full_name(old)} cannot become {full_name(new)}",
            hint="register another record under a subject of its own",
        )
    _check_record(old, new, f"{label}: ")


def full_name(schema: Schema) -> str:
    """Return the name of a record schema with its namespace."""
    return _full_name(schema, "")


def _check_record(old: Schema, new: Schema, path: str) -> None:
    had = {cast(str, field["name"]): field for field in fields_of(old)}
    for field in fields_of(new):
        name = cast(str, field["name"])
        before = _match(field, had)
        if before is None:
            if "default" not in field:
                raise ContractError(
                    f"{path}{name} is new and has no default, so events without it are unreadable",
                    hint=f"give {name} a default, or say nullable: true",
                )
        else:
            _check_type(before["type"], field["type"], path + name)


def _check_type(old: object, new: object, path: str) -> None:
    if isinstance(old, list) or isinstance(new, list):
        nullable = optional(old)[0] and not optional(new)[0]
        if nullable:
            raise ContractError(
                f"{path} was nullable and no longer is, so older events may not fit",
                hint=f"leave it nullable, or name a new field beside {path.rpartition(' ')[2]}",
            )
    was, now = optional(old)[1], optional(new)[1]
    if type_name(was) == type_name(now) == "record":
        _check_record(cast(Schema, was), cast(Schema, now), path + ".")
    elif not _widens(was, now):
        raise ContractError(
            f"{path} was {type_name(was)} and would become {type_name(now)}",
            hint="keep the type, or add a field of another name and let this one go",
        )


def _widens(old: object, new: object) -> bool:
    was, now = type_name(old), type_name(new)
    if was == now:
        return was != "array" or _widens(item_of(old), item_of(new))
    return now in _PROMOTIONS.get(was, ())


def _match(
    field: Mapping[str, object], had: Mapping[str, Mapping[str, object]]
) -> Mapping[str, object] | None:
    """Return the writer's field that the reader's *field* takes: by name, else by alias."""
    aliases = cast(Sequence[str], field.get("aliases", ()))
    for name in (cast(str, field["name"]), *aliases):
        if name in had:
            return had[name]
    return None


def fields_of(schema: object) -> Sequence[Mapping[str, object]]:
    """Return the fields of a record schema."""
    return cast(Sequence[Mapping[str, object]], cast(Schema, schema)["fields"])


def item_of(schema: object) -> object:
    """Return the item type of an array schema."""
    return cast(Schema, schema)["items"]


def optional(schema: object) -> tuple[bool, object]:
    """Return whether *schema* is a union of null and one type, and that type."""
    if isinstance(schema, list) and len(schema) == 2 and "null" in schema:
        return True, schema[1] if schema[0] == "null" else schema[0]
    return False, schema


def type_name(schema: object) -> str:
    """Return one word for the type *schema*; a logical type that columns keep is a type too."""
    if isinstance(schema, list):
        return "union"
    if isinstance(schema, Mapping):
        logical = schema.get("logicalType")
        if logical == "timestamp-micros" and schema.get("type") == "long":
            return "timestamp-micros"
        return type_name(schema["type"])
    return str(schema)


def column_type(schema: object) -> pl.DataType | None:
    """Return the type of the column that values of *schema* become, or None if columns have none.

    Null is allowed in any column, so a nullable type is the type itself.
    """
    nullable, plain = optional(schema)
    name = type_name(plain)
    if name == "array":
        item = column_type(item_of(plain)) if item_of(plain) == "string" else None
        return pl.List(item) if item is not None else None
    if name == "record":
        if nullable:
            return None
        fields = {str(field["name"]): column_type(field["type"]) for field in fields_of(plain)}
        return pl.Struct(cast(dict[str, pl.DataType], fields)) if all(fields.values()) else None
    return _COLUMNS.get(name)


def resolve(frame: pl.DataFrame, writer: Schema, reader: Schema) -> pl.DataFrame:
    """Return *frame*, read with *writer*, with the columns of *reader* by Avro's rules.

    Fields are matched by name or alias and widened; one that *writer* lacks gets its default. Only
    inside a nested record, where columns may be null anyway, one without default is null: a later
    version of the loop has let that feature go.

    Raises:
        ContractError: a field of *writer* cannot be read as *reader* wants it.
    """
    if writer == reader:
        return frame
    had = {cast(str, field["name"]): field for field in fields_of(writer)}
    columns = [_resolve_field(field, had, None) for field in fields_of(reader)]
    return frame.select(columns)


def unsure_columns(writer: Schema, reader: Schema) -> list[str]:
    """Return the columns that *writer* may leave null although *reader* says they never are."""
    had = {cast(str, field["name"]): field for field in fields_of(writer)}
    return [
        cast(str, field["name"])
        for field in fields_of(reader)
        if (before := _match(field, had)) is not None
        and optional(before["type"])[0]
        and not optional(field["type"])[0]
    ]


def _resolve_field(
    field: Mapping[str, object],
    had: Mapping[str, Mapping[str, object]],
    parent: pl.Expr | None,
) -> pl.Expr:
    name = cast(str, field["name"])
    before = _match(field, had)
    plain = optional(field["type"])[1]
    if before is None:
        if parent is None and "default" not in field:
            raise ContractError(
                f"{name} is missing in the event and has no default",
                hint="produce events with the schemas of docs/guide/contracts.md",
            )
        dtype = column_type(plain)
        return pl.lit(_default(field), dtype=dtype).alias(name)
    old = cast(str, before["name"])
    source = pl.col(old) if parent is None else parent.struct.field(old)
    was = optional(before["type"])[1]
    if type_name(was) == type_name(plain) == "record":
        inner = {cast(str, each["name"]): each for each in fields_of(was)}
        parts = [_resolve_field(each, inner, source) for each in fields_of(plain)]
        return pl.struct(parts).alias(name) if parts else source.alias(name)
    if not _widens(was, plain):
        raise ContractError(
            f"{name} is {type_name(was)} in the event and {type_name(plain)} here",
            hint="run a version of the loop that knows this schema",
        )
    target = column_type(plain)
    if target is not None and type_name(was) != type_name(plain):
        source = source.cast(target)
    return source.alias(name)


def _default(field: Mapping[str, object]) -> object:
    default = field.get("default")
    return pl.Series([default]) if isinstance(default, list) else default
