"""Messages on the control topic: what they say, and how they are written.

They wake other processes or ask something of them, and are never a source of truth: whoever misses
one finds the same by itself, later. A request to close changes results, so it can be signed.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from tidemill.errors import RequestError
from tidemill.kafka import Record
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.schemas.record_signature import require_signature

MOST_MESSAGES = 10_000  # that a reader remembers; there are a few for each loop
_CLOSE = "close/"
_TRAINER = "trainer/"
_FLEET = "trainers/"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerBeat:
    """The trainer of *loop* was alive *at* that time.

    It had learned the commits of examples up to version *examples*. Its last model is *version*,
    and the gate's verdict on it is *reason*; empty if there is none.
    """

    loop: str
    at: datetime
    examples: int
    version: str = ""
    promoted: bool = False
    reason: str = ""

    def record(self) -> KeyValue:
        """Return key and value of its record."""
        value = asdict(self) | {"at": self.at.astimezone(UTC).isoformat()}
        return f"{_TRAINER}{value.pop('loop')}".encode(), json.dumps(value).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetBeat:
    """The trainer process *process* was alive *at* that time, and trains *loops*."""

    process: str
    at: datetime
    loops: tuple[str, ...]

    def record(self) -> KeyValue:
        """Return key and value of its record."""
        value = {"at": self.at.astimezone(UTC).isoformat(), "loops": list(self.loops)}
        return f"{_FLEET}{self.process}".encode(), json.dumps(value).encode()


ControlMessage = CloseRequest | NewExamples | TrainerBeat | FleetBeat


def parse_control(record: Record, trusted: TrustedKeys | None = None) -> ControlMessage:
    """Return the message of *record*.

    With *trusted* keys, one of them must have signed what changes a result: a request to close.

    Raises:
        ContractError: it is a request to close, and not signed.
        RequestError: it is none.
        ValueError: likewise; its key is no text, or its value no JSON, or no number.
    """
    key, value = (record.key or b"").decode(), record.value or b""
    if key.startswith(_TRAINER):
        return _beat(key.removeprefix(_TRAINER), json.loads(value))
    if key.startswith(_FLEET):
        return _fleet_beat(key.removeprefix(_FLEET), json.loads(value))
    if not key.startswith(_CLOSE):
        return NewExamples(key, int(value))
    found = json.loads(value)
    until = datetime.fromisoformat(found["until"]) if isinstance(found, dict) else None
    if until is None or until.tzinfo is None:
        raise RequestError("a request to close names no time", hint="use tidemill lake close")
    require_signature(record, trusted, "a request to close")
    return CloseRequest(key.removeprefix(_CLOSE), until)


def _beat(loop: str, found: object) -> TrainerBeat:
    match found:
        case {
            "at": str(at),
            "examples": int(examples),
            "version": str(version),
            "promoted": bool(promoted),
            "reason": str(reason),
        }:
            when = datetime.fromisoformat(at)
            if when.tzinfo is not None:
                return TrainerBeat(
                    loop=loop,
                    at=when,
                    examples=examples,
                    version=version,
                    promoted=promoted,
                    reason=reason,
                )
    raise RequestError("no heartbeat of a trainer", hint="look at who can write to this topic")


def _fleet_beat(process: str, found: object) -> FleetBeat:
    match found:
        case {"at": str(at), "loops": [*loops]} if all(isinstance(each, str) for each in loops):
            when = datetime.fromisoformat(at)
            if when.tzinfo is not None:
                return FleetBeat(process=process, at=when, loops=tuple(loops))
    raise RequestError("no heartbeat of a trainer", hint="look at who can write to this topic")
