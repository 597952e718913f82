"""SQL that a person has written, as a term; what workers could not run alike is refused.

DuckDB parses it. Conditions are three-valued as in SQL: a comparison with null is null.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import duckdb

from tidemill.errors import LoopError
from tidemill.schemas.loop.fields import FieldType, is_timestamp
from tidemill.schemas.loop.scalar.operations import OPERATIONS
from tidemill.schemas.loop.scalar.terms import Term, column, constant, operation
from tidemill.schemas.loop.sql.allow_list import did_you_mean
from tidemill.schemas.loop.sql.tree import (
    Node,
    children,
    constant_kind,
    constant_text,
    parse_expression,
)

_COMPARISONS = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "<>",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_DISTINCT_FROM": "distinct",
}
_FUNCTIONS = {
    **{name: name for name in ("+", "-", "*", "/", "%", "abs", "round", "floor", "ceil", "trunc")},
    **{name: name for name in ("greatest", "least", "isnan", "length", "starts_with", "ends_with")},
    **{name: name for name in ("contains", "list_contains", "len")},
    "ceiling": "ceil",
    "prefix": "starts_with",
    "suffix": "ends_with",
    "array_contains": "list_contains",
    "list_has": "list_contains",
    "array_length": "len",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HINT = "write one condition, say country = 'CH' and visits > 3"


def parse_scalar(
    connection: duckdb.DuckDBPyConnection, sql: str, columns: Mapping[str, FieldType], of: str
) -> Term:
    """Return *sql* as a term over *columns*.

    Args:
        connection: whose parser reads it.
        sql: one expression.
        columns: what it may read.
        of: what it is, for errors, say ``condition``.

    Raises:
        LoopError: it is no SQL, reads what is not there, or uses what is not in `operations`.
    """
    return _term(parse_expression(connection, sql, of), columns)


def _term(node: Node, columns: Mapping[str, FieldType]) -> Term:
    def below(part: Node) -> Term:
        return _term(part, columns)

    match node["class"]:
        case "COLUMN_REF":
            return column(".".join(name.lower() for name in node["column_names"]), columns)
        case "CONSTANT":
            return _constant(node)
        case "COMPARISON" if node["type"] == "COMPARE_NOT_DISTINCT_FROM":
            sides = operation("distinct", tuple(map(below, children(node))))
            return operation("not", (sides,))
        case "COMPARISON" if node["type"] in _COMPARISONS:
            return operation(_COMPARISONS[node["type"]], tuple(map(below, children(node))))
        case "CONJUNCTION":
            word = node["type"].removeprefix("CONJUNCTION_").lower()
            return operation(word, tuple(map(below, children(node))))
        case "BETWEEN":
            value, low, high = map(below, (node["input"], node["lower"], node["upper"]))
            bounds = (operation(">=", (value, low)), operation("<=", (value, high)))
            return operation("and", bounds)
        case "CASE":
            whens = [
                below(check[part])
                for check in node["case_checks"]
                for part in ("when_expr", "then_expr")
            ]
            return operation("case", (*whens, below(node["else_expr"])))
        case "CAST":
            return _cast(node, columns)
        case "OPERATOR":
            return _operator(node, tuple(map(below, children(node))))
        case "FUNCTION":
            return _function(node, tuple(map(below, children(node))))
    raise _refused(node["class"].lower().replace("_", " "))


def _constant(node: Node) -> Term:
    text = constant_text(node)
    match constant_kind(node):
        case "INTEGER" | "NUMERIC":
            return constant(float(text), "number")
        case "STRING":
            return constant(text, "text")
        case "BOOLEAN":
            return constant(text == "true", "bool")
        case "NULL_LITERAL":
            return constant(None, None)
    raise _refused(f"the constant {text[:50]!r}")


def _operator(node: Node, parts: tuple[Term, ...]) -> Term:
    match node["type"]:
        case "OPERATOR_NOT":
            return operation("not", parts)
        case "OPERATOR_IS_NULL":
            return operation("is null", parts)
        case "OPERATOR_IS_NOT_NULL":
            return operation("not", (operation("is null", parts),))
        case "OPERATOR_COALESCE":
            return operation("coalesce", parts)
        case "COMPARE_IN":
            return operation("in", parts)
        case "COMPARE_NOT_IN":
            return operation("not", (operation("in", parts),))
    raise _refused(node["type"].removeprefix("OPERATOR_").lower())


def _function(node: Node, parts: tuple[Term, ...]) -> Term:
    name = node["function_name"].lower()
    if len(node["qualified_name"]["path"]) > 1 or node.get("filter") or node.get("distinct"):
        raise _refused(name)
    if name == "-" and len(parts) == 1:
        return operation("negative", parts)
    if name == "if" and len(parts) == 3:
        return operation("case", parts)
    if name == "nullif" and len(parts) == 2:
        null = constant(None, parts[0].kind)
        return operation("case", (operation("=", parts), null, parts[0]))
    if name == "contains" and parts and parts[0].kind == "texts":
        name = "list_contains"
    if name not in _FUNCTIONS:
        raise _refused(name)
    return operation(_FUNCTIONS[name], parts)


def _cast(node: Node, columns: Mapping[str, FieldType]) -> Term:
    """Return a time that is written out, or a number that is cast to what it is."""
    kind, child = str(node["type_expr"].get("type_name", "")).lower(), node["child"]
    if kind in ("timestamptz", "timestamp with time zone") and child["class"] == "CONSTANT":
        return _time(constant_text(child))
    term = _term(child, columns)
    if kind == "double" and term.kind == "number":
        return term
    raise _refused(f"a cast to {kind}")


def _time(text: str) -> Term:
    if not is_timestamp(text):
        raise LoopError(
            f"{text[:50]!r} is no time with a zone",
            hint="write it as timestamptz '2026-01-01T00:00:00Z'",
        )
    moment = datetime.fromisoformat(text)
    return constant((moment - _EPOCH) // timedelta(microseconds=1), "time")


def _refused(what: str) -> LoopError:
    guess = did_you_mean(what, [*_FUNCTIONS, *OPERATIONS])
    return LoopError(f"{what} cannot be used here", hint=f"{guess}{_HINT}")
