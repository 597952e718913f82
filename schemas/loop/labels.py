"""Labels: the SQL of a loop, checked and compiled to an aggregate that depends on its rows alone.

The expression reads one row per joined feedback: ``kind``, ``at``, ``offset``, ``decision_at`` and
every value by its name, NULL for other kinds. The seconds to the first feedback, for example, are
``min(epoch(at) - epoch(decision_at))``. `label_sql.py` defines what is allowed.
"""

import json
import re
from pathlib import Path

import duckdb

from tidemill.errors import LoopError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.loop.label_sql import Columns, LabelTree
from tidemill.schemas.loop.lightgbm_params import check_batch_params
from tidemill.schemas.loop.loop_file import LoopFile, read_file
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
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


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


def compile_label(loop: Loop) -> str:
    """Return the label of *loop* as a DuckDB aggregate: BOOLEAN, or DOUBLE for a float label.

    Aggregates that depend on the order of rows are ordered by (at, offset). A value that cannot be
    computed (a text that is not a number, an overflow in one row) is NULL, not an error; so is a
    float label that is not finite.

    Raises:
        LoopError: the SQL is wrong, reads a column it may not read, or has the wrong type.

    >>> from tidemill.schemas.loop.loop_file import load_loop
    >>> compile_label(load_loop("deploy/demo/flights.yaml"))
    '(max(arr_delay) > 15)'
    """
    connection = connect()
    try:
        columns = label_columns(loop)
        tree = _parse(connection, loop.label.sql)
        [expression] = tree["statements"][0]["node"]["select_list"]
        checker = LabelTree(Columns(columns, _forbidden(loop)))
        checker.visit(expression)
        if not checker.aggregates:
            raise LoopError(
                f"label {loop.label.sql!r} is the same for every decision",
                hint="aggregate the feedback, say count(*) > 0",
            )
        sql = _text(connection, tree)
        _check_type(connection, sql, columns, loop.label.type)
    finally:
        connection.close()
    if loop.label.type == "bool":
        return sql
    number = f"CAST({sql} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def check_label(read: LoopFile) -> None:
    """Check the label of a loop file.

    Raises:
        LoopError: as `compile_label`, with file and line.
    """
    try:
        compile_label(read.loop)
    except LoopError as error:
        line = read.line("label", "sql")
        raise LoopError(error.what, hint=error.hint, file=read.file, line=line) from error


def checked_loop(path: Path) -> Loop:
    """Return the loop that the file at *path* defines, its label and its parameters checked too.

    Raises:
        LoopError: the file, its label or a parameter is wrong; with file, line and hint.
    """
    read = read_file(path)
    check_label(read)
    check_batch_params(read)
    return read.loop


def _forbidden(loop: Loop) -> dict[str, str]:
    features = dict.fromkeys(loop.features, "a feature, known before the outcome")
    return features | dict.fromkeys(DECISION_FIELDS, "a part of the decision, not of its outcome")


def quoted(sql: str) -> str:
    r"""Return *sql* with the columns ``at`` and ``offset`` quoted: both are SQL keywords.

    >>> quoted("min(at) - 'at'")
    'min("at") - \'at\''
    """
    return _RESERVED.sub(lambda found: found[1] or f'"{found[2].lower()}"', sql)


def _parse(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, list[dict[str, dict]]]:  # type: ignore[type-arg]  # DuckDB's tree
    query = f"SELECT ({quoted(sql)}\n) FROM feedback"
    [text] = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchone() or [""]
    tree = json.loads(text)
    if tree["error"]:
        raise LoopError(
            f"label is not SQL: {tree['error_message']}",
            hint="write one aggregate expression, say max(arr_delay) > 15",
        )
    node = tree["statements"][0]["node"]
    plain = len(tree["statements"]) == 1 and node["type"] == "SELECT_NODE"
    if not plain or len(node["select_list"]) != 1 or node["from_table"]["type"] != "BASE_TABLE":
        raise LoopError(
            "label is more than one expression",
            hint="write one aggregate expression without select, from and semicolon",
        )
    extra = ("where_clause", "having", "qualify", "sample")
    if node["from_table"]["table_name"] != "feedback" or any(node[key] for key in extra):
        raise LoopError("label is a query", hint="write the expression alone")
    return dict(tree)


def _text(connection: duckdb.DuckDBPyConnection, tree: object) -> str:
    row = connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchone()
    text = str(row[0]) if row else ""
    return text.removeprefix("SELECT ").removesuffix(" FROM feedback")


def _check_type(
    connection: duckdb.DuckDBPyConnection, sql: str, columns: dict[str, FieldType], kind: str
) -> None:
    listed = ", ".join(f'"{name}" {DUCKDB_TYPES[type_]}' for name, type_ in columns.items())
    connection.execute(f"CREATE TABLE feedback ({listed})")
    try:
        [row] = connection.execute(f"DESCRIBE SELECT {sql} FROM feedback").fetchall()
        connection.execute(f"SELECT {sql} FROM feedback")
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
