"""Features and feedback values: what a field of an event may hold, and the error of a wrong one."""

import math
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

NAME = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
FIELD = r"^[a-z][a-z0-9_]*$"
FieldName = Annotated[str, Field(pattern=FIELD, max_length=100)]
LONG = 2**63


def wrong(what: str, *, hint: str, at: tuple[str, ...] = ()) -> PydanticCustomError:
    """Return an error for a validator to raise: *what*, a *hint*, and its path below the value."""
    context: dict[str, Any] = {"what": what, "hint": hint, "at": at}
    return PydanticCustomError("loop", "{what}\n  hint: {hint}", context)


class Value(BaseModel):
    """An immutable part of a loop definition; it refuses unknown keys and lax conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FieldType(StrEnum):
    """What a feature or a feedback value may hold."""

    FLOAT = "float"
    INT = "int"
    BOOL = "bool"
    CATEGORY = "category"
    CATEGORIES = "categories"
    TIMESTAMP = "timestamp"


_EXAMPLES = {
    FieldType.FLOAT: "a finite number, say 0.5",
    FieldType.INT: "a whole number of 64 bits, say 0",
    FieldType.BOOL: "true or false",
    FieldType.CATEGORY: 'a text, say "other"',
    FieldType.CATEGORIES: 'a list of texts, say ["other"]',
    FieldType.TIMESTAMP: 'a time with its zone, say "2013-01-01T00:00:00Z"',
}


def is_timestamp(text: str) -> bool:
    """Return whether *text* is an ISO 8601 time with a time zone."""
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def fits(value: object, kind: FieldType) -> bool:
    """Return whether *value*, from YAML or JSON, is legal for a field of type *kind*."""
    match kind:
        case FieldType.FLOAT:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and math.isfinite(value)  # type: ignore[arg-type]  # narrowed above
        case FieldType.INT:
            whole = isinstance(value, int) and not isinstance(value, bool)
            return whole and -LONG <= value < LONG  # type: ignore[operator]  # narrowed above
        case FieldType.BOOL:
            return isinstance(value, bool)
        case FieldType.CATEGORY:
            return isinstance(value, str)
        case FieldType.CATEGORIES:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case FieldType.TIMESTAMP:
            return isinstance(value, str) and is_timestamp(value)


class Feature(Value):
    """One input of the model, known when the decision is requested; or one value of a feedback.

    ``distance: float`` in YAML is short for ``distance: {type: float}``. *default* replaces a value
    that is not sent, and lets newer code read events older than the field.
    """

    type: FieldType = Field(strict=False)
    nullable: bool = False
    default: bool | int | float | str | list[str] | None = None
    description: str = ""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return {"type": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _default_fits(self) -> Self:
        if self.default is not None and not fits(self.default, self.type):
            raise wrong(
                f"default {self.default!r} is not of type {self.type}",
                hint=f"write {_EXAMPLES[self.type]}, or leave default out",
                at=("default",),
            )
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Let editors accept the short form too."""
        long_form = handler.resolve_ref_schema(handler(schema))
        return {"anyOf": [{"enum": [kind.value for kind in FieldType]}, long_form]}
