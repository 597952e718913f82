"""Units of the streams package: columns of numbers, and times in whole microseconds.

Event times are int64 microseconds since 1970-01-01T00:00Z in every column and every comparison.
`datetime` and `timedelta` appear only where a person or the lake reads them.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
"""One column of whole numbers, shape (n,)."""

Bools = npt.NDArray[np.bool_]
"""One column of flags, shape (n,)."""

NEVER = -(2**62)
"""The stream time of a log before its first record, in microseconds: earlier than any event."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(value: datetime | timedelta) -> int:
    """Return a time since the epoch, or a length of time, in whole microseconds.

    >>> micros(timedelta(seconds=2))
    2000000
    """
    length = value if isinstance(value, timedelta) else value - _EPOCH
    return length // _MICROSECOND


def moment(at: int) -> datetime:
    """Return the UTC time *at* microseconds after the epoch.

    >>> moment(2_000_000)
    datetime.datetime(1970, 1, 1, 0, 0, 2, tzinfo=datetime.timezone.utc)
    """
    return _EPOCH + timedelta(microseconds=at)


FIRST_MOMENT = micros(_FIRST)
"""The beginning of year 1, in microseconds: what a service sends that never set its clock."""

LAST_MOMENT = micros(_LAST)
"""The end of the year 9999, in microseconds: later times are beyond every calendar here."""


def within_calendar(at: int) -> datetime:
    """Return the UTC time *at* microseconds after the epoch, clipped to the years 1 to 9999."""
    return moment(min(max(at, FIRST_MOMENT), LAST_MOMENT))
