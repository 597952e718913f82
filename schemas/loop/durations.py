"""Durations as people write them: ``90s``, ``8h``, ``7d``. Exact to the microsecond, both ways."""

import re
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

MICROS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
LONGEST = timedelta(days=3_660)  # ten years; a longer one is a typing error, and overflows dates
OLDEST = timedelta(days=365_250)  # a thousand years; an age is compared and never subtracted
_PATTERN = r"^\s*(\d{1,18}(\.\d{1,9})?)\s*(ms|s|m|h|d)\s*$"


def parse_duration(value: object, longest: timedelta = LONGEST) -> timedelta:
    """Return the timedelta of ``"90s"``, ``"8h"`` or ``"7d"``, or a timedelta unchanged.

    Raises:
        ValueError: it has no unit, is below zero or is longer than *longest*.
    """
    if isinstance(value, timedelta):
        duration = value
    else:
        match = re.match(_PATTERN, value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{value!r} is not a duration")
        micros = Decimal(match[1]) * MICROS[match[3]]
        if micros > longest / timedelta(microseconds=1):
            raise ValueError(f"{value!r} is longer than {format_duration(longest)}")
        duration = timedelta(microseconds=round(micros))
    if not timedelta(0) <= duration <= longest:
        raise ValueError(f"{duration} is not between zero and {format_duration(longest)}")
    return duration


def format_duration(value: timedelta) -> str:
    """Return the shortest text that `parse_duration` turns back into *value*.

    >>> format_duration(timedelta(minutes=90))
    '90m'
    """
    micros = value // timedelta(microseconds=1)
    for unit in ("d", "h", "m"):
        if micros and micros % MICROS[unit] == 0:
            return f"{micros // MICROS[unit]}{unit}"
    if micros % MICROS["s"] == 0:
        return f"{micros // MICROS['s']}s"
    millis = f"{micros // 1_000}.{micros % 1_000:03d}".rstrip("0").rstrip(".")
    return f"{millis}ms"


def told_duration(value: timedelta) -> str:
    """Return *value* in units for people, to the millisecond.

    >>> told_duration(timedelta(minutes=481))
    '8h1m'
    >>> told_duration(timedelta(days=2, milliseconds=1500))
    '2d1.5s'
    """
    minutes, rest = divmod(value, timedelta(minutes=1))
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    seconds = f"{rest.total_seconds():.3f}".rstrip("0").rstrip(".")
    parts = [(str(days), "d"), (str(hours), "h"), (str(minutes), "m"), (seconds, "s")]
    return "".join(f"{number}{unit}" for number, unit in parts if number != "0") or "0s"


_AS_TEXT = (
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": _PATTERN,
            "description": "A number and its unit: ms, s, m, h or d, for example 90s or 8h.",
        }
    ),
)
Duration = Annotated[timedelta, BeforeValidator(parse_duration), *_AS_TEXT]
Age = Annotated[timedelta, BeforeValidator(partial(parse_duration, longest=OLDEST)), *_AS_TEXT]
