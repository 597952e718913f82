"""Label SQL: refused unless it depends on the feedback alone, and compiled so that it does."""

import duckdb
import pytest
from tests.schemas.loops import MINIMAL, minimal, with_label

from tidemill.errors import LoopError
from tidemill.schemas.loop.labels import (
    DUCKDB_TYPES,
    check_label,
    compile_label,
    connect,
    label_columns,
)
from tidemill.schemas.loop.loop_file import read_text


def refusal(sql: str, kind: str = "bool") -> LoopError:
    """Return the error of compiling *sql*."""
    with pytest.raises(LoopError) as caught:
        compile_label(with_label(sql, kind))
    return caught.value


@pytest.mark.parametrize(
    ("sql", "what", "hint"),
    [
        ("max(amuont) > 1", "unknown column 'amuont'", "did you mean amount"),
        ("max(country) = 'US'", "'country', a feature", "feedback only"),
        ("max(score) > 1", "part of the decision", "feedback only"),
        ("amount > 1", "outside of an aggregate", "max(amount)"),
        ("1 = 1", "same for every decision", "aggregate"),
        ("max(amount)", "type DOUBLE", "compare it"),
        ("count(*) > 0 and (select true)", "a subquery", "nothing else"),
        ("max(amount) over () > 1", "a window function", "aggregate instead"),
        ("max(amount) > $1", "a parameter", "the value itself"),
        ("*", "a star", "count(*)"),
        ("columns(*)", "a star", "count(*)"),
        ("random() > 0.5", "random", "aggregates"),
        ("max(random()) > 0.5", "random", "aggregates"),
        ("now() > max(at)", "now", "aggregates"),
        ("max(at) > current_timestamp", "current_timestamp", "columns are"),
        ("max(read_text('/etc/passwd')) = ''", "read_text", "aggregates"),
        ("max(getenv('HOME')) = ''", "getenv", "aggregates"),
        ("system.max(amount) > 1", "system.max", "aggregates"),
        ("count(*) > 0 from read_csv('/etc/passwd')", "is not SQL", "one aggregate"),
        ("count(*) > 0) from other --", "is not SQL", "one aggregate"),
        ("count(*) > 0; drop table feedback", "is not SQL", "one aggregate"),
        ("sum(sum(amount)) > 1", "inside of another aggregate", "once"),
        ("ln(sum(amount)) > 1", "ln of an aggregate", "aggregate over ln"),
        ("max(note) > 3", "does not work", "types of the values"),
        ("max(", "is not SQL", "one aggregate"),
    ],
)
def test_a_label_that_is_not_a_function_of_its_feedback_is_refused(
    sql: str, what: str, hint: str
) -> None:
    """A label that reads the clock, a file or the future poisons every model after it."""
    error = refusal(sql)
    assert what in error.what
    assert hint in error.hint


def test_the_type_of_the_label_is_checked() -> None:
    """A text as label would only be noticed when the first model trains."""
    assert "VARCHAR" in refusal("max(note)", "float").what
    assert "BOOLEAN" in refusal("bool_or(ok)", "float").what


def test_a_wrong_label_is_told_with_its_line() -> None:
    """The label is one line of a long file."""
    read = read_text(MINIMAL.replace("count(*) > 0", "max(second) > 1"), file="banner.yaml")
    with pytest.raises(LoopError, match="did you mean seconds") as caught:
        check_label(read)
    assert (caught.value.file, caught.value.line) == ("banner.yaml", 13)


Row = tuple[str, int, float | None, int | None, bool | None, str | None]


def label_of(sql: str, rows: list[Row], kind: str = "float") -> object:
    """Return the label of one decision at second 0 whose joined feedback are *rows*."""
    loop = with_label(sql, kind)
    connection = connect()
    columns = label_columns(loop)
    listed = ", ".join(f'"{name}" {DUCKDB_TYPES[type_]}' for name, type_ in columns.items())
    connection.execute(f"CREATE TABLE feedback ({listed})")
    for offset, (note, second, amount, count, ok, _) in enumerate(rows):
        connection.execute(
            "INSERT INTO feedback VALUES ('done', to_timestamp(?), ?, to_timestamp(0), ?, ?, ?, ?,"
            " NULL, NULL)",
            [second, offset, amount, count, ok, note],
        )
    row = connection.execute(f"SELECT {compile_label(loop)} FROM feedback").fetchone()
    assert row is not None
    return row[0]


ROWS: list[Row] = [
    ("b", 30, 3.0, 1, True, None),
    ("a", 10, 1.0, 2, False, None),
    ("c", 10, 2.0, 3, None, None),
]


@pytest.mark.parametrize(
    ("sql", "label"),
    [
        ("first(amount)", 1.0),
        ("last(amount)", 3.0),
        ("first(amount order by amount desc)", 3.0),
        ("first(amount order by ok nulls first)", 2.0),
        ("any_value(amount)", 1.0),
        ("arg_max(amount, 1)", 1.0),
        ("list(amount)[2]", 2.0),
        ("sum(amount)", 6.0),
        ("sum(count_ * 2)", 12.0),
        ("max(amount) - min(amount)", 2.0),
        ("count(*) filter (where ok)", 1.0),
        ("min(epoch(at) - epoch(decision_at))", 10.0),
        ("max(offset)", 2.0),
        ("sum(case when kind = 'done' then 1 else 0 end)", 3.0),
        ("coalesce(max(amount) filter (where note = 'z'), 0)", 0.0),
        ("length(string_agg(note, '-'))", 5.0),
    ],
)
def test_rows_count_in_the_order_of_their_time_then_offset(sql: str, label: float) -> None:
    """Rows are inserted out of order here, as a poll may deliver them."""
    assert label_of(sql, ROWS) == label
    assert label_of(sql, [ROWS[1], ROWS[2], ROWS[0]]) == label


def test_adding_floats_does_not_depend_on_the_order_of_arrival() -> None:
    """In the last bit it would, and two replays would not be equal."""
    rows: list[Row] = [
        ("", at, value, 0, True, None) for at, value in enumerate((1e16, 1.0, -1e16))
    ]
    assert label_of("sum(amount)", rows) == label_of("sum(amount)", rows[::-1])


@pytest.mark.parametrize(
    "sql",
    ["max(cast(note as integer))", "sum(ln(amount - 5))", "max(count_ + 9223372036854775807)"],
)
def test_a_value_that_cannot_be_computed_is_null_and_stops_nothing(sql: str) -> None:
    """One bad feedback must not hold back the label of every other decision."""
    assert label_of(sql, ROWS) is None


@pytest.mark.parametrize(
    "sql",
    ["max(count_) * max(count_)", "-min(count_) - sum(count_)", "coalesce(max(count_), 0) + 1"],
)
def test_whole_numbers_of_any_size_can_be_added_and_multiplied(sql: str) -> None:
    """A feedback with an absurd number must not stop its partition by an overflow."""
    rows: list[Row] = [("", 1, 0.0, extreme, True, None) for extreme in (2**63 - 1, -(2**63))]
    assert isinstance(label_of(sql, rows), float)
    assert label_of("max(count_) - min(count_)", [("", 1, 0.0, 5, True, None)]) == 0.0


def test_the_connection_for_labels_has_no_way_out() -> None:
    """Even SQL that slipped through the checks finds no file to read."""
    connection = connect()
    with pytest.raises(duckdb.Error):
        connection.execute("SELECT * FROM read_text('/etc/hostname')")
    with pytest.raises(duckdb.Error):
        connection.execute("SET enable_external_access = true")


def shown(sql: str) -> str:
    """Return the compiled label of a loop whose decisions count once they were shown."""
    kinds = {"done": {"within": "1h"}, "shown": {"within": "1m", "values": {"place": "int"}}}
    loop = minimal(feedback=kinds, activation="shown", label={"sql": sql, "type": "float"})
    return compile_label(loop)


def test_a_label_knows_when_its_decision_was_activated_and_nothing_else_of_that() -> None:
    """That it was shown is no outcome; it would make every count one too many."""
    assert "activated_at" in shown("min(epoch(at) - epoch(activated_at))")
    with pytest.raises(LoopError, match="unknown column 'place'"):
        shown("max(place)")
    assert "unknown column 'activated_at'" in refusal("max(activated_at)", "float").what
