"""The requests of a client over HTTP: their bodies, and their ids.

**A worker that may have got a decision's id keeps it.** Where no answer came, that worker may have
logged the decision, with an action that nobody took. So the next attempt, and the default that
answers in the end, have a new id; a decision whose id the caller gave is not asked for again.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import cast
from urllib.parse import quote

import msgspec

from tidemill.errors import RequestError
from tidemill.serving.decision.ids import new_id
from tidemill.serving.decision.items import listed_items
from tidemill.serving.decision.values import sendable

Asked = Mapping[str, object]
"""One decision to ask for: ``features`` and, if known, ``entity``, ``id``, ``at``, ``baseline`` and
``items``."""

Given = Mapping[str, object]
"""One feedback: ``decision_id``, ``kind``, ``values`` and ``id``; ``at`` and ``item`` or None."""

_ASKED = frozenset({"features", "entity", "id", "at", "baseline", "items"})
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

    def __init__(self, loop: str, asked: Sequence[Asked], *, is_batch: bool) -> None:
        self._is_batch = is_batch
        self._has_own_ids = any(item.get("id") is not None for item in asked)
        self.asked = [_sendable(one, self.where(place)) for place, one in enumerate(asked)]
        super().__init__("POST", f"{loop_path(loop)}/decisions", self._encoded())

    def lost(self) -> None:
        """Give the decisions new ids."""
        self.asked = [{**one, "id": new_id()} for one in self.asked]
        self.body = self._encoded()
        self.may_repeat = not self._has_own_ids

    def where(self, place: int) -> str:
        """Return the beginning of an error about the decision at *place*."""
        return f"batch[{place}]: " if self._is_batch else ""

    def _encoded(self) -> bytes:
        return _body({"batch": self.asked} if self._is_batch else self.asked[0])


def _sendable(asked: Asked, where: str) -> dict[str, object]:
    """Return *asked* as the body of a request has it; *where* begins the text of an error."""
    try:
        sent: dict[str, object] = {
            "features": sendable(asked["features"], "feature"),
            "entity": _text("entity", asked.get("entity")),
            "id": new_id() if asked.get("id") is None else _text("id", asked["id"]),
            "at": _moment(asked.get("at")),
        }
        # a worker of an earlier release has neither of these fields
        if asked.get("baseline") is not None:
            sent |= sendable({"baseline": asked["baseline"]}, "field")
        if asked.get("items") is not None:
            sent["items"] = listed_items(asked["items"])
    except RequestError as error:
        raise RequestError(f"{where}{error.what}", hint=error.hint) from error
    return sent


def feedback_call(loop: str, given: Given, types: Mapping[str, str]) -> WorkerCall:
    """Return the request that logs a feedback.

    Args:
        loop: the name of the loop.
        given: the feedback.
        types: the types of the values of its kind, as far as the client knows them.

    Raises:
        RequestError: a value cannot be sent.
    """
    given = with_item(given, types)
    sent = {name: _text(name, given[name]) for name in ("decision_id", "kind", "id")}
    named = sendable(given["values"])
    check_times(named, types, "value")
    sent |= {"values": named, "at": _moment(given["at"])}
    if given["item"] is not None:  # a worker of an earlier release has no such field
        sent["item"] = _text("item", given["item"])
    return WorkerCall("POST", f"{loop_path(loop)}/feedback", _body(sent))


def with_item(given: Given, types: Mapping[str, str]) -> Given:
    """Return *given*, its item among the values if its kind has a value of that name.

    Loops with items have none; in others ``item=`` was always a value like others.
    """
    if given["item"] is None or "item" not in types:
        return given
    values = {**cast(Mapping[str, object], given["values"]), "item": given["item"]}
    return {**given, "values": values, "item": None}


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


def _body(value: Mapping[str, object]) -> bytes:
    try:
        return _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RequestError(
            f"the request cannot be sent: {error}",
            hint="send texts, numbers, booleans, lists of texts and datetimes with a zone",
        ) from error


def checked_requests(asked: Iterable[Asked]) -> list[Asked]:
    """Return *asked* as a list.

    Raises:
        RequestError: one of them has no features, or a name that a request cannot have.
    """
    listed = list(asked)
    for place, item in enumerate(listed):
        is_known = isinstance(item, Mapping) and _ASKED.issuperset(item) and "features" in item
        if not is_known:
            raise RequestError(
                f"item {place} has {_named(item)}",
                hint="each has features and may have entity, id, at, baseline and items",
            )
    return listed


def _named(item: object) -> str:
    if not isinstance(item, Mapping):
        return f"{item!r:.100}, no names and values"
    return ", ".join(map(str, item)) or "nothing"
