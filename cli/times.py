"""Times as they are typed on a command line."""

from datetime import datetime

from tidemill.errors import RequestError


def time_of(option: str, text: str) -> datetime:
    """Return the time that *text* names.

    Raises:
        RequestError: it names none, or none in particular for want of a time zone.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(
            f"{option} {text} is no time", hint="write it as 2026-01-01T00:00:00Z"
        ) from None
    if time.tzinfo is None:
        raise RequestError(f"{option} {text} could be anywhere", hint=f"say where: {text}Z for UTC")
    return time


def event_span(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Return the times of --from and --to, None where one is not given.

    Raises:
        RequestError: one of them names no time, or the second is not after the first.
    """
    first = None if since is None else time_of("--from", since)
    behind = None if until is None else time_of("--to", until)
    if first is not None and behind is not None and first >= behind:
        raise RequestError(f"--from {since} is not before --to {until}", hint="swap them")
    return first, behind
