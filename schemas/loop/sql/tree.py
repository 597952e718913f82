"""One SQL expression as the tree of DuckDB's own parser, and back to text.

A tree is what `json_serialize_sql` returns: nested mappings, each with a `class` and a `type`.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from tidemill.errors import LoopError

Node = dict[str, Any]

MAX_DEPTH = 100
"""How deep the operators of one expression may be nested; Python and DuckDB recurse over them."""

CHILDREN: Mapping[str, tuple[str, ...]] = {
    "COMPARISON": ("left", "right"),
    "CONJUNCTION": ("children",),
    "BETWEEN": ("input", "lower", "upper"),
    "CASE": ("case_checks", "when_expr", "then_expr", "else_expr"),
    "OPERATOR": ("children",),
    "FUNCTION": ("arguments", "expression"),
    "CAST": ("child",),
}

_FROM = " FROM feedback"
_HINTS = {
    "label": "write one aggregate expression, say max(arr_delay) > 15",
    "condition": "write one condition, say country = 'CH' and visits > 3",
    "reward": "write one expression, say label - case when action = 'coupon' then 0.1 else 0 end",
}


def parse_expression(connection: duckdb.DuckDBPyConnection, sql: str, of: str = "label") -> Node:
    """Return the tree of *sql*, which has to be exactly one expression.

    Args:
        connection: whose parser reads it.
        sql: the expression.
        of: what it is, for errors: a label or a reward.

    Raises:
        LoopError: it is no SQL, not one expression, or nested deeper than `MAX_DEPTH`.
    """
    # Alone it cannot close a bracket of ours, and in brackets it cannot be more than an expression.
    alone = _selected(connection, sql, of)
    _selected(connection, f"({sql}\n)", of)
    return alone


def expression_text(connection: duckdb.DuckDBPyConnection, node: Node) -> str:
    """Return *node* as SQL."""
    tree = _tree(connection, f"SELECT 1{_FROM}", "label")
    tree["statements"][0]["node"]["select_list"] = [node]
    row = connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchone()
    text = str(row[0]) if row else ""
    return text.removeprefix("SELECT ").removesuffix(_FROM)


def copied(node: Node) -> Node:
    """Return a copy of *node*; `copy.deepcopy` would recurse six times for each operator."""
    return dict(json.loads(json.dumps(node)))


def children(node: Node) -> list[Node]:
    """Return the expressions directly below *node*."""
    return [parent[key] for parent, key in slots(node)]


def slots(node: Node) -> Iterator[tuple[Any, Any]]:
    """Yield the place of each expression directly below *node*: what holds it, and its key."""
    keys = CHILDREN.get(node["class"], ())
    for key in keys:
        part = node.get(key)
        if isinstance(part, dict) and "class" in part:
            yield node, key
        for number, item in enumerate(part if isinstance(part, list) else ()):
            if "class" in item:
                yield part, number
            else:  # a named argument, or one WHEN of a CASE
                yield from ((item, name) for name in keys if name in item)


def constant_kind(node: Node) -> str:
    """Return what the constant *node* is: STRING, INTEGER, NUMERIC, and so on."""
    return str(node["literal"]["kind"])


def constant_text(node: Node) -> str:
    """Return the constant *node* as it is written, a text without quotes."""
    return str(node["literal"].get("text", ""))


def column(*names: str) -> Node:
    """Return a reference to a column, or to a field of a struct."""
    return {**bare("COLUMN_REF", "COLUMN_REF"), "column_names": list(names)}


def as_double(node: Node) -> Node:
    """Return *node*, cast to a float."""
    name = {"type_name": "DOUBLE", "qualified_name": {"path": ["DOUBLE"]}}
    kind = {**bare("TYPE", "TYPE"), "catalog": "", "schema": "", "children": [], **name}
    return {**bare("CAST", "OPERATOR_CAST"), "child": node, "try_cast": True, "type_expr": kind}


def ascending(node: Node) -> Node:
    """Return an ORDER BY item for *node*."""
    return {"type": "ASCENDING", "null_order": "NULLS_LAST", "expression": node}


def bare(kind: str, type_: str) -> Node:
    """Return what every node has."""
    return {
        "class": kind,
        "type": type_,
        "alias": "",
        "query_location": 0,
        "query_location_length": 0,
    }


def _selected(connection: duckdb.DuckDBPyConnection, sql: str, of: str) -> Node:
    """Return the only expression that a query selects."""
    try:
        tree = _tree(connection, f"SELECT {sql}\n{_FROM}", of)
        node = tree["statements"][0]["node"]
        if len(tree["statements"]) != 1 or node["type"] != "SELECT_NODE":
            raise _not_one_expression(of)
        if len(node["select_list"]) != 1 or node["select_list"][0]["alias"]:
            raise _not_one_expression(of)
        [expression] = node["select_list"]
        if _depth(expression) > MAX_DEPTH:
            raise RecursionError
    except RecursionError as error:
        raise LoopError(
            f"{of} nests operators more than {MAX_DEPTH} deep",
            hint="write it flatter: count(*) filter (where ...), in (...), or case with many whens",
        ) from error
    return dict(expression)


def _tree(connection: duckdb.DuckDBPyConnection, query: str, of: str) -> Node:
    try:
        [text] = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchone() or [""]
    except duckdb.Error as error:
        raise _no_sql(str(error).splitlines()[0], of) from error
    tree = dict(json.loads(text))
    if tree["error"]:
        raise _no_sql(tree["error_message"], of)
    return tree


def _depth(node: Node) -> int:
    """Return how deep expressions are nested in *node*; found without recursion."""
    deepest = 0
    waiting: list[tuple[Any, int]] = [(node, 0)]
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, dict):
            depth += "class" in part
            deepest = max(deepest, depth)
            waiting += ((each, depth) for each in part.values())
        elif isinstance(part, list):
            waiting += ((each, depth) for each in part)
    return deepest


def _no_sql(message: str, of: str) -> LoopError:
    if "expression depth" in message:
        raise RecursionError(message)
    return LoopError(f"{of} is not SQL: {message}", hint=_HINTS[of])


def _not_one_expression(of: str) -> LoopError:
    return LoopError(
        f"{of} is more than one expression",
        hint=f"{_HINTS[of]}, without select, from, as and semicolon",
    )
