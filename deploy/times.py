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
