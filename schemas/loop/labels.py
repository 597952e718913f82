"""Labels and rewards: the SQL of a loop, checked, and compiled to depend on its rows alone.

The expression reads one row per joined feedback: ``kind``, ``at``, ``offset``, ``decision_at`` and
every value by its name, NULL for other kinds. The seconds to the first feedback, for example, are
``min(epoch(at) - epoch(decision_at))``. `sql/allow_list.py` defines what is allowed.
"""

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import duckdb

from tidemill.errors import LoopError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.loop.lightgbm_params import check_batch_params
from tidemill.schemas.loop.loop_file import LoopFile, read_file
from tidemill.schemas.loop.sql.allow_list import Columns, LabelTree
from tidemill.schemas.loop.sql.label_query import LabelQuery, guarded
from tidemill.schemas.loop.sql.literals import Literals, check_casts
from tidemill.schemas.loop.sql.names import is_taken, schema_name, unquoted_keywords
from tidemill.schemas.loop.sql.reward_query import RewardQuery, checked_reward
from tidemill.schemas.loop.sql.tree import Node, expression_text, parse_expression
from tidemill.schemas.loop.validation import ACTIVATED_AT

DUCKDB_TYPES = {
    FieldType.FLOAT: "DOUBLE",
    FieldType.INT: "BIGINT",
    FieldType.BOOL: "BOOLEAN",
    FieldType.CATEGORY: "VARCHAR",
    FieldType.CATEGORIES: "VARCHAR[]",
    FieldType.TIMESTAMP: "TIMESTAMP WITH TIME ZONE",
}
OWN_COLUMNS = {
    "kind": FieldType.CATEGORY,
    "at": FieldType.TIMESTAMP,
    "offset": FieldType.INT,
    "decision_at": FieldType.TIMESTAMP,
}
_ACTIVATED = {ACTIVATED_AT: FieldType.TIMESTAMP}
DECISION_FIELDS = (
    "id",
    "entity",
    "action",
    "score",
    "propensity",
    "source",
    "model_version",
    "policy_version",
    "loop_version",
)
NUMERIC = re.compile(r"^(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*)$")
# The first group is literals and comments, the second the two columns that are SQL keywords.
_RESERVED = re.compile(
    r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/)|\b(offset|at(?!\s+time\s+zone\b))\b""",
    re.IGNORECASE | re.DOTALL,
)


def connect() -> duckdb.DuckDBPyConnection:
    """Return an in-memory connection that computes the same label on every machine.

    It has one thread, UTC, and no access to files or extensions.
    """
    connection = duckdb.connect(":memory:", config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET explain_output = 'all'")  # `check_casts` reads the plan as bound
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _open(
    given: duckdb.DuckDBPyConnection | None,
) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
    """Return *given*, which stays open, or a new connection, which is closed."""
    return connect() if given is None else nullcontext(given)


def label_columns(loop: Loop) -> dict[str, FieldType]:
    """Return the columns that the label of *loop* may read, those of tidemill first.

    A label does not read the rows and values of an activation, which is not an outcome.
    """
    values = {
        name: value.type
        for kind, feedback in loop.feedback.items()
        if kind != loop.activation
        for name, value in feedback.values.items()
    }
    own = OWN_COLUMNS if loop.activation is None else OWN_COLUMNS | _ACTIVATED
    return own | values


def compile_label(
    loop: Loop,
    *,
    is_published: bool = False,
    connection: duckdb.DuckDBPyConnection | None = None,
) -> LabelQuery:
    """Return the label of *loop* as a DuckDB query that gives a number for each decision.

    Aggregates that depend on the order of rows are ordered by (at, offset). A decision whose label
    is an error (a text that is not a number, an overflow) is marked as that. A float label that is
    not finite is no label.

    Args:
        loop: the loop.
        is_published: the label is in use: it is not refused for what `Literals` checks.
        connection: one of `connect` for the labels of many loops; by default a new one.

    Raises:
        LoopError: the SQL is wrong, reads a column it may not read, or has the wrong type.

    >>> from tidemill.schemas.loop.loop_file import load_loop
    >>> compile_label(load_loop("deploy/demo/flights.yaml")).plain
    '(max(arr_delay) > 15)'
    """
    with _open(connection) as opened:
        columns = label_columns(loop)
        listed = ", ".join(f'"{name}" {DUCKDB_TYPES[type_]}' for name, type_ in columns.items())
        opened.execute(f"CREATE OR REPLACE TABLE feedback ({listed})")
        expression = _parsed(opened, loop.label.sql, columns)
        checker = LabelTree(Columns(types=columns, forbidden=_forbidden(loop)))
        checker.visit(expression)
        if not checker.aggregates:
            raise LoopError(
                f"label {loop.label.sql!r} is the same for every decision",
                hint="aggregate the feedback, say count(*) > 0",
            )
        if not is_published:
            kinds = [kind for kind in loop.feedback if kind != loop.activation]
            Literals(kinds).check(expression)
        plain = expression_text(opened, expression)
        _check_type(opened, plain, loop.label.type)
        if not is_published:
            check_casts(opened, plain)
        query = guarded(opened, expression, columns, is_bool=loop.label.type == "bool")
        opened.execute(query.over("feedback"))
    return query


def compile_reward(
    loop: Loop, *, connection: duckdb.DuckDBPyConnection | None = None
) -> RewardQuery | None:
    """Return the reward that the gate of *loop* states; None if the default of its policy counts.

    The column ``label`` is a number, 1 for true. ``action`` is the action, of a ranking its first.
    *connection* is as of `compile_label`.

    Raises:
        LoopError: the SQL is wrong, reads something else, or is not a number.
    """
    if loop.gate.reward is None:
        return None
    kind = {"bool": "BOOLEAN", "float": "DOUBLE"}.get(loop.decision.type, "VARCHAR")
    known: list[object] = [True, False] if kind == "BOOLEAN" else list(loop.decision.actions)
    with _open(connection) as opened:
        actions = known if loop.label.type == "bool" else []
        return checked_reward(opened, loop.gate.reward, kind, actions)


def check_label(read: LoopFile, connection: duckdb.DuckDBPyConnection | None = None) -> None:
    """Check what DuckDB will make of a loop file: label, reward, and the schema with its views.

    *connection* is as of `compile_label`.

    Raises:
        LoopError: as `compile_label` and `compile_reward`, or DuckDB has the loop's name; with file
            and line.
    """
    with _open(connection) as opened:
        for place, compiled in (
            (("label", "sql"), compile_label),
            (("gate", "reward"), compile_reward),
        ):
            try:
                compiled(read.loop, connection=opened)
            except LoopError as error:
                line = read.line(*place)
                raise LoopError(error.what, hint=error.hint, file=read.file, line=line) from error
        if is_taken(opened, schema_name(read.loop.loop)):
            raise LoopError(
                f"{read.loop.loop!r} is a name of DuckDB, so SQL could not name the loop's views",
                hint="name the loop after what it decides, say flight-delay",
                file=read.file,
                line=read.line("loop"),
            )


def checked_loop(path: Path) -> Loop:
    """Return the loop that the file at *path* defines, its label and its parameters checked too.

    Raises:
        LoopError: the file, its label or a parameter is wrong; with file, line and hint.
    """
    return checked_loops([path])[0]


def checked_loops(paths: Iterable[Path]) -> list[Loop]:
    """Return the loops that the files at *paths* define; see `checked_loop`.

    One DuckDB checks all labels: it takes longer to open than to check one.
    """
    loops: list[Loop] = []
    with connect() as connection:
        for path in paths:
            read = read_file(path)
            check_label(read, connection)
            check_batch_params(read)
            loops.append(read.loop)
    return loops


def _forbidden(loop: Loop) -> dict[str, str]:
    features = dict.fromkeys(loop.features, "a feature, known before the outcome")
    return features | dict.fromkeys(DECISION_FIELDS, "a part of the decision, not of its outcome")


def quoted(sql: str) -> str:
    r"""Return *sql* with the columns ``at`` and ``offset`` quoted: both are SQL keywords.

    >>> quoted("min(at) - 'at'")
    'min("at") - \'at\''
    """
    return _RESERVED.sub(lambda found: found[1] or f'"{found[2].lower()}"', sql)


def _parsed(connection: duckdb.DuckDBPyConnection, sql: str, columns: dict[str, FieldType]) -> Node:
    """Return the tree of *sql*; an error names the column that has to be quoted, if one has."""
    try:
        return parse_expression(connection, quoted(sql))
    except LoopError as error:
        words = unquoted_keywords(connection, quoted(sql), columns)
        if not words:
            raise
        hint = f'{words[0]} is a word of SQL: quote it, "{words[0]}"'
        raise LoopError(error.what, hint=hint) from error


def _check_type(connection: duckdb.DuckDBPyConnection, sql: str, kind: str) -> None:
    try:
        [row] = connection.execute(f"DESCRIBE SELECT {sql} FROM feedback").fetchall()
        connection.execute(f"SELECT {sql} FROM feedback").fetchall()
    except duckdb.Error as error:
        first = str(error).splitlines()[0]
        raise LoopError(
            f"label does not work: {first}",
            hint="compare the types of the values with what the functions take",
        ) from error
    found = str(row[1])
    if kind == "bool" and found != "BOOLEAN":
        raise LoopError(
            f"label is of type {found}, and the loop says bool",
            hint="compare it with something, say > 0, or write type: float",
        )
    if kind == "float" and not NUMERIC.match(found):
        raise LoopError(
            f"label is of type {found}, and the loop says float",
            hint="turn it into a number, or write type: bool",
        )
