"""Requests for decisions and feedback, from JSON or from this process, checked against the loop.

`values.py` checks features and feedback values. This module checks the fields around them, for one
request or a batch.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from msgspec.structs import asdict, astuple

from tidemill.errors import RequestError
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.decision.policy import Features
from tidemill.serving.decision.values import At, RequestValues, reworded

MAX_BATCH = 1_000  # decisions or feedback of one request
MAX_ID = 200  # characters

T = TypeVar("T")
R = TypeVar("R")
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)]


class UnknownError(RequestError):
    """There is no such loop, or no such kind of feedback; the HTTP API answers 404."""


class DecisionRequest(msgspec.Struct, frozen=True, gc=False):
    """A checked request for one decision, with every feature of the loop in its order."""

    features: Features
    entity: str | None = None
    id: str | None = None
    at: datetime | None = None


class FeedbackRequest(msgspec.Struct, frozen=True, gc=False):
    """A checked feedback, with every value of its kind."""

    decision_id: str
    kind: str
    values: Mapping[str, object]
    id: str | None = None
    at: datetime | None = None


class _RequestEntry(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    features: msgspec.Raw
    entity: str | None = None
    id: Id | None = None
    at: At | None = None


class _FeedbackEntry(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    decision_id: Id
    kind: str
    values: msgspec.Raw = msgspec.Raw(b"{}")
    id: Id | None = None
    at: At | None = None


class _RequestBatch(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    batch: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


_ITEM = msgspec.json.Decoder(_RequestEntry)
_FEEDBACK = msgspec.json.Decoder(_FeedbackEntry)
_BATCH = msgspec.json.Decoder(_RequestBatch)


class DecisionReader:
    """Reads requests for decisions of one loop."""

    def __init__(self, loop: Loop) -> None:
        self.record = RequestValues("feature", loop.features)
        self._features = msgspec.json.Decoder(self.record.struct)

    def check(
        self,
        features: Mapping[str, object],
        entity: str | None = None,
        id: str | None = None,
        at: datetime | None = None,
    ) -> DecisionRequest:
        """Check a request made in this process as one that came as JSON, and return it.

        Raises:
            RequestError: it does not fit the loop.
        """
        if not (entity is None or isinstance(entity, str)):
            raise RequestError(f"entity {entity!r:.100} is no text", hint="send a text")
        if id is not None or at is not None:
            _check_id("id", id)
            _check_at(at)
        return DecisionRequest(astuple(self.record.check(features)), entity, id, at)

    def read(self, body: bytes) -> DecisionRequest | list[DecisionRequest]:
        """Return the request in *body*, or the list of them if it is ``{"batch": [...]}``.

        Raises:
            RequestError: a request does not fit the loop; then none of them counts.
        """
        return _one_or_many(body, _ITEM, self._check)

    def _check(self, item: _RequestEntry) -> DecisionRequest:
        features = _decode(self._features, item.features, self.record)
        return DecisionRequest(astuple(features), item.entity, item.id, item.at)


class FeedbackReader:
    """Reads feedback of one loop, with the values of each kind."""

    def __init__(self, loop: Loop) -> None:
        self.records = {
            name: RequestValues("value", kind.values) for name, kind in loop.feedback.items()
        }
        self._loop = loop.loop
        self._values = {
            name: msgspec.json.Decoder(record.struct) for name, record in self.records.items()
        }

    def read(self, body: bytes) -> FeedbackRequest | list[FeedbackRequest]:
        """Return the feedback in *body*, or the list of it if it is ``{"batch": [...]}``.

        Raises:
            UnknownError: the loop has no feedback of that kind.
            RequestError: a feedback does not fit the loop; then none of them counts.
        """
        return _one_or_many(body, _FEEDBACK, self._check)

    def check(
        self,
        decision_id: str,
        kind: str,
        values: Mapping[str, object],
        id: str | None = None,
        at: datetime | None = None,
    ) -> FeedbackRequest:
        """Check a feedback made in this process as one that came as JSON, and return it.

        Raises:
            UnknownError: the loop has no feedback of that kind.
            RequestError: it does not fit the loop.
        """
        checked = asdict(self.record(kind).check(values))
        if decision_id is None:
            raise RequestError("decision_id is missing", hint="send the id of the decision")
        _check_id("decision_id", decision_id)
        _check_id("id", id)
        _check_at(at)
        return FeedbackRequest(decision_id, kind, checked, id, at)

    def record(self, kind: str) -> RequestValues:
        """Return the values of a feedback of *kind*.

        Raises:
            UnknownError: the loop has no feedback of that kind.
        """
        if kind in self.records:
            return self.records[kind]
        raise UnknownError(
            f"loop {self._loop} has no feedback {kind[:100]!r}",
            hint=f"its kinds are {', '.join(self.records)}",
        )

    def _check(self, item: _FeedbackEntry) -> FeedbackRequest:
        record = self.record(item.kind)
        values = _decode(self._values[item.kind], item.values, record)
        return FeedbackRequest(item.decision_id, item.kind, asdict(values), item.id, item.at)


def _check_id(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= MAX_ID):
        raise RequestError(
            f"{name} {value!r:.100} is no id", hint=f"send a text of 1 to {MAX_ID} characters"
        )


def _check_at(at: object) -> None:
    if at is not None and not (isinstance(at, datetime) and at.tzinfo is not None):
        raise RequestError(
            f"at {at!r:.100} is no time with a zone", hint="send datetime.now(UTC), or leave it out"
        )


def _one_or_many(
    body: bytes, decoder: msgspec.json.Decoder[T], check: Callable[[T], R]
) -> R | list[R]:
    try:
        item = decoder.decode(body)
    except msgspec.ValidationError as error:
        batch = _batch(body)
        if batch is None:
            raise _refused(error) from error
    except _MALFORMED as error:
        raise _malformed(error) from error
    else:
        return check(item)
    return [_numbered(place, raw, decoder, check) for place, raw in enumerate(batch)]


def _batch(body: bytes) -> list[msgspec.Raw] | None:
    """Return the items of a batch; None if *body* is no batch."""
    try:
        if "batch" not in msgspec.json.decode(body, type=dict[str, msgspec.Raw]):
            return None
        return _BATCH.decode(body).batch
    except msgspec.ValidationError as error:
        raise _refused(error) from error
    except _MALFORMED as error:
        raise _malformed(error) from error


def _numbered(
    place: int, raw: msgspec.Raw, decoder: msgspec.json.Decoder[T], check: Callable[[T], R]
) -> R:
    try:
        return check(decoder.decode(raw))
    except msgspec.ValidationError as error:
        refused = _refused(error)
    except _MALFORMED as error:
        refused = _malformed(error)
    except RequestError as error:
        refused = error
    raise type(refused)(f"batch[{place}]: {refused.what}", hint=refused.hint) from refused


def _decode(
    decoder: msgspec.json.Decoder[msgspec.Struct], raw: msgspec.Raw, record: RequestValues
) -> msgspec.Struct:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise RequestError(reworded(str(error), record.noun), hint=record.hint) from error
    except _MALFORMED as error:
        raise _malformed(error) from error


def _refused(error: Exception) -> RequestError:
    return RequestError(reworded(str(error), "field"), hint=_EXAMPLE)


def _malformed(error: Exception) -> RequestError:
    return RequestError(f"the body is not JSON: {error}", hint=_EXAMPLE)


_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_EXAMPLE = "see docs/guide/serving.md for the bodies of requests"
