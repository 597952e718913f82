"""Checks named values of a request: features, or the values of one kind of feedback.

`RequestValues` makes a type from the fields of the loop, and msgspec compiles the checks from it.
Errors name the field and the type as the loop file does. `sendable` is what a client over HTTP may
put into JSON: no more than what a worker in the same process takes.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import msgspec

from tidemill.errors import RequestError
from tidemill.schemas.loop.definition import Feature, FieldType

MAX_LIST = 1_000
"""How many texts a value of type categories may have, if no setting says otherwise."""

NOT_CONVERTED = (msgspec.ValidationError, UnicodeEncodeError)
"""What msgspec raises for a value of another type; the second is for half a surrogate pair."""
At = Annotated[datetime, msgspec.Meta(tz=True)]
_LARGEST = 1.7976931348623157e308
_TYPES: dict[FieldType, object] = {
    FieldType.FLOAT: Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)],  # nor NaN
    FieldType.INT: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    FieldType.BOOL: bool,
    FieldType.CATEGORY: str,
    FieldType.TIMESTAMP: At,
}


class RequestValues:
    """The values of one mapping, as a type: features, or the values of one kind of feedback."""

    def __init__(
        self, noun: str, fields: Mapping[str, Feature], *, max_list: int = MAX_LIST
    ) -> None:
        self.noun = noun  # the word for one value in an error
        self.types = {name: str(field.type) for name, field in fields.items()}
        self.struct = msgspec.defstruct(
            "RequestValues",
            [_struct_field(name, field, max_list) for name, field in fields.items()],
            kw_only=True,
            forbid_unknown_fields=True,
            gc=False,
        )

    @property
    def hint(self) -> str:
        """The hint of an error: what to send."""
        listed = ", ".join(f"{name} ({kind})" for name, kind in self.types.items())
        return f"send {listed}" if listed else f"send no {self.noun}s"

    def check(self, values: Mapping[str, object]) -> msgspec.Struct:
        """Return *values* with defaults filled in, in the order of the loop file.

        Numbers of numpy become those of Python.

        Raises:
            RequestError: a value is missing, unknown or of another type.
        """
        try:
            return msgspec.convert(values, self.struct)
        except NOT_CONVERTED:
            try:
                return msgspec.convert(sendable(values, self.noun), self.struct)
            except NOT_CONVERTED as error:
                what = reworded(str(error), self.noun)
                raise RequestError(what, hint=self.hint) from error
            except RequestError as error:
                raise RequestError(error.what, hint=self.hint) from error


def sendable(values: object, noun: str = "value") -> dict[str, object]:
    """Return named *values* as JSON can carry them; *noun* is the word for one in an error.

    Numbers of numpy become those of Python, NaN becomes None, tuples and sets become lists.

    Raises:
        RequestError: *values* is no mapping, or a value has a type that no loop has: a worker
            inside the process refuses it too.

    >>> sendable({"tags": ("new",), "age": float("nan")})
    {'tags': ['new'], 'age': None}
    """
    if not isinstance(values, Mapping):
        raise RequestError(
            f"the {noun}s are {type(values).__name__}, not names and values", hint=_SENDABLE
        )
    return {_name(name, noun): _plain(name, value, noun) for name, value in values.items()}


def _name(name: object, noun: str) -> str:
    if isinstance(name, str):
        return name
    raise RequestError(f"{noun} {name!r:.100} has a name that is no text", hint=_SENDABLE)


def _plain(name: object, value: object, noun: str) -> object:
    if getattr(value, "shape", None) == ():  # a number of numpy
        value = value.item()  # type: ignore[attr-defined]  # all of them have it
    match value:
        case None | bool():
            return value
        case int():
            return int(value)
        case str():
            return str.__str__(value)  # the text of an enumeration, and not its name
        case Decimal():
            return _plain(name, float(value), noun)
        case float() if math.isnan(value):
            return None
        case float() if math.isfinite(value):
            return float(value)
        case list() | tuple() | set() | frozenset():
            return [_plain(name, _no_time(name, item, noun), noun) for item in value]
        case datetime() if value.tzinfo is not None:
            return _in_utc(name, value, noun)
    found = f"{value!r:.100}" if isinstance(value, float | datetime) else type(value).__name__
    raise RequestError(f"{noun} {name!r:.100} is {found}, which cannot be sent", hint=_SENDABLE)


def _no_time(name: object, item: object, noun: str) -> object:
    if isinstance(item, datetime):
        raise RequestError(f"{noun} {name!r:.100} has a datetime in a list", hint=_SENDABLE)
    return item


def _in_utc(name: object, value: datetime, noun: str) -> datetime:
    try:
        moment = value.astimezone(UTC)  # JSON has no seconds in the offset of a zone
        return datetime.combine(moment.date(), moment.time(), UTC)
    except OverflowError:
        raise RequestError(
            f"{noun} {name!r:.100} is not in the years 1 to 9999", hint=_SENDABLE
        ) from None


def _struct_field(
    name: str, field: Feature, max_list: int
) -> tuple[str, object] | tuple[str, object, object]:
    if field.type is FieldType.CATEGORIES:
        kind: object = Annotated[list[str], msgspec.Meta(max_length=max_list)]
    else:
        kind = _TYPES[field.type]
    annotation = kind | None if field.nullable else kind  # type: ignore[operator]  # a type
    if field.default is not None:
        default = msgspec.convert(field.default, kind)
        if isinstance(default, list):
            return name, annotation, msgspec.field(default_factory=default.copy)
        return name, annotation, default
    return (name, annotation, None) if field.nullable else (name, annotation)


def reworded(message: str, noun: str) -> str:
    """Return the *message* of msgspec in the words of the loop file; *noun* names a value.

    >>> reworded("Expected `float`, got `str` - at `$.distance`", "feature")
    "feature 'distance' is str, not float"
    >>> reworded("Expected `array` of length <= 1000 - at `$.tags`", "feature")
    "feature 'tags' has more than 1000 items"
    """
    place = _PLACE.fullmatch(message)
    message, path = (place["what"], place["path"]) if place else (message, "")
    if field := _FIELD.fullmatch(message):
        return f"{noun} {field['name']!r} {_HOW[field['how']]}"
    subject = f"{noun} {path!r}" if path else "the body"
    if wrong := _EXPECTED.fullmatch(message):
        return f"{subject} is {wrong['found']}, not {wrong['wanted']}".replace("`", "")
    if long := _LONG.fullmatch(message):
        return f"{subject} has more than {long['most']} items"
    return f"{subject}: {message}".replace("`", "")


_PLACE = re.compile(r"(?P<what>.*) - at `\$\.?(?P<path>.*)`", re.DOTALL)
_FIELD = re.compile(r"Object (?P<how>missing required|contains unknown) field `(?P<name>.*)`", re.S)
_EXPECTED = re.compile(r"Expected (?P<wanted>.*), got (?P<found>.*)", re.DOTALL)
_LONG = re.compile(r"Expected `array` of length <= (?P<most>\d+)")
_HOW = {"missing required": "is missing", "contains unknown": "is unknown"}
_SENDABLE = "send texts, finite numbers, booleans, lists of texts and datetimes with a zone"
