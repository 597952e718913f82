"""The answer of a policy about the items of a request, and how they are logged.

A model reads the features of the loop and then those of one item; it scores one row an item.
"""

import struct
from collections.abc import Sequence
from typing import cast

from tidemill.schemas.avro.encoder import compile_values_encoder
from tidemill.schemas.avro.primitives import varint, write_string
from tidemill.schemas.avro.types import fields_of, item_of, optional
from tidemill.schemas.avro.wire import Schema
from tidemill.schemas.events.schemas import decision_schema
from tidemill.schemas.loop.definition import Items, Loop
from tidemill.serving.decision.items import RequestItems
from tidemill.serving.policies.choice import Choice, Features, ItemScore, LiveModel
from tidemill.serving.policies.policies import item_policy_of

_NULL = b"\x00"
_some_double = struct.Struct("<Bd").pack


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
        score = model.score
        if isinstance(score, ItemScore):
            scores = score.many(features, items.rows)
        else:
            scores = [score((*features, *row)) for row in items.rows]
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
