"""Reads JSON bodies: one request, or a batch of them, each key once."""

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import structs
from msgspec.structs import astuple

from tidemill.errors import RequestError
from tidemill.serving.decision.values import NOT_CONVERTED

T = TypeVar("T")

_decode = msgspec.json.Decoder().decode
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
LISTED = "items"
"""The optional field whose value is a list of objects, which have names and values themselves."""
_EXAMPLE = "see docs/guide/serving.md for the bodies of requests"


class PlainReader(Generic[T]):
    """Reads decisions that bring features, entity and id alone, in one conversion.

    Args:
        make: makes a request of the values of the features, the entity and the id.
        features: the type of the features.
        max_id: how many characters an id may have.
        max_batch: how many items a batch may have.
    """

    def __init__(
        self,
        make: Callable[[tuple[object, ...], str | None, str | None], T],
        features: type[msgspec.Struct],
        *,
        max_id: int,
        max_batch: int,
    ) -> None:
        id_type = Annotated[str, msgspec.Meta(min_length=1, max_length=max_id)]
        fields: list[tuple[str, object] | tuple[str, object, object]] = [
            ("features", features),
            ("entity", str | None, None),
            ("id", id_type | None, None),
        ]
        item = msgspec.defstruct("PlainItem", fields, forbid_unknown_fields=True, gc=False)
        items = Annotated[list[item], msgspec.Meta(min_length=1, max_length=max_batch)]  # type: ignore[valid-type]
        batch = msgspec.defstruct("PlainBatch", [("batch", items)], forbid_unknown_fields=True)
        self._make = make
        self._many = list[item]  # type: ignore[valid-type]
        self._one = msgspec.json.Decoder(item).decode
        self._batch = msgspec.json.Decoder(batch).decode
        self._defaults = _defaults(features)

    def read(self, body: bytes) -> T | list[T] | None:
        """Return what *body* asks for; None if it is wrong, or has to be read key by key."""
        try:
            one: Any = self._one(body)
        except _MALFORMED:
            return self._read_batch(body)
        values = astuple(one.features)
        if body.count(b":") != self._keys(values, one.entity, one.id):
            return None
        return self._make(values, one.entity, one.id)

    def _read_batch(self, body: bytes) -> list[T] | None:
        try:
            found: Any = self._batch(body)
        except _MALFORMED:
            return None
        items = [(astuple(each.features), each.entity, each.id) for each in found.batch]
        if body.count(b":") != 1 + sum(self._keys(*item) for item in items):
            return None
        return [self._make(*item) for item in items]

    def convert(self, asked: Sequence[Mapping[str, object]]) -> list[T] | None:
        """Return requests of this process; None if one is wrong or brings more."""
        try:
            found: Any = msgspec.convert(asked, self._many)
        except NOT_CONVERTED:
            return None
        return [self._make(astuple(each.features), each.entity, each.id) for each in found]

    def _keys(self, values: tuple[object, ...], entity: str | None, given_id: str | None) -> int:
        """Return how many keys an item has at least: a value may be a default that nobody sent."""
        keys = 1 + len(values) + (entity is not None) + (given_id is not None)
        if self._defaults is not None:
            keys -= sum(map(operator.eq, values, self._defaults))
        return keys


def _defaults(features: type[msgspec.Struct]) -> list[object] | None:
    """Return the default of each feature, or what equals no value; None if there is no default."""
    found = [
        each.default_factory() if each.default_factory is not msgspec.NODEFAULT else each.default
        for each in structs.fields(features)
    ]
    return None if all(each is msgspec.NODEFAULT for each in found) else found


class BodyReader(Generic[T]):
    """Reads ``{...}`` or ``{"batch": [{...}, ...]}`` and checks each item.

    Args:
        check: makes a checked request of the fields of an item, which it gets by name, or all of
            them in the order of *required* and *optional*, with None for what is not there.
        required: the fields that an item has to have.
        optional: the fields that it may have.
        inside: the one field whose value has names and values itself.
        max_batch: how many items a batch may have.
    """

    def __init__(
        self,
        check: Callable[..., T],
        *,
        required: tuple[str, ...],
        optional: tuple[str, ...],
        inside: str,
        max_batch: int,
    ) -> None:
        self._check = check
        fields: list[tuple[str, object] | tuple[str, object, object]] = [
            *((name, object) for name in required),
            *((name, object, None) for name in optional),
        ]
        item = msgspec.defstruct("RequestItem", fields, forbid_unknown_fields=True, gc=False)
        self._one = msgspec.json.Decoder(item).decode
        self._place = (required + optional).index(inside)
        self._listed = (required + optional).index(LISTED) if LISTED in optional else None
        self._required = frozenset(required)
        self._known = frozenset(required + optional)
        self._inside = inside
        self._max_batch = max_batch

    def read(self, body: bytes) -> T | list[T]:
        """Return the checked request in *body*, or a list of them if it is a batch.

        Raises:
            RequestError: the body is not JSON, names a key twice, or an item does not fit.
        """
        try:
            item = astuple(self._one(body))
        except _MALFORMED:
            return self._read_any(body)
        request = self._check(*item)
        inside = item[self._place]
        keys = len(item) - item.count(None) + (0 if inside is None else len(inside))
        if self._listed is not None:
            keys += _keys_in(item[self._listed])
        if body.count(b":") != keys:
            self._read_any(body)  # a null, a colon in a text, or a key that stands twice
        return request

    def _read_any(self, body: bytes) -> T | list[T]:
        try:
            value = _decode(body)
        except _MALFORMED as error:
            raise _malformed(body, error) from error
        if not isinstance(value, dict):
            raise RequestError(f"the body is {_kind(value)}, not an object", hint=_EXAMPLE)
        if "batch" not in value:
            request = self._checked(value)
            _keys_stand_once(body, self._keys(value))
            return request
        items = self._items(value)
        requests = [self._numbered(place, item) for place, item in enumerate(items)]
        _keys_stand_once(body, 1 + sum(map(self._keys, items)))
        return requests

    def _items(self, value: Mapping[str, object]) -> list[dict[str, object]]:
        items = value["batch"]
        if len(value) > 1:
            other = next(name for name in value if name != "batch")
            raise RequestError(f"field {other!r:.100} is unknown beside a batch", hint=_EXAMPLE)
        if not isinstance(items, list):
            raise RequestError(f"field 'batch' is {_kind(items)}, not array", hint=_EXAMPLE)
        if not 0 < len(items) <= self._max_batch:
            raise RequestError(
                f"a batch of {len(items)} items", hint=f"send 1 to {self._max_batch} at once"
            )
        return items

    def _numbered(self, place: int, item: object) -> T:
        try:
            return self._checked(item)
        except RequestError as error:
            raise type(error)(f"batch[{place}]: {error.what}", hint=error.hint) from error

    def _checked(self, item: object) -> T:
        if not isinstance(item, dict):
            raise RequestError(f"the item is {_kind(item)}, not an object", hint=_EXAMPLE)
        if not self._known.issuperset(item):
            unknown = next(name for name in item if name not in self._known)
            raise RequestError(f"field {unknown!r:.100} is unknown", hint=_EXAMPLE)
        if not self._required.issubset(item):
            missing = min(self._required.difference(item))
            raise RequestError(f"field {missing!r} is missing", hint=_EXAMPLE)
        return self._check(**item)

    def _keys(self, item: Mapping[str, object]) -> int:
        inside = item.get(self._inside)
        own = len(inside) if isinstance(inside, dict) else 0
        return len(item) + own + _keys_in(item.get(LISTED))


def _keys_in(listed: object) -> int:
    """Return how many keys the objects of a list have, and the objects in those."""
    if not isinstance(listed, list):
        return 0
    objects = [each for each in listed if isinstance(each, dict)]
    inner = [len(value) for each in objects for value in each.values() if isinstance(value, dict)]
    return sum(map(len, objects)) + sum(inner)


def _keys_stand_once(body: bytes, keys: int) -> None:
    """Refuse *body* if it has more than the number of *keys* that were read from it.

    Each key has a colon of its own, so as many colons as keys prove it at once. Only texts can have
    more of them.
    """
    if body.count(b":") == keys:
        return
    outside = _STRING.sub(b"", body) if b"\\" in body else b"".join(body.split(b'"')[::2])
    if outside.count(b":") == keys:
        return
    raise RequestError(
        f"the key {_repeated(body)!r:.100} stands twice in one object",
        hint="send each key once: readers disagree on which of two values counts",
    )


def _repeated(body: bytes) -> str:
    found: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        names = [name for name, _ in pairs]
        found.extend(name for name in set(names) if names.count(name) > 1)

    json.loads(body, object_pairs_hook=note)
    return found[0] if found else "?"


def _malformed(body: bytes, error: Exception) -> RequestError:
    if body[:3] == b"\xef\xbb\xbf":
        return RequestError("the body starts with a byte order mark", hint="send UTF-8 without one")
    if body[:2] == b"\x1f\x8b":
        return RequestError("the body is compressed with gzip", hint="send it uncompressed")
    if _SURROGATE.search(body):
        return RequestError(
            "a text of the body has half a surrogate pair, so it is no Unicode",
            hint=r"send both halves of a pair (\ud83d\ude00), or the character itself",
        )
    return RequestError(f"the body is not JSON: {error}", hint=_EXAMPLE)


def _kind(value: object) -> str:
    names = {dict: "object", list: "array", type(None): "null"}
    return names.get(type(value), type(value).__name__)
