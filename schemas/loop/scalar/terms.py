"""Typed trees of operations: what a scalar expression is on its way from a person to a worker.

A term exists only if its kinds fit, whether it was made from SQL or from JSON that somebody sent.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tidemill.errors import LoopError
from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.loop.scalar.operations import OPERATIONS, Kind, Operation, TermValue

MAX_TERMS = 1_000
"""How many operations, constants and columns one expression may have."""
MAX_DEPTH = 100
CONSTANT, COLUMN = "constant", "column"
KINDS: Mapping[FieldType, Kind] = {
    FieldType.FLOAT: "number",
    FieldType.INT: "number",
    FieldType.BOOL: "bool",
    FieldType.CATEGORY: "text",
    FieldType.CATEGORIES: "texts",
    FieldType.TIMESTAMP: "time",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SQL_TYPES: Mapping[Kind, str] = {
    "number": "DOUBLE",
    "bool": "BOOLEAN",
    "text": "VARCHAR",
    "texts": "VARCHAR[]",
    "time": "TIMESTAMPTZ",
}


@dataclass(frozen=True, slots=True)
class Term:
    """An operation with its arguments, a constant, or a column.

    Attributes:
        op: the name of the operation, or ``constant`` or ``column``.
        kind: the kind of its value; None of a null whose kind is still open.
        parts: the arguments.
        value: of a constant its value, of a column its name.
    """

    op: str
    kind: Kind | None
    parts: tuple["Term", ...] = ()
    value: TermValue = None

    def columns(self) -> set[str]:
        """Return the names of the columns that it reads."""
        if self.op == COLUMN:
            return {str(self.value)}
        return set[str]().union(*(part.columns() for part in self.parts))


def constant(value: TermValue, kind: Kind | None) -> Term:
    """Return a constant; a *value* of None is a null."""
    return Term(CONSTANT, kind, (), value)


def operation(op: str, parts: tuple[Term, ...]) -> Term:
    """Return *op* of *parts*.

    Raises:
        LoopError: there is no such operation, or the kinds of the parts do not fit.
    """
    known = OPERATIONS.get(op)
    if known is None:
        raise LoopError(f"{op[:50]!r} is no operation", hint=f"there are {', '.join(OPERATIONS)}")
    _check_count(op, known, len(parts))
    if op == "case":
        return _case(parts)
    wanted = known.takes * len(parts) if known.most else known.takes
    shared = next((part.kind for part in parts if part.kind is not None), None)
    for part, kind in zip(parts, wanted, strict=True):
        if part.kind not in (None, kind or shared):
            raise LoopError(
                f"{op} is given a {part.kind} where a {kind or shared} belongs",
                hint="compare and combine values of one kind",
            )
    if op in ("<", "<=", ">", ">=") and shared == "texts":
        raise LoopError("lists have no order", hint="look for a text by list_contains(tags, 'new')")
    if op in ("=", "<>", "in", "distinct") and shared == "texts":
        raise LoopError("lists are not compared", hint="use list_contains(tags, 'new')")
    return Term(op, known.gives or shared, parts)


def _case(parts: tuple[Term, ...]) -> Term:
    conditions, values = parts[:-1:2], (*parts[1::2], parts[-1])
    for condition in conditions:
        if condition.kind not in (None, "bool"):
            raise LoopError(
                f"a condition of case is a {condition.kind}", hint="compare it with a value"
            )
    kinds = {value.kind for value in values} - {None}
    if len(kinds) > 1:
        raise LoopError(
            f"a case gives {' or '.join(sorted(map(str, kinds)))}", hint="give values of one kind"
        )
    return Term("case", next(iter(kinds), None), parts)


def _check_count(op: str, known: Operation, count: int) -> None:
    least = 3 if op == "case" else 2 if known.most else len(known.takes)
    most = known.most or len(known.takes)
    if not least <= count <= most or (op == "case" and count % 2 == 0):
        raise LoopError(f"{op} is given {count} arguments", hint=f"give it {least} to {most}")


def to_json(term: Term) -> object:
    """Return *term* as lists and plain values, which `from_json` reads."""
    if term.op == COLUMN:
        return [COLUMN, term.value]
    if term.op == CONSTANT:
        value = term.value
        if isinstance(value, float) and not math.isfinite(value):
            value = repr(value)
        return [CONSTANT, term.kind, value]
    return [term.op, *map(to_json, term.parts)]


def from_json(value: object, columns: Mapping[str, FieldType]) -> Term:
    """Return the term of *value*, which somebody else has made, over *columns*.

    Raises:
        LoopError: it is no term, it is too large, its kinds do not fit, or it reads what is not
            there.
    """
    left = iter(range(MAX_TERMS))
    return _read(value, columns, left, 0)


def _read(value: object, columns: Mapping[str, FieldType], left: Iterator[int], depth: int) -> Term:
    if next(left, None) is None or depth > MAX_DEPTH:
        raise LoopError(
            f"an expression has over {MAX_TERMS:,} parts, or is over {MAX_DEPTH} deep",
            hint="make several of it",
        )
    match value:
        case ["column", str(name)]:
            return column(name, columns)
        case ["constant", kind, held]:
            return _constant(kind, held)
        case [str(op), *parts]:
            return operation(op, tuple(_read(each, columns, left, depth + 1) for each in parts))
    raise LoopError(f"{json.dumps(value)[:100]} is no term", hint="make it from SQL")


def column(name: str, columns: Mapping[str, FieldType]) -> Term:
    """Return the column *name*.

    Raises:
        LoopError: there is none.
    """
    kind = columns.get(name)
    if kind is None:
        raise LoopError(
            f"{name[:100]!r} is no column here", hint=f"there are {', '.join(sorted(columns))}"
        )
    return Term(COLUMN, KINDS[kind], (), name)


def _constant(kind: object, held: object) -> Term:
    match kind, held:
        case (("number" | "bool" | "text" | "texts" | "time" | None), None):
            return constant(None, kind)
        case "number", float() | int() if not isinstance(held, bool):
            return constant(float(held), "number")
        case "number", "inf" | "-inf" | "nan":
            return constant(float(held), "number")
        case "bool", bool():
            return constant(held, "bool")
        case "text", str():
            return constant(held, "text")
        case "time", int() if not isinstance(held, bool) and abs(held) < 2**62:
            return constant(held, "time")
    raise LoopError(f"{json.dumps(held)[:100]} is no {kind}", hint="make the term from SQL")


def to_sql(term: Term, name_of: Callable[[str], str]) -> str:
    """Return *term* as SQL of DuckDB; *name_of* gives the SQL of a column, of the right type."""
    if term.op == COLUMN:
        return name_of(str(term.value))
    if term.op == CONSTANT:
        return _constant_sql(term)
    parts = [to_sql(part, name_of) for part in term.parts]
    match OPERATIONS[term.op].sql:
        case "AND" | "OR" as word:
            return f"({f' {word} '.join(parts)})"
        case "IN":
            return f"({parts[0]} IN ({', '.join(parts[1:])}))"
        case "CASE":
            whens = zip(parts[:-1:2], parts[1::2], strict=True)
            listed = " ".join(f"WHEN {when} THEN {then}" for when, then in whens)
            return f"(CASE {listed} ELSE {parts[-1]} END)"
        case sql if OPERATIONS[term.op].most:
            return sql.format(", ".join(parts))
        case sql:
            return sql.format(*parts)


def _constant_sql(term: Term) -> str:
    kind, value = term.kind, term.value
    if value is None:
        return f"CAST(NULL AS {_SQL_TYPES[kind]})" if kind else "NULL"
    if kind == "time":
        text = (_EPOCH + timedelta(microseconds=int(value))).isoformat()  # type: ignore[arg-type]  # an int
    elif kind == "number":
        text = repr(value)
    elif kind == "bool":
        return str(value).lower()
    else:
        text = str(value)
    quoted = "'" + text.replace("'", "''") + "'"
    return quoted if kind == "text" else f"CAST({quoted} AS {_SQL_TYPES[kind or 'text']})"
