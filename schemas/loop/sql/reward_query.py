"""The SQL of rewards: one expression over the label and the action of a decision.

It has the scalar functions of labels and no aggregate. A reward that cannot be computed for some
label is null, which no gate accepts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidemill.errors import LoopError
from tidemill.schemas.loop.sql.allow_list import (
    AGGREGATES,
    FALLIBLE,
    OPERATORS,
    REFUSED,
    SCALARS,
    did_you_mean,
)
from tidemill.schemas.loop.sql.tree import (
    CHILDREN,
    Node,
    children,
    expression_text,
    parse_expression,
)

COLUMNS = ("label", "action")
_HINT = "write one expression, say label - case when action = 'coupon' then 0.1 else 0 end"


@dataclass(frozen=True, slots=True)
class RewardQuery:
    """A checked reward; *sql* reads the columns ``label`` and ``action``."""

    sql: str

    def of(self, label: NDArray[np.float64], action: pl.Series) -> NDArray[np.float64]:
        """Return the reward of each row; nan where it is null, infinite or an error."""
        rows = pl.DataFrame({"label": label, "action": action}).to_arrow()
        with duckdb.connect(":memory:", config={"threads": 1}) as connection:
            connection.register("decided", rows)
            query = f"SELECT TRY(CAST({self.sql} AS DOUBLE)) AS reward FROM decided"
            found = connection.sql(query).to_arrow_table().column("reward")
        values = pl.Series("reward", found, dtype=pl.Float64).fill_null(np.nan).to_numpy()
        return np.where(np.isfinite(values), values, np.nan)


def checked_reward(
    connection: duckdb.DuckDBPyConnection, sql: str, action: str, actions: Sequence[object]
) -> RewardQuery:
    """Return the reward *sql*, which DuckDB takes and which is a number for known labels.

    Args:
        connection: one that computes alike on every machine.
        sql: the expression.
        action: the type of the column ``action`` in SQL.
        actions: actions for which it must be a number, with the labels 0 and 1; none to skip that.

    Raises:
        LoopError: it is not one scalar expression over label and action, or no number.
    """
    node = parse_expression(connection, sql, "reward")
    _check(node)
    text = expression_text(connection, node)
    connection.execute(f"CREATE OR REPLACE TABLE feedback (label DOUBLE, action {action})")
    try:
        [(_, kind, *_)] = connection.execute(f"DESCRIBE SELECT {text} FROM feedback").fetchall()
        connection.execute(f"SELECT CAST({text} AS DOUBLE) FROM feedback").fetchall()
    except duckdb.Error as error:
        first = str(error).splitlines()[0]
        raise LoopError(
            f"reward does not work: {first}",
            hint=f"label is a number, 1 for true, and action is {action}",
        ) from error
    if str(kind) in ("BOOLEAN", "VARCHAR", '"NULL"'):
        raise LoopError(
            f"reward is of type {kind}, and has to be a number",
            hint="make a number of it, say case when ... then 1 else 0 end",
        )
    query = RewardQuery(text)
    for each in actions:
        values = query.of(np.array([0.0, 1.0]), pl.Series([each, each]))
        if not np.isfinite(values).all():
            label = "1" if np.isfinite(values[0]) else "0"
            raise LoopError(
                f"reward is no number for the action {each!r} and the label {label}",
                hint="end each case with else, and leave out what is an error for 0",
            )
    return query


def _check(node: Node) -> None:
    """Refuse what is not a pure scalar expression over `COLUMNS`; names become small letters."""
    kind = node["class"]
    if kind in REFUSED:
        what, _ = REFUSED[kind]
        raise LoopError(f"reward uses {what}", hint=_HINT)
    match kind:
        case "COLUMN_REF":
            node["column_names"] = [name.lower() for name in node["column_names"]]
            name = ".".join(node["column_names"])
            if name not in COLUMNS:
                raise LoopError(
                    f"reward reads {name!r}",
                    hint="a reward is made of label and action; put what else counts into the "
                    "label",
                )
        case "FUNCTION":
            _check_function(node)
        case "OPERATOR" if node["type"] not in OPERATORS:
            raise _not_allowed(node["type"].removeprefix("OPERATOR_").lower())
        case "CONSTANT":
            return
        case _ if kind not in CHILDREN:
            raise _not_allowed(kind.lower())
    for child in children(node):
        _check(child)


def _check_function(node: Node) -> None:
    name = node["function_name"] = node["function_name"].lower()
    if name in AGGREGATES:
        raise LoopError(
            f"reward uses the aggregate {name}",
            hint="a reward is of one decision; aggregate its feedback in the label",
        )
    if len(node["qualified_name"]["path"]) > 1 or name not in SCALARS | FALLIBLE:
        raise _not_allowed(name)


def _not_allowed(name: str) -> LoopError:
    guess = did_you_mean(name, SCALARS | FALLIBLE)
    return LoopError(
        f"reward uses {name}, which is not known to depend on label and action alone",
        hint=f"{guess}use plain arithmetic and case",
    )
