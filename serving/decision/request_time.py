"""The time that a request brings: a streams worker must take it, or somebody is told here."""

import time
from datetime import UTC, datetime, timedelta

import msgspec

from tidemill.errors import RequestError
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.decision.values import NOT_CONVERTED, At

SKEW_SHARE = 0.9
"""Up to this share of `max_skew` a time may be ahead: the rest is for the clock of the broker, by
which a streams worker judges."""
FIRST_YEAR = 1_000
"""Times of earlier years are refused: the lake's statistics of them would not sort."""


def checked_at(at: datetime | str, loop: Loop) -> datetime:
    """Return *at* as a time that a streams worker of *loop* takes.

    Raises:
        RequestError: it is no time with a zone, too far ahead or too old, or of a year that no lake
            holds.
    """
    moment, max_skew = _moment(at), loop.max_skew
    ahead = timedelta(seconds=(moment - _EPOCH).total_seconds() - time.time())
    if ahead > max_skew * SKEW_SHARE:
        raise RequestError(
            f"at {moment.isoformat()} is {_span(ahead)} ahead of this worker's clock, over "
            f"{SKEW_SHARE:.0%} of the loop's max_skew of {_span(max_skew)}",
            hint="check the clock of the service; leave `at` out to have the worker's time",
        )
    if moment.year < FIRST_YEAR:
        raise RequestError(
            f"at {moment.isoformat()} is before the year {FIRST_YEAR}",
            hint="send the time of the event; leave `at` out to have the worker's time",
        )
    if -ahead > loop.max_age * SKEW_SHARE:
        raise RequestError(
            f"at {moment.isoformat()} is {_span(-ahead)} old, over {SKEW_SHARE:.0%} of the loop's "
            f"max_age of {_span(loop.max_age)}",
            hint="is it in seconds or milliseconds? a loop that replays old events sets max_age",
        )
    return moment


def _moment(at: object) -> datetime:
    if isinstance(at, datetime) and at.tzinfo is not None:
        return at
    try:
        return msgspec.convert(at, At)
    except NOT_CONVERTED as error:
        raise RequestError(
            f"field 'at' is {at!r:.100}, no time with a zone",
            hint="send datetime.now(UTC), in JSON as 2026-01-02T03:04:05Z, or leave it out",
        ) from error


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _span(span: timedelta) -> str:
    return f"{span.total_seconds():.0f} s" if span < timedelta(days=2) else f"{span.days} days"
