"""The items of a request: their check by a worker, and what a client may send.

A worker checks all of an item by one type. A client over HTTP does not have that type; it refuses
what is no list of items (`listed_items`), and otherwise leaves the check to the worker.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple, cast

import msgspec
from msgspec.structs import astuple

from tidemill.errors import RequestError
from tidemill.schemas.loop.definition import Items, Loop
from tidemill.serving.decision.values import NOT_CONVERTED, RequestValues, reworded, sendable
from tidemill.serving.policies.choice import Action, Features

MAX_ITEM_ID = 200  # characters
ITEM_ID = r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+$"
"""What an id is made of: no control characters, which would be in every table and terminal, and no
half of a surrogate pair, which is no Unicode."""

_PLACE = re.compile(r"(?P<what>.*) - at `\$(?P<path>.*)`", re.DOTALL)
_ItemId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ITEM_ID)]
_HINT = 'send "items": [{"id": ..., "features": {...}}, ...]'


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
        self.most = items.max
        fields = [("id", _ItemId), ("features", self.values.struct)]
        self._list = list[msgspec.defstruct("RequestItem", fields, forbid_unknown_fields=True)]  # type: ignore[misc]  # a type made here
        self._is_ranking = loop.decision.type == "ranking"

    def checked(self, value: object, baseline: object = None) -> RequestItems:
        """Return the items that a request brings as *value*, with its *baseline*, None for none.

        Raises:
            RequestError: they are not 1 to `most` items with ids of their own and all features, or
                the baseline names another item.
        """
        listed = _listed(value)
        if len(listed) > self.most:
            raise RequestError(
                f"the request brings {len(listed)} items",
                hint=f"send 1 to {self.most} of them; decision.items.max sets the limit",
            )
        items = self._converted(listed)
        ids = [item.id for item in items]
        _check_ids(ids)
        rows = [astuple(item.features) for item in items]
        default = default_among(ids, baseline, is_ranking=self._is_ranking)
        return RequestItems(ids, rows, default)

    def _converted(self, value: Sequence[object]) -> list["_Item"]:
        try:
            return cast("list[_Item]", msgspec.convert(value, self._list))
        except NOT_CONVERTED:
            plain = [_sendable(number, item) for number, item in enumerate(value)]
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


class _Item(msgspec.Struct):
    id: str
    features: msgspec.Struct


def listed_items(value: object) -> list[dict[str, object]]:
    """Return the items *value* as JSON can carry them, with the ids that a worker takes.

    Raises:
        RequestError: it is no list, it is empty, an item has no id of its own, or a feature cannot
            be sent.

    >>> listed_items(({"id": "a", "features": {"price": float("nan")}},))
    [{'id': 'a', 'features': {'price': None}}]
    """
    items: list[dict[str, object]] = []
    for number, item in enumerate(_listed(value)):
        plain = _sendable(number, item)
        id = plain.get("id") if isinstance(plain, dict) else None
        if not (isinstance(id, str) and 0 < len(id) <= MAX_ITEM_ID):
            raise RequestError(
                f"items[{number}] is {item!r:.100}, which has no id",
                hint=f"an item has an id, a text of 1 to {MAX_ITEM_ID} characters, and features",
            )
        items.append(cast("dict[str, object]", plain))
    _check_ids([str(item["id"]) for item in items])
    return items


def default_among(ids: list[str], baseline: object, *, is_ranking: bool) -> Action:
    """Return what is answered about items without a model.

    It is the *baseline*, or what the request brings first: the first item, or the order of all.

    Raises:
        RequestError: the baseline is not among the items.
    """
    if baseline is None:
        return list(ids) if is_ranking else ids[0]
    known = frozenset(ids)
    if is_ranking and isinstance(baseline, list | tuple):
        order = [str(each) for each in baseline if isinstance(each, str) and each in known]
        if 0 < len(set(order)) == len(baseline):
            return order
    elif not is_ranking and isinstance(baseline, str) and baseline in known:
        return str(baseline)
    wanted = "a list of ids of items, each once" if is_ranking else "the id of an item"
    raise RequestError(
        f"baseline {baseline!r:.100} is not among the items of the request",
        hint=f"send {wanted}, or leave it out: then it is what the request brings first",
    )


def without_items(field: str, loop: str) -> RequestError:
    """Return the refusal of *field*, which is of loops with items, by another *loop*."""
    return RequestError(
        f"field {field!r} is unknown: the requests of {loop} bring no items",
        hint="leave it out, or declare decision.items in the loop file",
    )


def _listed(value: object) -> Sequence[object]:
    """Return *value* if it is a list with something in it."""
    if not isinstance(value, list | tuple):
        what = "items are missing" if value is None else f"items are {value!r:.60}, not a list"
        raise RequestError(what, hint=_HINT)
    if not value:
        raise RequestError("the request brings 0 items", hint=f"there has to be one: {_HINT}")
    return value


def _check_ids(ids: list[str]) -> None:
    """Refuse an id that stands twice or cannot be printed."""
    if len(set(ids)) < len(ids):
        first: dict[str, int] = {}
        number = next(at for at, id in enumerate(ids) if first.setdefault(id, at) != at)
        raise RequestError(
            f"items[{number}] has the id {ids[number]!r:.100} of items[{first[ids[number]]}]",
            hint="send each item once: feedback names it by its id",
        )
    if "".join(ids).isprintable():  # a fast proof for nearly all of them
        return
    for number, id in enumerate(ids):
        if not re.fullmatch(ITEM_ID, id):
            raise RequestError(
                f"items[{number}] has the id {id!r:.100}, which cannot be printed",
                hint="leave control characters and halves of surrogate pairs out of ids",
            )


def _sendable(number: int, item: object) -> object:
    """Return *item* with an id and features as JSON has them, if it is an item at all."""
    if not isinstance(item, Mapping):
        return item
    plain = dict(item)
    if isinstance(plain.get("id"), str):
        plain["id"] = str.__str__(plain["id"])  # of an enumeration or of numpy, too
    if not isinstance(plain.get("features"), Mapping):
        return plain
    try:
        return {**plain, "features": sendable(plain["features"], "feature")}
    except RequestError as error:
        raise RequestError(f"items[{number}]: {error.what}", hint=error.hint) from error
