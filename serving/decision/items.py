"""The items of a request: their check, the answer of a policy about them, and how they are logged.

A model reads the features of the loop and then those of one item; it scores one row an item.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple, cast

import msgspec
from msgspec.structs import astuple

from tidemill.errors import RequestError
from tidemill.schemas.avro.encoder import compile_values_encoder
from tidemill.schemas.avro.primitives import varint, write_string
from tidemill.schemas.avro.types import fields_of, item_of, optional
from tidemill.schemas.avro.wire import Schema
from tidemill.schemas.events.schemas import decision_schema
from tidemill.schemas.loop.definition import Items, Loop
from tidemill.serving.decision.values import NOT_CONVERTED, RequestValues, reworded, sendable
from tidemill.serving.policies.choice import Action, Choice, Features, LiveModel
from tidemill.serving.policies.policies import item_policy_of

MAX_ITEM_ID = 200  # characters

_PLACE = re.compile(r"(?P<what>.*) - at `\$(?P<path>.*)`", re.DOTALL)
_NULL = b"\x00"
_some_double = struct.Struct("<Bd").pack
_ItemId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ITEM_ID)]


class RequestItems(NamedTuple):
    """The checked items of one request.

    Attributes:
        ids: their ids, in the order of the request.
        rows: the features of each, in the order of the loop file.
        default: what is answered without a model: the baseline, the first item, or their order.
    """

    ids: list[str]
    rows: list[Features]
    default: Action


class ItemCheck:
    """Checks the items of the requests for one loop, and baselines among them."""

    def __init__(self, loop: Loop, items: Items, *, max_list: int) -> None:
        self.values = RequestValues("feature", items.features, max_list=max_list)
        fields = [("id", _ItemId), ("features", self.values.struct)]
        self._list = list[msgspec.defstruct("RequestItem", fields, forbid_unknown_fields=True)]  # type: ignore[misc]  # a type made here
        self._most = items.max
        self._is_ranking = loop.decision.type == "ranking"

    def checked(self, value: object, baseline: object = None) -> RequestItems:
        """Return the items that a request brings as *value*, with its *baseline*, None for none.

        Raises:
            RequestError: they are not 1 to `max` items with ids of their own and all features, or
                the baseline names another item.
        """
        if not isinstance(value, list | tuple):
            hint = 'send "items": [{"id": ..., "features": {...}}, ...]'
            raise RequestError(
                "items are missing" if value is None else f"items are {value!r:.60}, not a list",
                hint=hint,
            )
        if not 0 < len(value) <= self._most:
            raise RequestError(
                f"the request brings {len(value)} items",
                hint=f"send 1 to {self._most} of them; decision.items.max sets the limit",
            )
        items = self._converted(value)
        ids = [item.id for item in items]
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise RequestError(
                f"two items have the id {twice!r:.100}",
                hint="send each item once: feedback names it by its id",
            )
        rows = [astuple(item.features) for item in items]
        default: Action = ids if self._is_ranking else ids[0]
        return RequestItems(ids, rows, default if baseline is None else self._among(ids, baseline))

    def _converted(self, value: Sequence[object]) -> list["_Item"]:
        try:
            return cast("list[_Item]", msgspec.convert(value, self._list))
        except NOT_CONVERTED:
            plain = [self._sendable(number, item) for number, item in enumerate(value)]
        try:
            return cast("list[_Item]", msgspec.convert(plain, self._list))
        except NOT_CONVERTED as error:
            found = _PLACE.fullmatch(str(error))
            what, path = (found["what"], found["path"]) if found else (str(error), "")
            noun = "feature" if path.endswith(".features") else "field"
            raise RequestError(
                f"items{path}: {reworded(what, noun)}".replace(": the body is", " is"),
                hint=f"an item has an id and features: {self.values.hint}",
            ) from error

    def _sendable(self, number: int, item: object) -> object:
        if not isinstance(item, Mapping) or not isinstance(item.get("features"), Mapping):
            return item
        try:
            return {**item, "features": sendable(item["features"], self.values.noun)}
        except RequestError as error:
            raise RequestError(f"items[{number}]: {error.what}", hint=error.hint) from error

    def _among(self, ids: list[str], baseline: object) -> Action:
        if self._is_ranking and isinstance(baseline, list | tuple):
            listed = [str(each) for each in baseline if isinstance(each, str) and each in ids]
            if 0 < len(set(listed)) == len(baseline):
                return listed
        elif not self._is_ranking and isinstance(baseline, str) and baseline in ids:
            return str(baseline)
        wanted = "a list of ids of items, each once" if self._is_ranking else "the id of an item"
        raise RequestError(
            f"baseline {baseline!r:.100} is not among the items of the request",
            hint=f"send {wanted}, or leave it out: then it is what the request brings first",
        )


class _Item(msgspec.Struct):
    id: str
    features: msgspec.Struct


class ItemAnswers:
    """Chooses among the items of requests for one loop, and writes them into decision events."""

    def __init__(self, loop: Loop, items: Items) -> None:
        self._policy = item_policy_of(loop)
        self._is_ranking = loop.decision.type == "ranking"
        self._logs_all = items.log == "all"
        named = {str(each["name"]): each["type"] for each in fields_of(decision_schema(loop))}
        item = {
            str(each["name"]): each["type"]
            for each in fields_of(item_of(optional(named["items"])[1]))
        }
        self._write_features = compile_values_encoder(cast(Schema, item["features"]))

    def choose(
        self, model: LiveModel, features: Features, items: RequestItems, key: bytes
    ) -> Choice:
        """Score each item and choose; see `_answer` for the last part of the result.

        Raises:
            ModelError: a score is not a finite number.
        """
        scores = [model.score((*features, *row)) for row in items.rows]
        made = self._policy.choose(scores, model.learned_from, key)
        return self._answer(items.ids, made.order, scores[made.order[0]], made.propensities)

    def without_model(self, items: RequestItems, key: bytes) -> tuple[Choice, bool]:
        """Return the default or, by chance, something else; and whether it was chance."""
        default = items.default if isinstance(items.default, list) else [str(items.default)]
        places = {name: place for place, name in enumerate(items.ids)}
        order = [places[name] for name in default]
        made = self._policy.without_model(order, len(items.ids), key)
        answer = self._answer(items.ids, made.order, None, made.propensities)
        return answer, made.is_explored

    def _answer(
        self,
        ids: list[str],
        order: Sequence[int],
        score: float | None,
        propensities: Sequence[float | None],
    ) -> Choice:
        """Return the choice; its last part has the propensity of each position, or each item.

        The propensity of a whole order is not told: that of two hundred items is zero as a double.
        """
        if self._is_ranking:
            positions = [propensities[place] or 0.0 for place in order]
            return ([ids[place] for place in order], score, None, positions)
        each = [propensity or 0.0 for propensity in propensities]
        return (ids[order[0]], score, each[order[0]], each)

    def written(self, items: RequestItems, choice: Choice) -> bytes:
        """Return the bytes of the field `items` of a decision event."""
        action, _, _, known = choice
        shown = action if isinstance(action, list) else [str(action)]
        position = {name: number for number, name in enumerate(shown)}
        parts: list[bytes] = []
        for place, (name, row) in enumerate(zip(items.ids, items.rows, strict=True)):
            at = position.get(name)
            if at is None and not self._logs_all:
                continue
            propensity = self.propensity(known, place, at)
            parts += (
                write_string(name),
                _NULL if propensity is None else _some_double(2, propensity),
                _NULL if at is None else b"\x02" + varint(at),
                self._write_features(row),
            )
        count = len(items.ids) if self._logs_all else len(shown)
        return b"".join((b"\x02", varint(count), *parts, b"\x00"))

    def propensity(self, known: list[float] | None, place: int, at: int | None) -> float | None:
        """Return what the event tells of the item at *place* of a request, shown *at* a position.

        Without *known* ones, which are the last part of a choice, the answer was certain.
        """
        if self._is_ranking:
            if at is None:
                return None
            return 1.0 if known is None else known[at]
        certain = 0.0 if at is None else 1.0
        return certain if known is None else known[place]
