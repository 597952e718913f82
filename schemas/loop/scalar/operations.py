"""The operations of scalar expressions: kinds, SQL and meaning, one beside the other.

Numbers are doubles, also those of whole features, so that no operation can fail or depend on a type
that nobody wrote. NaN equals itself and is above all other numbers, as DuckDB has it. What is not
here differs between DuckDB and Python (the case of letters, say), or can fail on the data.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

Kind = Literal["number", "bool", "text", "texts", "time"]
TermValue = float | bool | str | list[str] | int | None
"""A value: a number, a bool, a text, a list of texts, or a time in microseconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation.

    Attributes:
        takes: the kinds of its arguments; None for any one kind, the same for all of them.
        gives: the kind of its result; None for that of its arguments.
        sql: its SQL, with a place for each argument; with one place, arguments are listed there.
        meaning: what it is in Python; of an operation that is not *strict* it takes None too.
        is_strict: whether it is null where an argument is.
        most: how many arguments it may take, if that is open.
    """

    takes: tuple[Kind | None, ...]
    gives: Kind | None
    sql: str
    meaning: Callable[..., TermValue]
    is_strict: bool = True
    most: int | None = None


def _key(value: float) -> tuple[bool, float]:
    """Return what orders numbers as DuckDB does."""
    return (True, 0.0) if value != value else (False, value)  # NaN alone does


def _compared(test: Callable[[object, object], bool]) -> Callable[[TermValue, TermValue], bool]:
    def compare(left: TermValue, right: TermValue) -> bool:
        if isinstance(left, float) and isinstance(right, float):
            return test(_key(left), _key(right))
        return test(left, right)

    return compare


def _divided(left: float, right: float) -> float:
    if right:
        return left / right
    if not left or left != left:  # NaN
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


def _rest(left: float, right: float) -> float:
    return math.nan if not right or math.isinf(left) else math.fmod(left, right)


def _rounded(value: float) -> float:
    """Return the nearest whole number; of two the one that is further from zero."""
    if not math.isfinite(value):
        return value
    whole = math.trunc(value)
    if abs(value - whole) >= 0.5:
        whole += 1 if value > 0 else -1
    return math.copysign(float(whole), value)


def _whole(down: Callable[[float], int], value: float) -> float:
    return math.copysign(float(down(value)), value) if math.isfinite(value) else value


def _floor(value: float) -> float:
    return float(math.floor(value)) if value and math.isfinite(value) else value


def _length(value: str | list[str]) -> float:
    return float(len(value))


def _all_of(*values: TermValue) -> bool | None:
    if any(value is False for value in values):
        return False
    return None if None in values else True


def _any_of(*values: TermValue) -> bool | None:
    if any(value is True for value in values):
        return True
    return None if None in values else False


def _first_known(*values: TermValue) -> TermValue:
    return next((value for value in values if value is not None), None)


def _extreme(is_further: Callable[[object, object], bool], *values: TermValue) -> TermValue:
    found: TermValue = None
    for value in values:
        if value is not None and (found is None or _compared(is_further)(value, found)):
            found = value
    return found


def _is_in(value: TermValue, *among: TermValue) -> bool | None:
    if value is None:
        return None
    if any(each is not None and _equal(value, each) for each in among):
        return True
    return None if None in among else False


def _case(*parts: TermValue) -> TermValue:
    """Return the value behind the first condition that is true; the last part is for none."""
    for place in range(0, len(parts) - 1, 2):
        if parts[place] is True:
            return parts[place + 1]
    return parts[-1]


def _differs(left: TermValue, right: TermValue) -> bool:
    if left is None or right is None:
        return left is not right
    return not _equal(left, right)


_equal = _compared(lambda left, right: left == right)
_less = _compared(lambda left, right: left < right)  # type: ignore[operator]  # of one kind
_MANY = 1_000

OPERATIONS: Mapping[str, Operation] = {
    "=": Operation(takes=(None, None), gives="bool", sql="({} = {})", meaning=_equal),
    "<>": Operation(
        takes=(None, None), gives="bool", sql="({} <> {})", meaning=lambda a, b: not _equal(a, b)
    ),
    "<": Operation(takes=(None, None), gives="bool", sql="({} < {})", meaning=_less),
    "<=": Operation(
        takes=(None, None), gives="bool", sql="({} <= {})", meaning=lambda a, b: not _less(b, a)
    ),
    ">": Operation(
        takes=(None, None), gives="bool", sql="({} > {})", meaning=lambda a, b: _less(b, a)
    ),
    ">=": Operation(
        takes=(None, None), gives="bool", sql="({} >= {})", meaning=lambda a, b: not _less(a, b)
    ),
    "distinct": Operation(
        takes=(None, None),
        gives="bool",
        sql="({} IS DISTINCT FROM {})",
        meaning=_differs,
        is_strict=False,
    ),
    "and": Operation(
        takes=("bool",), gives="bool", sql="AND", meaning=_all_of, is_strict=False, most=_MANY
    ),
    "or": Operation(
        takes=("bool",), gives="bool", sql="OR", meaning=_any_of, is_strict=False, most=_MANY
    ),
    "not": Operation(takes=("bool",), gives="bool", sql="(NOT {})", meaning=lambda a: not a),
    "is null": Operation(
        takes=(None,),
        gives="bool",
        sql="({} IS NULL)",
        meaning=lambda a: a is None,
        is_strict=False,
    ),
    "in": Operation(
        takes=(None,), gives="bool", sql="IN", meaning=_is_in, is_strict=False, most=_MANY
    ),
    "case": Operation(
        takes=(None,), gives=None, sql="CASE", meaning=_case, is_strict=False, most=_MANY
    ),
    "coalesce": Operation(
        takes=(None,),
        gives=None,
        sql="coalesce({})",
        meaning=_first_known,
        is_strict=False,
        most=_MANY,
    ),
    "greatest": Operation(
        takes=("number",),
        gives="number",
        sql="greatest({})",
        meaning=partial(_extreme, lambda a, b: a > b),  # type: ignore[operator]  # numbers
        is_strict=False,
        most=_MANY,
    ),
    "least": Operation(
        takes=("number",),
        gives="number",
        sql="least({})",
        meaning=partial(_extreme, lambda a, b: a < b),  # type: ignore[operator]  # numbers
        is_strict=False,
        most=_MANY,
    ),
    "+": Operation(
        takes=("number", "number"), gives="number", sql="({} + {})", meaning=lambda a, b: a + b
    ),
    "-": Operation(
        takes=("number", "number"), gives="number", sql="({} - {})", meaning=lambda a, b: a - b
    ),
    "*": Operation(
        takes=("number", "number"), gives="number", sql="({} * {})", meaning=lambda a, b: a * b
    ),
    "/": Operation(takes=("number", "number"), gives="number", sql="({} / {})", meaning=_divided),
    "%": Operation(takes=("number", "number"), gives="number", sql="({} % {})", meaning=_rest),
    "negative": Operation(takes=("number",), gives="number", sql="(- {})", meaning=lambda a: -a),
    "abs": Operation(takes=("number",), gives="number", sql="abs({})", meaning=abs),
    "round": Operation(takes=("number",), gives="number", sql="round({})", meaning=_rounded),
    "floor": Operation(takes=("number",), gives="number", sql="floor({})", meaning=_floor),
    "ceil": Operation(
        takes=("number",), gives="number", sql="ceil({})", meaning=partial(_whole, math.ceil)
    ),
    "trunc": Operation(
        takes=("number",), gives="number", sql="trunc({})", meaning=partial(_whole, math.trunc)
    ),
    "isnan": Operation(takes=("number",), gives="bool", sql="isnan({})", meaning=math.isnan),
    "length": Operation(
        takes=("text",),
        gives="number",
        sql="CAST(length({}) AS DOUBLE)",
        meaning=_length,
    ),
    "starts_with": Operation(
        takes=("text", "text"), gives="bool", sql="starts_with({}, {})", meaning=str.startswith
    ),
    "ends_with": Operation(
        takes=("text", "text"), gives="bool", sql="ends_with({}, {})", meaning=str.endswith
    ),
    "contains": Operation(
        takes=("text", "text"), gives="bool", sql="contains({}, {})", meaning=lambda a, b: b in a
    ),
    "list_contains": Operation(
        takes=("texts", "text"),
        gives="bool",
        sql="list_contains({}, {})",
        meaning=lambda a, b: b in a,
    ),
    "len": Operation(
        takes=("texts",),
        gives="number",
        sql="CAST(len({}) AS DOUBLE)",
        meaning=_length,
    ),
}
"""Every operation by its name. *case* takes conditions and values in turn, then a value."""
