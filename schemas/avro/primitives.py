"""Write one value as Avro does: the small functions that compiled encoders call.

Each takes a value as a service may send it and returns bytes, or raises a `TypeError` or
`ValueError` whose text continues the name of the field ("is not a number").
"""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
EARLIEST = (datetime(1, 1, 1, tzinfo=UTC) - EPOCH) // MICROSECOND
"""The first microsecond a timestamp may hold, since 1970: the year 1."""
LATEST = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - EPOCH) // MICROSECOND
"""The last microsecond a timestamp may hold, since 1970: the end of the year 9999."""

_double = struct.Struct("<d").pack


_PAIRS = [bytes((low & 0x7F | 0x80, low >> 7 | 0x80)) for low in range(2**14)]
"""Fourteen bits of a number as two bytes of a varint that continues."""
_EVEN_PAIRS = _PAIRS[::2]
"""The same for thirteen bits that zigzag has shifted by one."""


def varint(number: int) -> bytes:
    """Return *number*, of 64 bits, as Avro writes an int or long: zigzag, then 7 bits per byte.

    >>> varint(-1).hex(), varint(64).hex()
    ('01', '8001')
    """
    return _unsigned((number << 1) ^ (number >> 63))


def _unsigned(rest: int) -> bytes:
    if rest < 0x80:
        return bytes((rest,))
    if rest < 0x4000:
        return bytes((rest & 0x7F | 0x80, rest >> 7))
    return _PAIRS[rest & 0x3FFF] + _unsigned(rest >> 14)


LENGTHS = [varint(length) for length in range(4_096)]
"""The bytes of small numbers; lengths are among them."""
LONGS: dict[int, bytes] = {}
"""Cache: the bytes of numbers that were written before."""
INTS: dict[int, bytes] = {}
"""The same for numbers of 32 bits."""
TEXTS: dict[str, bytes] = {}
"""The same for short texts."""
_TAILS: dict[int, bytes] = {}
_HIGHS: dict[int, bytes] = {}
REMEMBERED = 8_192
"""How many numbers, and how many texts, each cache holds; most values repeat."""


def write_long(value: object) -> bytes:
    """Write an integer of 64 bits; a bool is not one."""
    number = _whole(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError("is beyond 64 bits")
    body = varint(number)
    if len(LONGS) < REMEMBERED:
        LONGS[number] = body
    return body


def write_int(value: object) -> bytes:
    """Write an integer of 32 bits; a bool is not one."""
    number = _whole(value)
    if not -(2**31) <= number < 2**31:
        raise ValueError("is beyond 32 bits")
    body = varint(number)
    if len(INTS) < REMEMBERED:
        INTS[number] = body
    return body


def _whole(value: object) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError("is not a whole number")
    return cast(int, value).__index__()


def write_timestamp(value: object) -> bytes:
    """Write a time: an aware datetime, ISO 8601 text with its zone, or microseconds since 1970."""
    micros = value if value.__class__ is int else _microseconds(value)
    tail = _TAILS.get(micros >> 13)  # changes every 8 ms
    if tail is None:
        tail = _HIGHS.get(micros >> 27)  # changes every 134 seconds
        if tail is None:
            return _seldom_timestamp(micros)
        if len(_TAILS) >= REMEMBERED:
            _TAILS.clear()
        tail = _TAILS[micros >> 13] = _PAIRS[micros >> 13 & 0x3FFF] + tail
    return _EVEN_PAIRS[micros & 0x1FFF] + tail


def _seldom_timestamp(micros: int) -> bytes:
    """Write a time, and cache the bytes that all times of its 134 seconds share."""
    if not EARLIEST <= micros <= LATEST:
        raise ValueError("is outside the years 1 to 9999")
    high = micros >> 27
    if 0 < high < LATEST >> 27:  # whatever is cached must be in range
        if len(_HIGHS) >= REMEMBERED:
            _HIGHS.clear()
        _HIGHS[high] = _unsigned(high)
    return varint(micros)


def _microseconds(value: object) -> int:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise TypeError("is not a time")
    if value.tzinfo is None:
        raise ValueError("has no time zone")
    return (value - EPOCH) // MICROSECOND


def write_double(value: object) -> bytes:
    """Write a number as eight bytes; NaN and infinity are allowed, a bool is not."""
    if value.__class__ is not float and (
        isinstance(value, bool | str | bytes) or not hasattr(value, "__float__")
    ):
        raise TypeError("is not a number")
    return _double(cast(float, value))


def write_boolean(value: object) -> bytes:
    """Write true or false."""
    if value is True:
        return b"\x01"
    if value is False:
        return b"\x00"
    raise TypeError("is not true or false")


def write_string(value: object) -> bytes:
    """Write a text as its length in bytes, then UTF-8."""
    if not isinstance(value, str):
        raise TypeError("is not a text")
    body = value.encode()
    size = len(body)
    return (LENGTHS[size] if size < 4_096 else varint(size)) + body


def write_category(value: object) -> bytes:
    """Write a text that is likely to repeat, and cache its bytes."""
    body = write_string(value)
    if len(body) <= 64 and len(TEXTS) < REMEMBERED:
        TEXTS[cast(str, value)] = body
    return body


def write_strings(value: object) -> bytes:
    """Write a list of texts as one block."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError("is not a list of texts")
    if not value:
        return b"\x00"
    return b"".join((varint(len(value)), *map(write_category, value), b"\x00"))


def refuse_records(value: object) -> bytes:
    """Refuse what is no list of records, which the encoder of an event writes itself."""
    raise TypeError("is not a list of objects")


def write_doubles(value: object) -> bytes:
    """Write a list of numbers as one block."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError("is not a list of numbers")
    if not value:
        return b"\x00"
    return b"".join((varint(len(value)), *map(write_double, value), b"\x00"))
