"""The SQL subset of labels, and the rewriting that makes a label depend on its rows alone.

DuckDB parses the expression. This module walks the tree with an allow-list and refuses every
function that is not known to be pure. It adds an order to aggregates that depend on one, and wraps
expressions that can fail on a bad value, so that they give NULL.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.errors import LoopError
from tidemill.schemas.loop.fields import FieldType

Node = dict[str, Any]  # an expression in the format of DuckDB's json_serialize_sql


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ORDER_FREE = _names(
    """
    count count_star count_if countif min max bool_or bool_and bit_or bit_and bit_xor median
    quantile quantile_cont quantile_disc
    """
)
EXACT_OVER_INTEGERS = frozenset({"sum", "avg", "mean"})
"""Their result on floats depends on the order of rows, in the last bit; on integers it does not."""
ORDERED = _names(
    """
    first last any_value arbitrary list array_agg string_agg group_concat listagg arg_max
    arg_min argmax argmin max_by min_by mode product fsum kahan_sum sumkahan favg stddev
    stddev_pop stddev_samp variance var_pop var_samp
    """
)
AGGREGATES = ORDER_FREE | EXACT_OVER_INTEGERS | ORDERED
SCALARS = _names(
    """
    + - * / // % abs round floor ceil ceiling trunc sign least greatest ifnull isnan isinf
    isfinite epoch epoch_ms epoch_us to_seconds to_minutes to_hours to_days to_milliseconds
    lower upper length len trim starts_with ends_with prefix suffix contains list_contains
    array_contains list_has regexp_matches || concat ~~ !~~ ~~* !~~* list_sum list_min
    list_max list_distinct array_length
    """
)
FALLIBLE = _names(
    """
    exp ln log log2 log10 sqrt pow power ** ^
    """
)
"""Pure, but with an error for some values; inside an aggregate the error becomes NULL."""
OPERATORS = _names(
    """
    OPERATOR_NOT OPERATOR_IS_NULL OPERATOR_IS_NOT_NULL OPERATOR_COALESCE OPERATOR_NULLIF
    OPERATOR_TRY COMPARE_IN COMPARE_NOT_IN ARRAY_EXTRACT ARRAY_CONSTRUCTOR
    """
)
CHILDREN = {
    "COMPARISON": ("left", "right"),
    "CONJUNCTION": ("children",),
    "BETWEEN": ("input", "lower", "upper"),
    "CASE": ("case_checks", "when_expr", "then_expr", "else_expr"),
    "OPERATOR": ("children",),
    "FUNCTION": ("arguments", "expression"),
    "CAST": ("child",),
}
REFUSED = {
    "SUBQUERY": ("a subquery", "a label sees the feedback of its own decision and nothing else"),
    "WINDOW": ("a window function", "aggregate instead; rows come in the order of their time"),
    "PARAMETER": ("a parameter", "write the value itself"),
    "STAR": ("a star", "name the columns, or write count(*)"),
    "LAMBDA": ("a lambda", "aggregate the rows themselves, with filter (where ...)"),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns a label may read, with their types; and the forbidden names, with the reason."""

    types: Mapping[str, FieldType]
    forbidden: Mapping[str, str]


class LabelTree:
    """Checks one expression and rewrites it in place."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.aggregates = 0

    def visit(self, node: Node, *, inside: bool = False) -> None:
        """Check and rewrite *node*; *inside* says whether it is within an aggregate."""
        self._visit(node, inside=inside)
        if not inside and node["class"] == "FUNCTION" and node["function_name"] in ("+", "-", "*"):
            for argument in node["arguments"]:
                if self._is_whole(argument["expression"]):  # floats do not overflow
                    argument["expression"] = as_double(argument["expression"])

    def _visit(self, node: Node, *, inside: bool) -> None:
        kind = node["class"]
        if kind in REFUSED:
            what, hint = REFUSED[kind]
            raise LoopError(f"label uses {what}", hint=hint)
        match kind:
            case "COLUMN_REF":
                self._column(node, inside=inside)
            case "CONSTANT":
                return
            case "FUNCTION":
                self._function(node, inside=inside)
            case "OPERATOR" if node["type"] not in OPERATORS:
                raise _not_allowed(node["type"].removeprefix("OPERATOR_").lower())
            case "CAST":
                node["try_cast"] = True  # one text that is not a number must not stop a partition
                self._each(node, inside=inside)
            case _ if kind in CHILDREN:
                self._each(node, inside=inside)
            case _:
                raise _not_allowed(kind.lower())

    def _each(self, node: Node, *, inside: bool) -> None:
        for child in children(node):
            self.visit(child, inside=inside)

    def _column(self, node: Node, *, inside: bool) -> None:
        path = node["column_names"]
        name = path[-1]
        if len(path) > 1 or name not in self._columns.types:
            raise self._unknown(".".join(path))
        if not inside:
            raise LoopError(
                f"label reads {name!r} outside of an aggregate, but a decision can have many rows",
                hint=f"say which one counts, for example max({name}) or first({name})",
            )

    def _unknown(self, name: str) -> LoopError:
        if name in self._columns.forbidden:
            reason, hint = self._columns.forbidden[name], "a label is made of feedback only"
            return LoopError(
                f"label reads {name!r}, {reason}",
                hint=f"{hint}; send the value with the feedback if it belongs to the outcome",
            )
        known = sorted(self._columns.types)
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        guess = f"did you mean {close[0]}? " if close else ""
        return LoopError(
            f"label reads unknown column {name!r}",
            hint=f"{guess}columns are {', '.join(known)}",
        )

    def _function(self, node: Node, *, inside: bool) -> None:
        name = node["function_name"].lower()
        if len(node["qualified_name"]["path"]) > 1:
            raise _not_allowed(".".join(node["qualified_name"]["path"]))
        if name in AGGREGATES:
            self._aggregate(node, name, inside=inside)
        elif name not in SCALARS | FALLIBLE:
            raise _not_allowed(name)
        elif name in FALLIBLE and not inside:
            raise LoopError(
                f"label takes {name} of an aggregate, which is an error for some values",
                hint=f"aggregate over {name} instead, or let the policy use the plain value",
            )
        else:
            self._each(node, inside=inside)

    def _aggregate(self, node: Node, name: str, *, inside: bool) -> None:
        if inside:
            raise LoopError(
                f"label uses the aggregate {name} inside of another aggregate",
                hint="aggregate once; filter (where ...) selects rows",
            )
        self.aggregates += 1
        self._each(node, inside=True)
        if node["filter"]:
            self.visit(node["filter"], inside=True)
            if can_fail(node["filter"]):
                node["filter"] = tried(node["filter"])
        for order in node["order_bys"]["orders"]:
            self.visit(order["expression"], inside=True)
        for argument in node["arguments"]:
            if can_fail(argument["expression"]):
                argument["expression"] = tried(argument["expression"])
        exact = name in EXACT_OVER_INTEGERS and all(map(self._is_exact, children(node)))
        if name not in ORDER_FREE and not exact:
            node["order_bys"]["orders"] += self._order(node)

    def _order(self, node: Node) -> list[Node]:
        if node["distinct"]:  # DuckDB orders distinct values only by themselves
            return [_ascending(node["arguments"][0]["expression"])]
        return [_ascending(column("at")), _ascending(column("offset"))]

    def _is_whole(self, node: Node) -> bool:
        """Return whether *node*, outside aggregates, can be a whole number of any size."""
        if node["class"] in ("COMPARISON", "CAST", "CONSTANT"):
            return False
        if node["class"] == "FUNCTION" and node["function_name"].lower() in AGGREGATES:
            counts = node["function_name"].lower().startswith("count")
            return not counts and any(map(self._is_exact, children(node)))
        return any(map(self._is_whole, children(node)))

    def _is_exact(self, node: Node) -> bool:
        match node["class"]:
            case "COLUMN_REF":
                kind = self._columns.types.get(node["column_names"][-1])
                return kind in (FieldType.INT, FieldType.BOOL)
            case "CONSTANT":
                return bool(node["literal"]["kind"] == "INTEGER")
            case "COMPARISON":
                return True
            case "CASE":
                results = [check["then_expr"] for check in node["case_checks"]]
                return all(map(self._is_exact, [*results, node["else_expr"]]))
            case "FUNCTION" if node["function_name"] in ("+", "-", "*"):
                return all(map(self._is_exact, children(node)))
        return bool(node["type"] == "OPERATOR_TRY" and self._is_exact(node["children"][0]))


def as_double(node: Node) -> Node:
    """Return *node*, cast to a float."""
    name = {"type_name": "DOUBLE", "qualified_name": {"path": ["DOUBLE"]}}
    kind = {**_bare("TYPE", "TYPE"), "catalog": "", "schema": "", "children": [], **name}
    return {**_bare("CAST", "OPERATOR_CAST"), "child": node, "try_cast": True, "type_expr": kind}


def children(node: Node) -> list[Node]:
    """Return the expressions directly below *node*."""
    found: list[Node] = []
    for key in CHILDREN.get(node["class"], ()):
        parts = node.get(key)
        for part in parts if isinstance(parts, list) else [parts]:
            if isinstance(part, dict) and "class" in part:
                found.append(part)
            elif isinstance(part, dict):  # a named argument, or one WHEN of a CASE
                found += [part[name] for name in CHILDREN[node["class"]] if name in part]
    return found


def can_fail(node: Node) -> bool:
    """Return whether evaluating *node* can be an error for some values: overflow, logarithms."""
    if node["class"] == "FUNCTION":
        return node["function_name"].lower() in FALLIBLE | frozenset("+-*") or any(
            map(can_fail, children(node))
        )
    return any(map(can_fail, children(node)))


def tried(node: Node) -> Node:
    """Return *node*, wrapped so that an error in one row gives NULL."""
    return {**_bare("OPERATOR", "OPERATOR_TRY"), "children": [node]}


def column(name: str) -> Node:
    """Return a reference to the column *name*."""
    return {**_bare("COLUMN_REF", "COLUMN_REF"), "column_names": [name]}


def _ascending(node: Node) -> Node:
    return {"type": "ASCENDING", "null_order": "NULLS_LAST", "expression": node}


def _bare(kind: str, type_: str) -> Node:
    return {
        "class": kind,
        "type": type_,
        "alias": "",
        "query_location": 0,
        "query_location_length": 0,
    }


def _not_allowed(name: str) -> LoopError:
    known = sorted(AGGREGATES | SCALARS | FALLIBLE)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    guess = f"did you mean {close[0]}? " if close else ""
    return LoopError(
        f"label uses {name}, which is not known to depend on the feedback alone",
        hint=f"{guess}use aggregates (max, sum, count, bool_or, first, ...) and plain arithmetic",
    )
