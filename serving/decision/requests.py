"""Requests for decisions and feedback, from JSON or from this process, checked against the loop.

There is one reader for both: JSON becomes Python values, and `check` takes values. What a streams
worker would not take is refused here, where somebody is there to be told. `values.py` checks
features and feedback values, `bodies.py` reads JSON.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

import msgspec
from msgspec.structs import asdict, astuple

from tidemill.errors import BrokerError, ConfigError, RequestError
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.decision.baselines import AnswerCheck
from tidemill.serving.decision.bodies import BodyReader, PlainReader
from tidemill.serving.decision.items import ITEM_ID, ItemCheck, RequestItems, without_items
from tidemill.serving.decision.request_time import checked_at
from tidemill.serving.decision.values import MAX_LIST, RequestValues
from tidemill.serving.policies.choice import Action, Features

MAX_BATCH = 1_000
"""Decisions or feedback of one request, if no setting says otherwise."""
MAX_ID = 200  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """How much one request may bring."""

    batch: int = MAX_BATCH
    """Decisions or feedback of one batch."""
    list_items: int = MAX_LIST
    """Texts of one value of type categories."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read TIDEMILL_MAX_BATCH and TIDEMILL_MAX_LIST, if set.

        Raises:
            ConfigError: one is no whole number above zero.
        """
        found = {}
        for field, name in (("batch", "TIDEMILL_MAX_BATCH"), ("list_items", "TIDEMILL_MAX_LIST")):
            if text := env.get(name):
                if not text.isdecimal() or int(text) == 0:
                    raise ConfigError(
                        f"{name} is {text!r}, no whole number above zero",
                        hint="set it to the largest number of items, or leave it out",
                    )
                found[field] = int(text)
        return cls(**found)


class UnknownError(RequestError):
    """There is no such loop, or no such kind of feedback; the HTTP API answers 404."""


class NotReadyError(BrokerError):
    """The worker has not read its topics yet and may know the loop soon; over HTTP 503."""


class DecisionRequest(msgspec.Struct, frozen=True, gc=False):
    """A checked request for one decision, with every feature of the loop in its order."""

    features: Features
    entity: str | None = None
    id: str | None = None
    at: datetime | None = None
    baseline: Action | None = None
    items: RequestItems | None = None


class FeedbackRequest(msgspec.Struct, frozen=True, gc=False):
    """A checked feedback, with every value of its kind."""

    decision_id: str
    kind: str
    values: Mapping[str, object]
    id: str | None = None
    at: datetime | None = None
    item: str | None = None


class DecisionReader:
    """Reads requests for decisions of one loop."""

    def __init__(self, loop: Loop, limits: RequestLimits | None = None) -> None:
        limits = limits or RequestLimits()
        self.record = RequestValues("feature", loop.features, max_list=limits.list_items)
        self._loop = loop
        self._baseline = AnswerCheck(loop)
        items = loop.decision.items
        self.items = None if items is None else ItemCheck(loop, items, max_list=limits.list_items)
        self._plain = (
            PlainReader(DecisionRequest, self.record.struct, max_id=MAX_ID, max_batch=limits.batch)
            if items is None
            else None
        )
        self._reader = BodyReader(
            self.check,
            required=("features",),
            optional=("entity", "id", "at", "baseline", "items"),
            inside="features",
            max_batch=limits.batch,
        )

    def check(
        self,
        features: Mapping[str, object],
        entity: str | None = None,
        id: str | None = None,
        at: datetime | str | None = None,
        baseline: object = None,
        items: object = None,
    ) -> DecisionRequest:
        """Check a request and return it.

        Raises:
            RequestError: it does not fit the loop.
        """
        if not (entity is None or isinstance(entity, str)):
            raise RequestError(f"field 'entity' is {entity!r:.100}, no text", hint="send a text")
        if id is not None:
            _check_id("id", id)
        moment = None if at is None else checked_at(at, self._loop)
        record = astuple(self.record.check(features))
        if self.items is not None:
            among = self.items.checked(items, baseline)
            answer = None if baseline is None else among.default
            return DecisionRequest(record, entity, id, moment, answer, among)
        if items is not None:
            raise without_items("items", self._loop.loop)
        answer = None if baseline is None else self._baseline.checked(baseline)
        return DecisionRequest(record, entity, id, moment, answer)

    def check_all(self, asked: Sequence[Mapping[str, object]]) -> list[DecisionRequest]:
        """Check requests and return them, for half of what `check` takes for each if all are plain.

        Raises:
            RequestError: one does not fit the loop; the error names its place.
        """
        plain = self._plain.convert(asked) if self._plain is not None else None
        if plain is not None:
            return plain
        checked: list[DecisionRequest] = []
        try:
            for item in asked:
                checked.append(self.check(**item))  # type: ignore[arg-type]  # noqa: PERF401
        except RequestError as error:
            raise RequestError(f"batch[{len(checked)}]: {error.what}", hint=error.hint) from error
        return checked

    def read(self, body: bytes) -> DecisionRequest | list[DecisionRequest]:
        """Return the request in *body*, or the list of them if it is ``{"batch": [...]}``.

        Raises:
            RequestError: a request does not fit the loop; then none of them counts.
        """
        plain = self._plain.read(body) if self._plain is not None else None
        return self._reader.read(body) if plain is None else plain


class FeedbackReader:
    """Reads feedback of one loop, with the values of each kind."""

    def __init__(self, loop: Loop, limits: RequestLimits | None = None) -> None:
        limits = limits or RequestLimits()
        self.records = {
            name: RequestValues("value", kind.values, max_list=limits.list_items)
            for name, kind in loop.feedback.items()
        }
        self._loop = loop
        self._reader = BodyReader(
            self._check_plain,
            required=("decision_id", "kind"),
            optional=("values", "id", "at", "item"),
            inside="values",
            max_batch=limits.batch,
        )

    def read(self, body: bytes) -> FeedbackRequest | list[FeedbackRequest]:
        """Return the feedback in *body*, or the list of it if it is ``{"batch": [...]}``.

        Raises:
            UnknownError: the loop has no feedback of that kind.
            RequestError: a feedback does not fit the loop; then none of them counts.
        """
        return self._reader.read(body)

    def check(
        self,
        decision_id: str,
        kind: str,
        values: Mapping[str, object],
        id: str | None = None,
        at: datetime | str | None = None,
        item: str | None = None,
    ) -> FeedbackRequest:
        """Check a feedback and return it; *item* is the id of the one it is about, if of one.

        Raises:
            UnknownError: the loop has no feedback of that kind.
            RequestError: it does not fit the loop.
        """
        checked = asdict(self.record(kind).check(values))
        _check_id("decision_id", decision_id)
        if id is not None:
            _check_id("id", id)
        if item is not None:
            if self._loop.decision.items is None:
                raise without_items("item", self._loop.loop)
            _check_item(item)
        moment = None if at is None else checked_at(at, self._loop)
        return FeedbackRequest(decision_id, kind, checked, id, moment, item)

    def record(self, kind: str) -> RequestValues:
        """Return the values of a feedback of *kind*.

        Raises:
            UnknownError: the loop has no feedback of that kind.
        """
        if not isinstance(kind, str):
            raise RequestError(f"field 'kind' is {kind!r:.100}, no text", hint=self._kinds)
        if kind in self.records:
            return self.records[kind]
        raise UnknownError(
            f"loop {self._loop.loop} has no feedback {kind[:100]!r}", hint=self._kinds
        )

    @property
    def _kinds(self) -> str:
        return f"its kinds are {', '.join(self.records)}"

    def _check_plain(
        self,
        decision_id: str,
        kind: str,
        values: Mapping[str, object] | None = None,
        id: str | None = None,
        at: str | None = None,
        item: str | None = None,
    ) -> FeedbackRequest:
        return self.check(decision_id, kind, {} if values is None else values, id, at, item)


def _check_id(name: str, value: object) -> None:
    if not (isinstance(value, str) and 0 < len(value) <= MAX_ID):
        raise RequestError(
            f"field {name!r} is {value!r:.100}, no id",
            hint=f"send a text of 1 to {MAX_ID} characters",
        )


def _check_item(value: object) -> None:
    """Refuse what cannot be the id of an item of a request."""
    _check_id("item", value)
    if not re.fullmatch(ITEM_ID, str(value)):
        raise RequestError(
            f"field 'item' is {value!r:.100}, which cannot be printed",
            hint="send the id of an item as the request for the decision had it",
        )
