"""A label as a query over the joined feedback, which an error in the data cannot end.

Some expressions are an error for some values: `100 % n` where n is 0, a cast of a text that is no
number. Each part of a label that could be one is evaluated by DuckDB's TRY, for each row within
aggregates and for each decision around them. So one query returns the label of every decision, or
that it is an error, and does not depend on which decisions are evaluated together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from tidemill.errors import LoopError
from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.loop.sql.allow_list import AGGREGATES, EXACT_OVER_INTEGERS
from tidemill.schemas.loop.sql.tree import (
    Node,
    as_double,
    children,
    column,
    constant_kind,
    copied,
    expression_text,
    parse_expression,
    slots,
)

_MAX_NODES = 20_000
"""`and` and `or` name their first part twice when they are guarded, so nested ones grow."""
_SEQUENCES = {
    "CONJUNCTION_AND": "CASE WHEN NOT a THEN false ELSE a AND b END",
    "CONJUNCTION_OR": "CASE WHEN a THEN true ELSE a OR b END",
}
_TRIED = "(TRY({'value': a})).value"
_SAME_TYPE = {
    "STRING": {FieldType.CATEGORY},
    "INTEGER": {FieldType.INT, FieldType.FLOAT},
    "NUMERIC": {FieldType.FLOAT},
    "FLOAT": {FieldType.FLOAT},
}
_NUMBERS = {
    "BOOLEAN": FieldType.BOOL,
    "BIGINT": FieldType.INT,
    "HUGEINT": FieldType.INT,
    "DOUBLE": FieldType.FLOAT,
}
"""The types of aggregates that become a number without an error, as fields have them."""
_TRUTHS = frozenset({"COMPARISON", "CONJUNCTION"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelQuery:
    """A checked label.

    Attributes:
        plain: the label as one aggregate over rows of feedback, an error where the data make it so.
        aggregates: the aggregates in it, which are never an error.
        value: the label as a number, from the columns ``_aggregate_0``, ``_aggregate_1``, ...
        failures: conditions, as aggregates, for rows on which a part of an aggregate is an error.
        is_sure: whether no data can make it an error, so that nothing has to be tried.
    """

    plain: str
    aggregates: tuple[str, ...]
    value: str
    failures: tuple[str, ...]
    is_sure: bool = False

    def over(
        self, rows: str, keys: Sequence[str] = (), also: Mapping[str, str] | None = None
    ) -> str:
        """Return a query for the label of each group of *rows*.

        Args:
            rows: a FROM item with the columns that a label may read.
            keys: the columns by which rows are grouped; none for a single group.
            also: more aggregates over the same groups, by the name of their column.

        Returns:
            A query with the columns *keys*, those of *also*, ``label`` (DOUBLE; null if there is
            none) and ``is_error`` (whether it could not be computed).
        """
        also = also or {}
        parts = [*keys, *(f"{sql} AS {name}" for name, sql in also.items())]
        parts += [f"{sql} AS _aggregate_{n}" for n, sql in enumerate(self.aggregates)]
        failed = " OR ".join(f"coalesce({sql}, false)" for sql in self.failures) or "false"
        by = f" GROUP BY {', '.join(keys)}" if keys else ""
        columns = "".join(f"{name}, " for name in (*keys, *also))
        if self.is_sure:
            return f"""
                SELECT {columns}{self.value} AS label, false AS is_error
                FROM (SELECT {", ".join(parts)} FROM {rows}{by})"""
        return f"""
            SELECT {columns}_label.value AS label, _label IS NULL AS is_error FROM (
                SELECT *, CASE WHEN NOT _failed THEN TRY({{'value': {self.value}}}) END AS _label
                FROM (SELECT {", ".join(parts)}, {failed} AS _failed FROM {rows}{by}))"""


def guarded(
    connection: duckdb.DuckDBPyConnection,
    expression: Node,
    types: Mapping[str, FieldType],
    *,
    is_bool: bool,
) -> LabelQuery:
    """Return the query for *expression*, which `LabelTree` has checked.

    *types* are the columns of the table ``feedback`` that *connection* has.

    Raises:
        LoopError: it nests too many `and` and `or`.
    """
    guards = _Guards(connection, types)
    value = guards.split(copied(expression))
    text = expression_text(connection, value)
    if is_bool:
        number = f"CAST(CAST({text} AS BOOLEAN) AS DOUBLE)"
    else:
        number = f"CAST({text} AS DOUBLE)"
        number = f"CASE WHEN isfinite({number}) THEN {number} END"
    return LabelQuery(
        plain=expression_text(connection, expression),
        aggregates=tuple(guards.aggregates),
        value=number,
        failures=tuple(guards.failures),
        is_sure=not guards.failures and guards.is_number(value),
    )


class _Guards:
    """Splits one expression into aggregates over rows and what is computed from them."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, types: Mapping[str, FieldType]
    ) -> None:
        self._connection = connection
        self._types = types
        self.aggregates: list[str] = []
        self.failures: list[str] = []

    def split(self, node: Node) -> Node:
        """Return *node* with columns instead of aggregates, which are added to `aggregates`."""
        if node["class"] == "FUNCTION" and node["function_name"] in AGGREGATES:
            text = self._aggregate(node)
            if text not in self.aggregates:
                self.aggregates.append(text)
            return column(f"_aggregate_{self.aggregates.index(text)}")
        for holder, key in slots(node):
            holder[key] = self.split(holder[key])
        return self._in_sequence(node)

    def is_number(self, node: Node) -> bool:
        """Return whether *node*, over `aggregates`, becomes a number or a truth for all data."""
        for number, sql in enumerate(self.aggregates):
            query = f"DESCRIBE SELECT {sql} FROM feedback"
            [(_, kind, *_)] = self._connection.execute(query).fetchall()
            if kind in _NUMBERS:
                self._types = {**self._types, f"_aggregate_{number}": _NUMBERS[kind]}
        if node["class"] == "COLUMN_REF":
            return self._types.get(node["column_names"][-1]) in _NUMBERS.values()
        return node["class"] in _TRUTHS and not self._can_fail(node)

    def _aggregate(self, node: Node) -> str:
        """Return the aggregate *node* as SQL that is never an error."""
        selected = ""
        if node["filter"]:
            node["filter"] = self._tried(node["filter"], "")
            selected = f" FILTER (WHERE {self._text(node['filter'])})"
        for argument in node["arguments"]:
            value = argument["expression"]
            if node["function_name"] in EXACT_OVER_INTEGERS and self._can_fail(value):
                value = self._summable(value)
            argument["expression"] = self._tried(value, selected)
        for order in node["order_bys"]["orders"]:
            order["expression"] = self._tried(order["expression"], selected)
        return self._text(node)

    def _summable(self, node: Node) -> Node:
        """Return *node* so that no number of its values can overflow in a sum.

        DuckDB adds up 64 bits in 128. What has 128 already is an error beyond 26 digits instead.
        """
        query = f"DESCRIBE SELECT {self._text(node)} FROM feedback"
        [(_, kind, *_)] = self._connection.execute(query).fetchall()
        if kind in ("HUGEINT", "UHUGEINT"):
            return self._filled("CAST(CAST(a AS DECIMAL(26, 0)) AS HUGEINT)", a=node)
        return as_double(node) if str(kind).startswith("DECIMAL(38") else node

    def _tried(self, node: Node, selected: str) -> Node:
        """Return *node* so that it is null where it is an error; the error counts in *selected*."""
        if not self._can_fail(node):
            return node
        sequence = self._all_in_sequence(copied(node))
        failure = f"bool_or(TRY({{'value': {self._text(sequence)}}}) IS NULL){selected}"
        if failure not in self.failures:
            self.failures.append(failure)
        return self._filled(_TRIED, a=sequence)

    def _all_in_sequence(self, node: Node) -> Node:
        for holder, key in slots(node):
            holder[key] = self._all_in_sequence(holder[key])
        return self._in_sequence(node)

    def _in_sequence(self, node: Node) -> Node:
        """Return *node*, if it is `and` or `or`, so that a part is evaluated only if it counts.

        DuckDB may evaluate all parts, or leave out some by statistics of the data, so that whether
        there is an error would depend on more than the rows of one decision.
        """
        sequence = _SEQUENCES.get(node["type"])
        if sequence is None or not any(map(self._can_fail, node["children"][1:])):
            return node
        *before, sequel = node["children"]
        for part in reversed(before):
            sequel = self._filled(sequence, a=part, b=sequel)
        return dict(sequel)

    def _filled(self, template: str, **parts: Node) -> Node:
        """Return the tree of *template* with *parts* instead of its columns of their names."""
        tree = _replaced(parse_expression(self._connection, template), parts)
        if _size(tree) > _MAX_NODES:
            raise LoopError(
                "label nests too many conditions", hint="write them as case when ... then ... end"
            )
        return tree

    def _can_fail(self, node: Node) -> bool:
        """Return whether *node* could be an error for some values."""
        match node["class"]:
            case "COLUMN_REF" | "CONSTANT":
                return False
            case "COMPARISON":
                return not self._compares_alike(node["left"], node["right"])
            case "CONJUNCTION":
                return any(map(self._can_fail, node["children"]))
            case "OPERATOR" if node["type"] in (
                "OPERATOR_NOT",
                "OPERATOR_IS_NULL",
                "OPERATOR_IS_NOT_NULL",
            ):
                return any(map(self._can_fail, node["children"]))
            case "OPERATOR" if node["type"] == "OPERATOR_COALESCE":
                first, *others = node["children"]
                return not all(self._compares_alike(first, other) for other in others)
        return True

    def _compares_alike(self, left: Node, right: Node) -> bool:
        """Return whether no cast that could fail is needed to compare the two."""
        if left["class"] == "CONSTANT":
            left, right = right, left
        if left["class"] != "COLUMN_REF":
            return False
        kind = self._types.get(left["column_names"][-1])
        if right["class"] == "COLUMN_REF":
            return kind is not None and kind == self._types.get(right["column_names"][-1])
        return right["class"] == "CONSTANT" and kind in _SAME_TYPE.get(constant_kind(right), ())

    def _text(self, node: Node) -> str:
        return expression_text(self._connection, node)


def _replaced(node: Node, parts: Mapping[str, Node]) -> Node:
    if node["class"] == "COLUMN_REF" and node["column_names"][-1] in parts:
        return parts[node["column_names"][-1]]
    for holder, key in slots(node):
        holder[key] = _replaced(holder[key], parts)
    return node


def _size(node: Node) -> int:
    """Return how many expressions *node* has, or more than `_MAX_NODES` if there are so many."""
    waiting, count = [node], 0
    while waiting and count <= _MAX_NODES:
        count += 1
        waiting += children(waiting.pop())
    return count
