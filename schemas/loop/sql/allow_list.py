"""The SQL subset of labels, and the rewriting that makes a label depend on its rows alone.

This module walks the tree of an expression with an allow-list, refuses every function that is not
known to be pure, and adds an order to aggregates that depend on one. What can fail on the data of a
feedback is guarded in `label_query.py`.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tidemill.errors import LoopError
from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.loop.sql.tree import (
    CHILDREN,
    Node,
    as_double,
    ascending,
    children,
    column,
    constant_kind,
    constant_text,
)


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
"""Pure, but with an error for most values that are not positive: not of an aggregate."""
AT_MOST = {
    **dict.fromkeys(("min", "max"), 1),
    **dict.fromkeys(("arg_max", "arg_min", "argmax", "argmin", "max_by", "min_by"), 2),
}
"""How many arguments these take for one value; one more says how many values they return."""
MOST_VALUES = 1_000
OPERATORS = _names(
    """
    OPERATOR_NOT OPERATOR_IS_NULL OPERATOR_IS_NOT_NULL OPERATOR_COALESCE OPERATOR_NULLIF
    OPERATOR_TRY COMPARE_IN COMPARE_NOT_IN ARRAY_EXTRACT ARRAY_CONSTRUCTOR
    """
)
REFUSED = {
    "SUBQUERY": ("a subquery", "a label sees the feedback of its own decision and nothing else"),
    "WINDOW": ("a window function", "aggregate instead; rows come in the order of their time"),
    "PARAMETER": ("a parameter", "write the value itself"),
    "STAR": ("a star", "name the columns, or write count(*)"),
    "LAMBDA": ("a lambda", "aggregate the rows themselves, with filter (where ...)"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What a label may read.

    Attributes:
        types: the columns, with their types.
        forbidden: names that it may not read, with the reason.
    """

    types: Mapping[str, FieldType]
    forbidden: Mapping[str, str]


class LabelTree:
    """Checks one expression and rewrites it in place; names are in lower case then."""

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
            case _ if kind in CHILDREN:
                self._each(node, inside=inside)
            case _:
                raise _not_allowed(kind.lower())

    def _each(self, node: Node, *, inside: bool) -> None:
        for child in children(node):
            self.visit(child, inside=inside)

    def _column(self, node: Node, *, inside: bool) -> None:
        path = node["column_names"] = [name.lower() for name in node["column_names"]]
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
        return LoopError(
            f"label reads unknown column {name!r}",
            hint=f"{did_you_mean(name, known, 0.5)}columns are {', '.join(known)}",
        )

    def _function(self, node: Node, *, inside: bool) -> None:
        name = node["function_name"] = node["function_name"].lower()
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
        more = children(node)[AT_MOST.get(name, len(node["arguments"])) :]
        if not all(map(_is_small_number, more)):
            raise LoopError(
                f"how many values {name} returns is no number from 1 to {MOST_VALUES}",
                hint=f"write the number itself, or leave it out: {name} returns one value then",
            )
        self.aggregates += 1
        self._each(node, inside=True)
        if node["filter"]:
            self.visit(node["filter"], inside=True)
        for order in node["order_bys"]["orders"]:
            self.visit(order["expression"], inside=True)
        exact = name in EXACT_OVER_INTEGERS and all(map(self._is_exact, children(node)))
        if name not in ORDER_FREE and not exact:
            node["order_bys"]["orders"] += self._order(node)

    def _order(self, node: Node) -> list[Node]:
        if node["distinct"]:  # DuckDB orders distinct values only by themselves
            return [ascending(node["arguments"][0]["expression"])]
        return [ascending(column("at")), ascending(column("offset"))]

    def _is_whole(self, node: Node) -> bool:
        """Return whether *node*, outside aggregates, can be a whole number of any size."""
        if node["class"] in ("COMPARISON", "CAST", "CONSTANT"):
            return False
        if node["class"] == "FUNCTION" and node["function_name"] in AGGREGATES:
            counts = node["function_name"].startswith("count")
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


def _is_small_number(node: Node) -> bool:
    is_number = node["class"] == "CONSTANT" and constant_kind(node) == "INTEGER"
    return is_number and 1 <= int(constant_text(node)) <= MOST_VALUES


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the beginning of a hint, with the one of *known* that *name* resembles, if any."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]}? " if close else ""


def _not_allowed(name: str) -> LoopError:
    guess = did_you_mean(name, AGGREGATES | SCALARS | FALLIBLE)
    return LoopError(
        f"label uses {name}, which is not known to depend on the feedback alone",
        hint=f"{guess}use aggregates (max, sum, count, bool_or, first, ...) and plain arithmetic",
    )
