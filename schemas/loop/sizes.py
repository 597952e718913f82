"""Sizes as people write them: ``512MB``, ``2GB``. Decimal units, whole bytes, both ways."""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

BYTES = {"kB": 10**3, "MB": 10**6, "GB": 10**9}
LARGEST = 10**15
_PATTERN = r"^\s*(\d{1,15}(\.\d{1,9})?)\s*(kB|MB|GB)\s*$"


def parse_size(value: object) -> int:
    """Return the bytes of ``"512MB"``, or a whole number unchanged.

    Raises:
        ValueError: it has no unit, or is not between one byte and a petabyte.

    >>> parse_size("1.5 GB")
    1500000000
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = re.match(_PATTERN, value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{value!r} is not a size")
        size = round(Decimal(match[1]) * BYTES[match[3]])
    if not 1 <= size <= LARGEST:
        raise ValueError(f"{value!r} is not between one byte and {format_size(LARGEST)}")
    return size


def format_size(value: int) -> str:
    """Return the shortest text that `parse_size` turns back into *value*.

    >>> format_size(512_000_000)
    '512MB'
    """
    for unit, size in reversed(BYTES.items()):
        if value >= size and value % size == 0:
            return f"{value // size}{unit}"
    thousands = f"{value // 1000}.{value % 1000:03d}".rstrip("0").rstrip(".")
    return f"{thousands}kB"


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": _PATTERN,
            "description": "A number and its unit: kB, MB or GB, for example 512MB.",
        }
    ),
]
