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
        ("max(amount) > 0) or (1=1", "is not SQL", "one aggregate"),
        ("max(amount) > 0 from feedback where (amount > 1", "is not SQL", "one aggregate"),
        ("max(amount) > 0, 1", "more than one expression", "without select"),
        ("max(amount) > 0 as label", "more than one expression", "without select"),
        ("distinct max(amount) > 0", "is not SQL", "one aggregate"),
        ("max(amount) > 0 union select true", "more than one expression", "without select"),
        ("not " * 900 + "bool_or(ok)", "deep", "flatter"),
        ("count(*) filter (where " + "not " * 300 + "ok) > 0", "deep", "flatter"),
        ("max(amount) > 'abc'", "'abc'", "DOUBLE"),
        ("max(case when amount > 'abc' then 1 end) > 0", "'abc'", "DOUBLE"),
        ("count(*) filter (where count_ in (1, 'x')) > 0", "'x'", "BIGINT"),
        ("max(at) > 'yesterday'", "'yesterday'", "TIMESTAMP"),
        ("bool_or(ok = 'maybe')", "'maybe'", "BOOLEAN"),
        ("max(coalesce(amount, 'none')) > 1", "'none'", "DOUBLE"),
        ("bool_or(regexp_matches(note, page))", "unknown column 'page'", "columns are"),
        ("bool_or(regexp_matches(note, lower(note)))", "pattern from the data", "contains"),
        ("bool_or(note like note || '%')", "pattern from the data", "contains"),
        ("bool_or(note not ilike note)", "pattern from the data", "contains"),
        ("max(regexp_matches('x', max(note)))", "aggregate max inside", "once"),
        ("bool_or(regexp_matches(note, '('))", "does not work", "types of the values"),
        ("list_sum(max(amount, count_)) > 1", "how many values max", "write the number"),
        (
            "count(*) filter (where kind = 'doen') > 0",
            "'doen'",
            "did you mean done? kinds are done",
        ),
        ("bool_or('Done' <> kind)", "'Done'", "did you mean done"),
        ("count(*) filter (where kind in ('done', 'dun')) > 0", "'dun'", "kinds are done"),
        ("max(kind) = 'doen'", "'doen'", "did you mean done"),
        ("list_contains(list(kind), 'doen')", "'doen'", "did you mean done"),
        ("max(case kind when 'doen' then 1 end) = 1", "'doen'", "did you mean done"),
        ("first(kind order by amount) is distinct from 'doen'", "'doen'", "did you mean done"),
        ('max("AMOUNTS") > 1', "unknown column 'amounts'", "did you mean amount"),
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
    row = connection.execute(compile_label(loop).over("feedback")).fetchone()
    assert row is not None
    return "error" if row[1] else row[0]


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
    [
        "max(cast(note as integer))",
        "max(count_ + 9223372036854775807)",
        "max(100 % (count_ - 1))",
        "100 % (max(count_) % 3)",
        "max(100 // (count_ - 1))",
        "count(*) filter (where 100 % (count_ - 1) > 1)",
        "first(amount order by 100 % (count_ - 1))",
        "count(distinct 100 % (count_ - 1))",
        "list(amount order by cast(note as integer))[1]",
        "sum(100 % (count_ - 1)) filter (where ok)",
        "max(abs(count_ - 3 - 9223372036854775806))",
        "max(epoch(to_days(count_ * 1000000000)))",
        "cast(string_agg(note, '') as double)",
        "case when min(count_) = 1 then 100 % (max(count_) % 3) end",
    ],
)
def test_a_label_that_cannot_be_computed_is_an_error_and_no_null(sql: str) -> None:
    """Null is as good as no feedback, so a decision with feedback would become a negative."""
    assert label_of(sql, ROWS) == "error"


@pytest.mark.parametrize(
    ("sql", "label"),
    [
        ("max(try_cast(note as integer))", None),
        ("sum(try(cast(note as integer)))", None),
        ("max(try(100 % (count_ - 1)))", 0.0),
        ("coalesce(max(try_cast(note as integer)), -1)", -1.0),
    ],
)
def test_who_wants_null_for_what_cannot_be_computed_says_so(sql: str, label: float | None) -> None:
    """A label decides what a bad value means; nothing decides it silently."""
    assert label_of(sql, ROWS) == label


@pytest.mark.parametrize(
    ("sql", "label"),
    [
        ("max(100 % (count_ - 1)) filter (where count_ > 1)", 0.0),
        ("sum(case when count_ > 1 then 100 // (count_ - 1) end)", 150.0),
        ("count(*) filter (where count_ <> 1 and 100 % (count_ - 1) = 0)", 2.0),
        ("count(*) filter (where count_ = 1 or 100 % (count_ - 1) = 0)", 3.0),
        ("count(*) filter (where not (count_ = 1 or 100 % (count_ - 1) > 0))", 2.0),
        ("case when min(count_) <> 1 and 100 % (max(count_) % 3) > 1 then 1 else 0 end", 0.0),
        ("case when min(count_) > 1 then 100 % (max(count_) % 3) else 7 end", 7.0),
        ("first(100 % (count_ - 1) order by count_) filter (where count_ = 3)", 0.0),
        ("string_agg(distinct note, '') = 'x' or 1 = 1", None),
    ],
)
def test_what_is_not_needed_is_no_error(sql: str, label: float | None) -> None:
    """Conditions are evaluated from left to right, whatever DuckDB would leave out or reorder."""
    if label is None:
        assert label_of(sql, ROWS, "bool") == 1.0
    else:
        assert label_of(sql, ROWS) == label


def test_what_is_as_deep_as_is_allowed_is_compiled() -> None:
    """The limit is below what Python's own takes, whatever calls it."""
    for sql in ("+".join(["count_"] * 98), "not " * 97 + "ok", "(" * 200 + "ok" + ")" * 200):
        assert compile_label(with_label(f"max({sql}) is null")).plain
    wide = " or ".join(f"count_ = {number}" for number in range(200))
    assert compile_label(with_label(f"count(*) filter (where {wide}) > 0")).plain


def test_conditions_that_are_nested_without_end_are_refused() -> None:
    """A guarded `and` names its first part twice, so forty of them would be a trillion parts."""
    sql = "count_ = 0"
    for number in range(40):
        word = "and" if number % 2 else "or"
        sql = f"({sql} {word} 100 % count_ = {number})"
    assert "too many conditions" in refusal(f"count(*) filter (where {sql}) > 0").what


@pytest.mark.parametrize(
    "sql",
    [
        "MAX(AMOUNT) > 1 AND Count(*) FILTER (WHERE KIND = 'done') > 0",
        "Min(Epoch(AT) - EPOCH(Decision_At)) < 60",
        'max("Amount") > 1 or First("OFFSET") = 1',
        "Abs(1) IS NOT NULL AND Max(Ln(Amount)) > 0",
    ],
)
def test_names_may_be_written_in_any_case(sql: str) -> None:
    """DuckDB does not distinguish them, so the checks must not either."""
    low = compile_label(with_label(sql.lower()))
    assert compile_label(with_label(sql)).plain.lower() == low.plain.lower()


def test_a_value_named_as_a_keyword_has_to_be_quoted() -> None:
    """The parser says "syntax error at or near"; the author needs to hear why."""
    kinds = {"done": {"within": "1h", "values": {"order": "int", "window": "int"}}}
    loop = minimal(feedback=kinds, label={"sql": "max(order) > 1"})
    with pytest.raises(LoopError) as caught:
        compile_label(loop)
    assert caught.value.hint == 'order is a word of SQL: quote it, "order"'
    label = {"sql": 'max("order") + max("window") > 1'}
    assert compile_label(minimal(feedback=kinds, label=label))


def test_a_label_in_use_is_not_refused_for_its_literals() -> None:
    """A worker and an audit read every version that was ever published."""
    for sql in ("count(*) filter (where kind = 'doen') > 0", "bool_or(note like note)"):
        assert compile_label(with_label(sql), is_published=True)
    assert "is not SQL" in refusal("max(amount) > 0) or (1=1").what


def test_a_loop_with_a_name_of_duckdb_is_refused_at_its_line() -> None:
    """Its schema would be taken for a database, by the views of every other loop too."""
    for name in ("memory", "information-schema", "pg-catalog"):
        read = read_text(MINIMAL.replace("loop: banner", f"loop: {name}"), file="banner.yaml")
        with pytest.raises(LoopError, match="a name of DuckDB") as caught:
            check_label(read)
        assert (caught.value.file, caught.value.line) == ("banner.yaml", 1)


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
    return compile_label(loop).plain


def test_a_label_knows_when_its_decision_was_activated_and_nothing_else_of_that() -> None:
    """That it was shown is no outcome; it would make every count one too many."""
    assert "activated_at" in shown("min(epoch(at) - epoch(activated_at))")
    with pytest.raises(LoopError, match="unknown column 'place'"):
        shown("max(place)")
    assert "unknown column 'activated_at'" in refusal("max(activated_at)", "float").what
