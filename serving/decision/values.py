"""Checks named values of a request: features, or the values of one kind of feedback.

`RequestValues` makes a type from the fields of the loop, and msgspec compiles the checks from it.
Errors name the field and the type as the loop file does.
"""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

import msgspec

from tidemill.errors import RequestError
from tidemill.schemas.loop.definition import Feature, FieldType

At = Annotated[datetime, msgspec.Meta(tz=True)]
_LARGEST = 1.7976931348623157e308
_TYPES: dict[FieldType, object] = {
    FieldType.FLOAT: Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)],  # nor NaN
    FieldType.INT: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    FieldType.BOOL: bool,
    FieldType.CATEGORY: str,
    FieldType.CATEGORIES: list[str],
    FieldType.TIMESTAMP: At,
}


class RequestValues:
    """The values of one mapping, as a type: features, or the values of one kind of feedback."""

    def __init__(self, noun: str, fields: Mapping[str, Feature]) -> None:
        self.noun = noun  # the word for one value in an error
        self.types = {name: str(field.type) for name, field in fields.items()}
        self.struct = msgspec.defstruct(
            "RequestValues",
            [_struct_field(name, field) for name, field in fields.items()],
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
        except msgspec.ValidationError as error:
            if not isinstance(values, Mapping):
                what = f"the {self.noun}s are {type(values).__name__}, not names and values"
                raise RequestError(what, hint=self.hint) from error
            values = {str(name): plain(value) for name, value in values.items()}
            try:
                return msgspec.convert(values, self.struct)
            except msgspec.ValidationError as error:
                what = reworded(str(error), self.noun)
                raise RequestError(what, hint=self.hint) from error


def plain(value: object) -> object:
    """Return *value*: a numpy scalar as Python's, NaN as None, a tuple or set as a list."""
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "shape", None) == ():
        value = item()
    if isinstance(value, float) and math.isnan(value):
        return None
    return list(value) if isinstance(value, tuple | set | frozenset) else value


def _struct_field(name: str, field: Feature) -> tuple[str, object] | tuple[str, object, object]:
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
    """
    place = _PLACE.fullmatch(message)
    message, path = (place["what"], place["path"]) if place else (message, "")
    if field := _FIELD.fullmatch(message):
        return f"{noun} {field['name']!r} {_HOW[field['how']]}"
    subject = f"{noun} {path!r}" if path else "the body"
    if wrong := _EXPECTED.fullmatch(message):
        return f"{subject} is {wrong['found']}, not {wrong['wanted']}".replace("`", "")
    return f"{subject}: {message}".replace("`", "")


_PLACE = re.compile(r"(?P<what>.*) - at `\$\.?(?P<path>.*)`", re.DOTALL)
_FIELD = re.compile(r"Object (?P<how>missing required|contains unknown) field `(?P<name>.*)`", re.S)
_EXPECTED = re.compile(r"Expected (?P<wanted>.*), got (?P<found>.*)", re.DOTALL)
_HOW = {"missing required": "is missing", "contains unknown": "is unknown"}
