"""Times as they are typed on a command line."""

from datetime import UTC, datetime

from tidemill.errors import RequestError


def time_of(option: str, text: str) -> datetime:
    """Return the time *text* of an option.

    Raises:
        RequestError: it is no time, or it has no time zone.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(
            f"{option} {text} is no time", hint="write it as 2026-01-01T00:00:00Z"
        ) from None
    if time.tzinfo is None:
        raise RequestError(
            f"{option} {text} has no time zone", hint=f"add one, say {text}Z for UTC"
        )
    return time


def event_span(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Return the times of --from and --to, None for one that is not given.

    Raises:
        RequestError: one of them is no time, or the second is not after the first.
    """
    first = None if since is None else time_of("--from", since)
    end = None if until is None else time_of("--to", until)
    if first is not None and end is not None and first >= end:
        raise RequestError(f"--from {since} is not before --to {until}", hint="swap them")
    return first, end


def time_since(text: str) -> datetime:
    """Return the time of --since: a duration before now, or a time, in UTC if it has no zone.

    Raises:
        RequestError: it is neither.
    """
    from tidemill.schemas.loop.durations import parse_duration

    try:
        return datetime.now(UTC) - parse_duration(text)
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(
            f"--since {text} is no time", hint="write it as 2h, 7d or 2026-01-01T00:00:00Z"
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
