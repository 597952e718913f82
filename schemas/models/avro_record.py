"""Models that are one Avro record: each value is written in one way, and only that is read.

The schema of a record is the file ``NAME.avsc`` beside this one.
"""

import io
import json
import struct
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import fastavro

UNREADABLE = (ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error)
"""What reading a record may raise, and what its values may raise when they are made of it."""


def encode_record(name: str, value: Mapping[str, object]) -> bytes:
    """Return *value* by the schema *name*."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, _schema(name), value)
    return out.getvalue()


def decode_record(name: str, data: bytes, *, most_bytes: int) -> dict[str, Any]:
    """Return the record in *data*; refuse bytes that do not encode to themselves again.

    Raises:
        one of `UNREADABLE`: it is no such record, or has more than *most_bytes*.
    """
    if len(data) > most_bytes:
        raise ValueError(f"{len(data)} bytes are over {most_bytes}")
    value = fastavro.schemaless_reader(io.BytesIO(data), _schema(name), None)
    if not isinstance(value, dict):
        raise ValueError("not a record")
    if encode_record(name, value) != data:
        raise ValueError("it is not in canonical Avro")
    return value


@cache
def _schema(name: str) -> Any:  # noqa: ANN401  # fastavro's own parsed form
    text = files("tidemill.schemas.models").joinpath(f"{name}.avsc").read_text()
    return fastavro.parse_schema(json.loads(text), named_schemas={})
