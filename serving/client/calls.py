"""The requests of a client over HTTP: their bodies, and their ids.

**A worker that may have got a decision's id keeps it.** Where no answer came, that worker may have
logged the decision, with an action that nobody took. So the next attempt, and the default that
answers in the end, have a new id; a decision whose id the caller gave is not asked for again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast
from urllib.parse import quote

import msgspec

from tidemill.errors import RequestError
from tidemill.serving.decision.ids import new_id
from tidemill.serving.decision.values import sendable

_encode = msgspec.json.Encoder().encode


class WorkerCall:
    """One request, which may be sent to several workers."""

    def __init__(self, method: str, path: str, body: bytes = b"") -> None:
        self.method = method
        self.path = path
        self.body = body
        self.may_repeat = True

    def lost(self) -> None:
        """Note that a worker may have acted on the request, though it did not answer."""


class DecisionCall(WorkerCall):
    """Asks for decisions under ids that only one worker gets."""

    def __init__(self, loop: str, asked: Sequence[Mapping[str, object]], *, is_batch: bool) -> None:
        self._is_batch = is_batch
        self._has_own_ids = any(item.get("id") is not None for item in asked)
        self.items: list[dict[str, object]] = [
            {
                "features": sendable(item["features"], "feature"),
                "entity": _text("entity", item.get("entity")),
                "id": new_id() if item.get("id") is None else _text("id", item["id"]),
                "at": _moment(item.get("at")),
                **_baseline(item.get("baseline")),
            }
            for item in asked
        ]
        super().__init__("POST", f"{loop_path(loop)}/decisions", self._encoded())

    def lost(self) -> None:
        """Give the decisions new ids."""
        self.items = [{**item, "id": new_id()} for item in self.items]
        self.body = self._encoded()
        self.may_repeat = not self._has_own_ids

    def _encoded(self) -> bytes:
        return _body({"batch": self.items} if self._is_batch else self.items[0])


def feedback_call(
    loop: str,
    texts: Mapping[str, object],
    values: Mapping[str, object],
    at: object,
    types: Mapping[str, str],
) -> WorkerCall:
    """Return the request that logs a feedback.

    Args:
        loop: the name of the loop.
        texts: its id, kind and decision_id.
        values: its values.
        at: its time, or None.
        types: the types of the values, as far as the client knows them.

    Raises:
        RequestError: a value cannot be sent.
    """
    body = {name: _text(name, text) for name, text in texts.items()}
    named = sendable(values)
    check_times(named, types, "value")
    sent = {**body, "values": named, "at": _moment(at)}
    return WorkerCall("POST", f"{loop_path(loop)}/feedback", _body(sent))


def loop_path(loop: str) -> str:
    """Return the path of *loop* in the API."""
    return f"/v1/loops/{quote(loop, safe='')}"


def _text(name: str, value: object) -> object:
    if value is None:
        return None
    if isinstance(value, str):
        return str.__str__(value)  # of an enumeration or of numpy, too
    raise RequestError(f"field {name!r} is {value!r:.100}, no text", hint="send a text")


def _moment(at: object) -> object:
    if not isinstance(at, datetime):
        return _text("at", at)
    return sendable({"at": at}, "field")["at"]


def check_times(values: object, types: Mapping[str, str], noun: str) -> None:
    """Refuse a time where the loop has none: in JSON it would be a text like others."""
    for name, value in cast(Mapping[str, object], values).items():
        if isinstance(value, datetime) and types.get(name, "timestamp") != "timestamp":
            raise RequestError(
                f"{noun} {name!r:.100} is a datetime, not {types[name]}",
                hint="send a value of that type",
            )


def _baseline(value: object) -> dict[str, object]:
    """Return the field for a baseline, if there is one: a worker of an earlier release has none."""
    return {} if value is None else sendable({"baseline": value}, "field")


def _body(value: Mapping[str, object]) -> bytes:
    try:
        return _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RequestError(
            f"the request cannot be sent: {error}",
            hint="send texts, numbers, booleans, lists of texts and datetimes with a zone",
        ) from error
