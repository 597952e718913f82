r"""How one log line is written: for people, or as one JSON object.

A line says when, with its date and zone, how bad it is, where it comes from, and what happened. The
values given with ``extra=`` follow as fields: `loop`, `partition`, `reason` and so on. What a
terminal would act on is written as its escape, so no value that a service sent can act on it.
"""

import json
import logging
from datetime import UTC, datetime

from tidemill.cli.terminal import harmless_lines, json_value
from tidemill.log_fields import current_log_fields

_STANDARD = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """Writes `TIME LEVEL LOGGER: MESSAGE (name=value, ...)`, and the traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of *record*."""
        head = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}"
        told = ", ".join(f"{name}={value}" for name, value in fields(record).items())
        lines = [f"{head} ({told})" if told else head, *_traceback(self, record)]
        return harmless_lines("\n".join(lines))


class JsonFormatter(logging.Formatter):
    """Writes one JSON object in one line: at, level, logger, message, each field, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of *record*."""
        document: dict[str, object] = {
            "at": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        document |= {name: value for name, value in fields(record).items() if name not in document}
        if lines := _traceback(self, record):
            document["traceback"] = "\n".join(lines)
        return json.dumps(document, default=json_value)


def fields(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields of the work under way, then those that the call gave with ``extra=``.

    Of other libraries only the first: their extra values are for their own formatters.
    """
    found = dict(current_log_fields())
    if record.name.startswith("tidemill"):
        found |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
    return found


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    found = [formatter.formatException(record.exc_info)] if record.exc_info else []
    return [*found, formatter.formatStack(record.stack_info)] if record.stack_info else found
