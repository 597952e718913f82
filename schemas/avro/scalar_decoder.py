"""Decode one payload strictly and within limits: the fallback of `columnar_decoder.py`.

A reader is compiled from the schema once. It checks every length, index and encoding before it
reads on, so no payload can make it allocate, recurse or run beyond the payload's own size. fastavro
is the oracle of its tests; it cannot be used itself, because it has no such limits.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from tidemill.errors import PayloadError
from tidemill.schemas.avro.primitives import EARLIEST, LATEST
from tidemill.schemas.avro.types import fields_of, type_name
from tidemill.schemas.avro.wire import Schema

ReadValue = Callable[["Body"], object]
MAX_VALUES = 2**18
"""How many list items and records a payload may hold if it is read alone: each is an object."""

_float = struct.Struct("<f")
_double = struct.Struct("<d")


class Body:
    """The bytes of one payload, and the position up to which they have been read."""

    __slots__ = ("data", "end", "position", "values")

    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position
        self.end = len(data)
        self.values = 0

    def take(self, size: int) -> int:
        """Return the position of the next *size* bytes and step over them."""
        start = self.position
        if size < 0:
            raise refused("malformed", f"length {size} at byte {start}")
        if size > self.end - start:
            raise refused(
                "truncated", f"{size} bytes wanted at byte {start}, {self.end - start} left"
            )
        self.position = start + size
        return start

    def long(self) -> int:
        """Return the next zigzag varint, at most 64 bits in at most ten bytes."""
        bits = shift = 0
        while True:
            byte = self.data[self.take(1)]
            bits |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise refused("malformed", f"number of over ten bytes at byte {self.position}")
        if bits >> 64:
            raise refused("malformed", f"number beyond 64 bits at byte {self.position}")
        return (bits >> 1) ^ -(bits & 1)

    def count(self, values: int = 1) -> None:
        """Add *values* to the count of values.

        Raises:
            PayloadError: there are too many.
        """
        self.values += values
        if self.values > MAX_VALUES:
            raise refused("malformed", f"more than {MAX_VALUES} values")


def refused(reason: str, what: str) -> PayloadError:
    """Return the error for a payload that becomes a dead letter."""
    return PayloadError(what, hint="look at the producer of this payload", reason=reason)


def compile_reader(schema: Schema) -> Callable[[bytes, int], dict[str, object]]:
    """Return the function that reads a payload of *schema* from a position to its end.

    *schema* has passed `limits.check_schema`. Times are microseconds since 1970. The function
    raises `PayloadError` for a payload that is not exactly one value.
    """
    read = _compile(schema, "", {})

    def read_payload(payload: bytes, position: int) -> dict[str, object]:
        body = Body(payload, position)
        value = cast(dict[str, object], read(body))
        if body.position != body.end:
            raise refused("overlong", f"{body.end - body.position} bytes after the event")
        return value

    return read_payload


def _compile(schema: object, namespace: str, named: dict[str, ReadValue]) -> ReadValue:
    if isinstance(schema, list):
        return _union([_compile(branch, namespace, named) for branch in schema])
    if isinstance(schema, str):
        full = schema if "." in schema else f"{namespace}.{schema}"
        return _PLAIN[schema] if schema in _PLAIN else named[full]
    schema = cast(Mapping[str, object], schema)
    match schema["type"]:
        case "record" | "error" | "enum" | "fixed":
            space = str(schema.get("namespace", namespace))
            name = str(schema["name"])
            full = name if "." in name else f"{space}.{name}"
            return named.setdefault(full, _named(schema, full.rpartition(".")[0], named))
        case "array":
            return _array(_compile(schema["items"], namespace, named))
        case "map":
            return _map(_compile(schema["values"], namespace, named))
        case "long" if type_name(schema) == "timestamp-micros":
            return _timestamp
        case plain:
            return _compile(plain, namespace, named)


def _named(schema: Mapping[str, object], namespace: str, named: dict[str, ReadValue]) -> ReadValue:
    if schema["type"] == "fixed":
        return _fixed(cast(int, schema["size"]))
    if schema["type"] == "enum":
        return _enum(cast(Sequence[str], schema["symbols"]))
    fields = [
        (str(field["name"]), _compile(field["type"], namespace, named))
        for field in fields_of(schema)
    ]

    def record(body: Body) -> object:
        body.count()
        return {name: read(body) for name, read in fields}

    return record


def _union(branches: Sequence[ReadValue]) -> ReadValue:
    def union(body: Body) -> object:
        index = body.long()
        if not 0 <= index < len(branches):
            raise refused("malformed", f"union branch {index} of {len(branches)}")
        return branches[index](body)

    return union


def _blocks(body: Body) -> int:
    """Return how many items follow in the next block; 0 ends a list."""
    count = body.long()
    if count >= 0:
        return count
    size = body.long()
    if size < 0 or size > body.end - body.position:
        raise refused("malformed", f"block of {size} bytes at byte {body.position}")
    return -count


def _array(read: ReadValue) -> ReadValue:
    def array(body: Body) -> object:
        items: list[object] = []
        while count := _blocks(body):
            if count > body.end - body.position:
                raise refused("truncated", f"{count} items, {body.end - body.position} bytes left")
            body.count(count)
            items += [read(body) for _ in range(count)]
        return items

    return array


def _map(read: ReadValue) -> ReadValue:
    def mapping(body: Body) -> object:
        items: dict[str, object] = {}
        while count := _blocks(body):
            if count > body.end - body.position:
                raise refused("truncated", f"{count} items, {body.end - body.position} bytes left")
            body.count(count)
            for _ in range(count):
                key = _string(body)
                items[key] = read(body)
        return items

    return mapping


def _fixed(size: int) -> ReadValue:
    def fixed(body: Body) -> object:
        start = body.take(size)
        return body.data[start : start + size]

    return fixed


def _enum(symbols: Sequence[str]) -> ReadValue:
    def enum(body: Body) -> object:
        index = body.long()
        if not 0 <= index < len(symbols):
            raise refused("malformed", f"symbol {index} of {len(symbols)}")
        return symbols[index]

    return enum


def _null(body: Body) -> object:
    return None


def _boolean(body: Body) -> object:
    byte = body.data[body.take(1)]
    if byte > 1:
        raise refused("malformed", f"{byte} for true or false at byte {body.position - 1}")
    return byte == 1


def _int(body: Body) -> object:
    value = body.long()
    if not -(2**31) <= value < 2**31:
        raise refused("malformed", f"int {value} is beyond 32 bits")
    return value


def _timestamp(body: Body) -> object:
    value = body.long()
    if not EARLIEST <= value <= LATEST:
        unit = "; is it in nanoseconds, not in microseconds?" if value // 1_000 <= LATEST else ""
        raise refused("out-of-range", f"time {value} is outside the years 1 to 9999{unit}")
    return value


def _bytes(body: Body) -> object:
    size = body.long()
    start = body.take(size)
    return body.data[start : start + size]


def _string(body: Body) -> str:
    size = body.long()
    start = body.take(size)
    try:
        return body.data[start : start + size].decode()
    except UnicodeDecodeError as error:
        raise refused("malformed", f"text at byte {start} is not UTF-8: {error.reason}") from None


_PLAIN: Mapping[str, ReadValue] = {
    "null": _null,
    "boolean": _boolean,
    "int": _int,
    "long": Body.long,
    "float": lambda body: _float.unpack_from(body.data, body.take(4))[0],
    "double": lambda body: _double.unpack_from(body.data, body.take(8))[0],
    "bytes": _bytes,
    "string": _string,
}
