"""Checks of what is written out in a label: kinds of feedback, patterns, texts among numbers.

A label that fails one of them could be evaluated, and would hardly ever be what was meant. So a
label that is published already is not refused for it.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping

import duckdb

from tidemill.errors import LoopError
from tidemill.schemas.loop.sql.allow_list import did_you_mean
from tidemill.schemas.loop.sql.tree import Node, children, constant_kind, constant_text

_PATTERNS = frozenset({"regexp_matches", "~~", "!~~", "~~*", "!~~*"})
# Casts of texts, in groups: the cast, the text, the type. A text with a cast in it is passed over.
_CAST = re.compile(
    r"""(?<!TRY_)\b(CAST\(('(?:[^']|'')*')\ AS\ ((?:[^()']|\([^()]*\))+)\))|'(?:[^']|'')*'""",
    re.VERBOSE,
)
_SAME_AS_A_ROW = frozenset(
    {"min", "max", "first", "last", "any_value", "arbitrary", "mode", "arg_max", "arg_min"}
    | {"argmax", "argmin", "max_by", "min_by", "list", "array_agg", "lower", "trim"}
)
"""Functions whose result is one of the values of their first argument, or a list of them."""
_SEARCHES = frozenset({"list_contains", "array_contains", "list_has"})
_COMPARISONS = frozenset({"COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_NULLIF"})


class Literals:
    """Checks the literals of one expression, which `LabelTree` has checked."""

    def __init__(self, kinds: Collection[str]) -> None:
        """Check against *kinds*: the kinds of feedback that a label reads."""
        self._kinds = kinds

    def check(self, node: Node) -> None:
        """Check *node* and everything below it.

        Raises:
            LoopError: it compares ``kind`` with what is no kind, or takes a pattern from the data.
        """
        for text in self._compared_with_kind(node):
            if text not in self._kinds:
                raise LoopError(
                    f"label compares kind with {text!r}, and reads no feedback of that kind",
                    hint=f"{did_you_mean(text, self._kinds)}kinds are {', '.join(self._kinds)}",
                )
        if _takes_pattern(node) and any(map(_reads_data, children(node)[1:])):
            raise LoopError(
                "label takes a pattern from the data, so one feedback could make it slow or an "
                "error",
                hint="write the pattern itself, or look for the text by contains(a, b)",
            )
        for child in self._below(node):
            self.check(child)

    def _below(self, node: Node) -> Iterator[Node]:
        yield from children(node)
        if node["class"] == "FUNCTION":
            yield from filter(None, [node["filter"]])
            yield from (order["expression"] for order in node["order_bys"]["orders"])

    def _compared_with_kind(self, node: Node) -> Iterator[str]:
        """Yield the texts with which *node* compares a kind."""
        is_search = node["class"] == "FUNCTION" and node["function_name"] in _SEARCHES
        if node["class"] == "COMPARISON" or node["type"] in _COMPARISONS or is_search:
            sides = children(node)
            if any(map(_is_kind, sides)):
                yield from map(constant_text, filter(_is_text, sides))


def check_casts(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Check that each text in *sql* is what DuckDB will cast it to, by the table ``feedback``.

    DuckDB casts a text to the type that it is compared with, and that fails when the first row is
    read. The plan of the query has all casts, those that nobody has written too.

    Raises:
        LoopError: a text cannot be cast to its type.
    """
    rows = connection.execute(f"EXPLAIN (FORMAT JSON) SELECT {sql} FROM feedback").fetchall()
    plan = json.loads(dict(rows)["logical_plan"])
    for text in _texts(plan):
        for cast, literal, kind in filter(all, _CAST.findall(text)):
            try:
                connection.execute(f"SELECT {cast}")
            except duckdb.Error as error:
                raise LoopError(
                    f"label takes the text {literal} for a value of type {kind}",
                    hint=f"write a value of type {kind} that can be compared, or compare texts",
                ) from error


def _texts(part: object) -> Iterator[str]:
    """Yield every text in parsed JSON."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, Mapping | list):
        for each in part.values() if isinstance(part, Mapping) else part:
            yield from _texts(each)


def _is_text(node: Node) -> bool:
    return node["class"] == "CONSTANT" and constant_kind(node) == "STRING"


def _is_kind(node: Node) -> bool:
    if node["class"] == "COLUMN_REF":
        return bool(node["column_names"] == ["kind"])
    of_rows = node["class"] == "FUNCTION" and node["function_name"] in _SAME_AS_A_ROW
    return of_rows and bool(node["arguments"]) and _is_kind(children(node)[0])


def _takes_pattern(node: Node) -> bool:
    return node["class"] == "FUNCTION" and node["function_name"] in _PATTERNS


def _reads_data(node: Node) -> bool:
    return node["class"] == "COLUMN_REF" or any(map(_reads_data, children(node)))
