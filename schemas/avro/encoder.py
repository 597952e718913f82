"""Compile an Avro record schema into a function that encodes a mapping, or its values.

fastavro takes about 20 us for a decision of 16 features, more than a whole decision may take. A
function generated once per schema takes two to three, and a third of a microsecond if the values
are already checked and in the order of the schema. It supports the types that loops have
(`events/schemas.py`); an error names the field that does not fit. `primitives.py` writes single
values.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import cast

from tidemill.errors import RequestError
from tidemill.schemas.avro import primitives
from tidemill.schemas.avro.wire import Schema
from tidemill.schemas.code import compiled

Encode = Callable[[Mapping[str, object]], bytes]
EncodeValues = Callable[[tuple[object, ...]], bytes]

_WRITERS: Mapping[str, Callable[[object], bytes]] = {
    "double": primitives.write_double,
    "long": primitives.write_long,
    "int": primitives.write_int,
    "boolean": primitives.write_boolean,
    "string": primitives.write_string,
    "category": primitives.write_category,
    "strings": primitives.write_strings,
    "doubles": primitives.write_doubles,
    "records": primitives.refuse_records,
    "timestamp": primitives.write_timestamp,
}
_INLINE: Mapping[str, str] = {  # tried before the writer is called: a call costs 60 ns
    "long": "(longs.get({0}) or write_long({0})) if {0}.__class__ is int else write_long({0})",
    "int": "(ints.get({0}) or write_int({0})) if {0}.__class__ is int else write_int({0})",
    "category": "texts.get({0}) or write_category({0})",
    "boolean": "yes if {0} is True else no if {0} is False else write_boolean({0})",
    "double": "pack({0}) if {0}.__class__ is float else write_double({0})",
}
_INLINE_CHECKED: Mapping[str, str] = {  # where somebody else has looked at the types already
    "long": "longs.get({0}) or write_long({0})",
    "category": "texts.get({0}) or write_category({0})",
    "boolean": "yes if {0} else no",
    "double": "pack({0})",
}
_WRONG = (KeyError, TypeError, ValueError, AttributeError, struct.error)
"""The exceptions that generated code raises for a value that does not fit."""
_SOME_DOUBLE = "pack_some(2, {0}) if {0}.__class__ is float else "
_UNIQUE = frozenset({"id", "decision_id", "entity"})
"""Fields whose texts hardly ever repeat, so that caching their bytes is of no use."""


class _Field:
    """One field of a record, as the generated code uses it."""

    def __init__(self, field: Mapping[str, object], index: str) -> None:
        self.name = cast(str, field["name"])
        self.variable = f"x{index}"
        self.index = index
        kind = field["type"]
        self.nullable = isinstance(kind, list)
        if isinstance(kind, list):
            if len(kind) != 2 or kind[0] != "null":
                raise ValueError(f"field {self.name!r}: only unions of null and a type: {kind}")
            kind = kind[1]
        self.record = kind if isinstance(kind, Mapping) and kind["type"] == "record" else None
        self.item = _item(kind)
        self.kind = "record" if self.record else "records" if self.item else _kind(kind, self.name)
        self.optional = "default" in field
        self.default = field.get("default")

    def read(self, source: str) -> str:
        """Return the code that reads this field from the mapping *source*."""
        if not self.optional:
            return f"{source}[{self.name!r}]"
        fallback = "" if self.default is None else f", {self.default!r}"
        return f"{source}.get({self.name!r}{fallback})"

    def write(self, checked: bool) -> str:
        """Return the expression for the bytes of this field."""
        inline = _INLINE_CHECKED if checked else _INLINE
        writer = f"write{self.index}" if self.item else f"write_{self.kind}"
        plain = inline.get(self.kind, f"{writer}({{0}})").format(self.variable)
        if not self.nullable:
            return plain
        fast = _SOME_DOUBLE.format(self.variable) if self.kind == "double" else ""
        return f"{fast}no if {self.variable} is None else some + ({plain})"


def _item(kind: object) -> Schema | None:
    """Return the schema of the records in a list of the type *kind*, if it is one."""
    item = kind.get("items") if isinstance(kind, Mapping) else None
    return item if isinstance(item, Mapping) and item["type"] == "record" else None


def _kind(schema: object, name: str) -> str:
    if isinstance(schema, Mapping):
        if schema.get("logicalType") == "timestamp-micros":
            return "timestamp"
        if schema["type"] == "array" and schema["items"] in ("string", "double"):
            return f"{schema['items']}s"
    elif schema == "string":
        return "string" if name in _UNIQUE else "category"
    elif isinstance(schema, str) and schema in _WRITERS:
        return schema
    raise ValueError(f"field {name!r}: no encoder for {schema!r}")


def _fields(schema: Schema, index: str = "") -> list[_Field]:
    listed = cast(Sequence[Mapping[str, object]], schema["fields"])
    return [_Field(field, f"{index}_{i}") for i, field in enumerate(listed)]


class _Code:
    """Source text of one encoder and the names it needs."""

    def __init__(self, schema: Schema, *, checked: bool, index: str = "") -> None:
        self._checked = checked
        self.names: dict[str, object] = {
            **{writer.__name__: writer for writer in _WRITERS.values()},
            "longs": primitives.LONGS,
            "ints": primitives.INTS,
            "texts": primitives.TEXTS,
            "no": b"\x00",
            "yes": b"\x01",
            "some": b"\x02",
            "join": b"".join,
            "pack": struct.Struct("<d").pack,
            "pack_some": struct.Struct("<Bd").pack,
        }
        self.lines: list[str] = []
        if checked:
            values = ", ".join(field.variable for field in _fields(schema))
            self.lines.append(f"{values}, = record")
        pieces = list(self._record(schema, "record", index))
        body = "\n        ".join([*self.lines, f"return join((prefix, {', '.join(pieces)},))"])
        self.text = (
            f"def encode(record):\n    try:\n        {body}\n"
            "    except wrong:\n        explain(record)\n        raise\n"
        )

    def _record(self, schema: Schema, source: str, index: str) -> Iterator[str]:
        fields = _fields(schema, index)
        if index:
            self.names[f"known{index}"] = frozenset(field.name for field in fields)
            self.lines.append(f"if not known{index}.issuperset({source}): raise KeyError")
        if not self._checked:
            self.lines += [f"{field.variable} = {field.read(source)}" for field in fields]
        for is_double, run in groupby(fields, key=lambda field: field.kind == "double"):
            if is_double:
                yield self._doubles(list(run))
            else:
                for field in run:
                    if field.item is not None:
                        self.names[f"write{field.index}"] = _records_writer(field.item)
                    if field.record is None:
                        yield field.write(self._checked)
                    else:
                        yield from self._record(field.record, field.variable, field.index)

    def _doubles(self, run: Sequence[_Field]) -> str:
        """Pack adjacent fields in one call if all values are floats, as they usually are."""
        form = "<" + "".join("Bd" if field.nullable else "d" for field in run)
        pack = f"pack{run[0].index}"
        self.names[pack] = struct.Struct(form).pack
        values = ", ".join(("2, " if field.nullable else "") + field.variable for field in run)
        if self._checked and not any(field.nullable for field in run):
            return f"{pack}({values})"
        floats = " is ".join(f"{field.variable}.__class__" for field in run)
        singly = " + ".join(f"({field.write(self._checked)})" for field in run)
        return f"{pack}({values}) if {floats} is float else {singly}"


def compile_encoder(schema: Schema, prefix: bytes = b"") -> Encode:
    """Return the function that encodes a mapping as *prefix* and an event of *schema*.

    A field that is missing gets the schema's default. The function raises `RequestError` for a
    field that is unknown, missing or of a wrong type.

    Args:
        schema: of a record.
        prefix: the bytes before every event.

    Raises:
        ValueError: *schema* has a type that loops do not have.
    """
    encode = _compiled(_Code(schema, checked=False), schema, prefix, partial(_explain, schema))
    return cast(Encode, encode)


def compile_values_encoder(schema: Schema) -> EncodeValues:
    """Return the function that encodes the values of a record, given all of them in its order.

    The caller has checked their types. What the function still raises `RequestError` for is a text
    that is not valid Unicode.

    Args:
        schema: of a record without records in it.

    Raises:
        ValueError: *schema* has a type that loops do not have, a record in it, or no field.
    """
    names = [field.name for field in _fields(schema)]
    if not names or any(field.record for field in _fields(schema)):
        raise ValueError(f"{schema['name']} is no record of plain values")

    def explain(values: tuple[object, ...]) -> None:
        _explain(schema, dict(zip(names, values, strict=True)))

    return cast(EncodeValues, _compiled(_Code(schema, checked=True), schema, b"", explain))


def _records_writer(item: Schema) -> Callable[[Sequence[Mapping[str, object]]], bytes]:
    """Return the function that writes a list of records of *item* as one block."""
    code = _Code(item, checked=False, index="_item")
    encode = _compiled(code, item, b"", lambda record: None)  # the event's encoder explains

    def write(records: Sequence[Mapping[str, object]]) -> bytes:
        body = b"".join(map(encode, records))
        return primitives.varint(len(records)) + body + b"\x00" if records else b"\x00"

    return write


def _compiled(
    code: _Code, schema: Schema, prefix: bytes, explain: Callable[..., None]
) -> Callable[..., bytes]:
    code.names |= {"prefix": prefix, "wrong": _WRONG, "explain": explain}
    exec(compiled(code.text, f"<encoder of {schema['name']}>"), code.names)
    return cast(Callable[..., bytes], code.names["encode"])


def _explain(schema: Schema, record: object, path: str = "") -> None:
    """Raise `RequestError` for the first field of *record* that does not fit *schema*."""
    if not isinstance(record, Mapping):
        raise RequestError(
            f"{path.rstrip('.') or schema['name']} is {_show(record)}, not an object",
            hint="send a JSON object of names and values",
        )
    fields = _fields(schema)
    known = [field.name for field in fields]
    for name in record:
        if name not in known and path:
            raise RequestError(
                f"{path}{name} is not known", hint=f"the loop has {', '.join(known) or 'none'}"
            )
    for field in fields:
        _explain_field(field, record, path)


def _explain_field(field: _Field, record: Mapping[str, object], path: str) -> None:
    where = path + field.name
    if field.name not in record:
        if field.optional:
            return
        raise RequestError(
            f"{where} is missing", hint="send it, or give it a default in the loop file"
        )
    value = record[field.name]
    if field.record is not None:
        _explain(field.record, value, where + ".")
    elif field.item is not None and isinstance(value, Sequence) and not isinstance(value, str):
        for number, each in enumerate(value):
            _explain(field.item, each, f"{where}[{number}].")
    elif value is not None or not field.nullable:
        try:
            _WRITERS[field.kind](value)
        except (TypeError, ValueError) as error:
            raise RequestError(
                f"{where} is {_show(value)}, which {_reason(error)}",
                hint=_HINTS.get(field.kind, "send a text")
                + ("" if field.nullable else "; null is allowed if the loop file says nullable"),
            ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "is not valid Unicode"
    text = str(error)
    return text if text.startswith(("is ", "has ")) else f"does not fit: {text}"


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_HINTS: Mapping[str, str] = {
    "double": "send a number",
    "long": "send a whole number of 64 bits",
    "int": "send a whole number of 32 bits",
    "boolean": "send true or false",
    "strings": "send a list of texts",
    "doubles": "send a list of numbers",
    "records": "send a list of objects",
    "timestamp": 'send a time with its zone, say "2013-01-01T00:00:00Z"',
}
