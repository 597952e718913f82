"""Messages on the control topic: what they say, and how they are written.

They wake other processes or ask something of them, and are never a source of truth: whoever misses
one finds the same by itself, later.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from tidemill.errors import RequestError
from tidemill.kafka import Record

_CLOSE = "close/"

KeyValue = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class CloseRequest:
    """All decisions of *loop* up to *until*, that one included, are to be closed."""

    loop: str
    until: datetime

    def record(self) -> KeyValue:
        """Return key and value of its record."""
        value = {"until": self.until.astimezone(UTC).isoformat()}
        return f"{_CLOSE}{self.loop}".encode(), json.dumps(value).encode()


@dataclass(frozen=True, slots=True)
class NewExamples:
    """Version *version* of the table of examples of *loop* was committed."""

    loop: str
    version: int

    def record(self) -> KeyValue:
        """Return key and value of its record."""
        return self.loop.encode(), str(self.version).encode()


def parse_control(record: Record) -> CloseRequest | NewExamples:
    """Return the message of *record*.

    Raises:
        RequestError: it is none.
        ValueError: likewise; its key is no text, or its value no JSON, or no number.
    """
    key, value = (record.key or b"").decode(), record.value or b""
    if not key.startswith(_CLOSE):
        return NewExamples(key, int(value))
    found = json.loads(value)
    until = datetime.fromisoformat(found["until"]) if isinstance(found, dict) else None
    if until is None or until.tzinfo is None:
        raise RequestError("a request to close names no time", hint="use tidemill lake close")
    return CloseRequest(key.removeprefix(_CLOSE), until)
