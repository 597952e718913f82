"""Workers compute what DuckDB computes, bit for bit, for every term and every row."""

import math
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.loop.scalar.compiled import compile_term
from tidemill.schemas.loop.scalar.from_sql import parse_scalar
from tidemill.schemas.loop.scalar.operations import Kind
from tidemill.schemas.loop.scalar.terms import (
    Term,
    column,
    constant,
    from_json,
    operation,
    to_json,
    to_sql,
)

COLUMNS = {
    "price": FieldType.FLOAT,
    "visits": FieldType.INT,
    "member": FieldType.BOOL,
    "country": FieldType.CATEGORY,
    "tags": FieldType.CATEGORIES,
    "seen_at": FieldType.TIMESTAMP,
}
PLACES = {name: place for place, name in enumerate(COLUMNS)}
TYPES = {
    "price": pl.Float64(),
    "visits": pl.Int64(),
    "member": pl.Boolean(),
    "country": pl.String(),
    "tags": pl.List(pl.String),
    "seen_at": pl.Datetime("us", "UTC"),
}
NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, 2.5, -2.5, 0.49999999999999994, 2.0**53, 1e308]),
    st.integers(-4, 4).map(float),
)
TEXTS = st.one_of(
    st.sampled_from(["", "a", "A", "ab", "ü", "ß", "e\u0301", "\U0001f600", "\uffff", "'"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4),
)
SINCE = datetime(1970, 1, 1, tzinfo=UTC)
TIMES = st.integers(-(2 * 10**15), 7 * 10**15).map(lambda us: SINCE + timedelta(microseconds=us))
VALUES = {
    "price": st.one_of(st.none(), NUMBERS.filter(math.isfinite)),
    "visits": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(-3, 3)),
    "member": st.one_of(st.none(), st.booleans()),
    "country": st.one_of(st.none(), TEXTS),
    "tags": st.one_of(st.none(), st.lists(TEXTS, max_size=3)),
    "seen_at": st.one_of(st.none(), TIMES),
}
ROWS = st.lists(st.tuples(*VALUES.values()), min_size=1, max_size=8)
OF_TWO = ("=", "<>", "<", "<=", ">", ">=", "distinct")


def leaves(kind: Kind) -> st.SearchStrategy[Term]:
    """Constants and columns of one kind."""
    by_kind: dict[str, st.SearchStrategy[Term]] = {
        "number": st.one_of(
            NUMBERS.map(lambda value: constant(value, "number")),
            st.sampled_from(["price", "visits"]).map(lambda name: column(name, COLUMNS)),
        ),
        "bool": st.one_of(
            st.booleans().map(lambda value: constant(value, "bool")),
            st.just(column("member", COLUMNS)),
        ),
        "text": st.one_of(
            TEXTS.map(lambda value: constant(value, "text")), st.just(column("country", COLUMNS))
        ),
        "texts": st.just(column("tags", COLUMNS)),
        "time": st.one_of(
            st.integers(-(10**15), 10**15).map(lambda value: constant(value, "time")),
            st.just(column("seen_at", COLUMNS)),
        ),
    }
    return st.one_of(by_kind[kind], st.just(constant(None, kind)))


def made(op: str, *parts: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    """Terms of one operation."""
    return st.tuples(*parts).map(lambda found: operation(op, found))


def several(op: str, part: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    """Terms of an operation that takes many arguments of one kind."""
    listed = st.lists(part, min_size=2, max_size=4)
    return listed.map(lambda found: operation(op, tuple(found)))


def terms(kind: Kind, depth: int = 3) -> st.SearchStrategy[Term]:
    """Terms of one kind."""
    if depth == 0 or kind == "texts":
        return leaves(kind)
    number, flag, text = (terms(each, depth - 1) for each in ("number", "bool", "text"))
    time, same = terms("time", depth - 1), terms(kind, depth - 1)
    any_kind = [same, *made_case(flag, same)]
    if kind == "number":
        any_kind += [made(op, number, number) for op in ("+", "-", "*", "/", "%")]
        any_kind += [made(op, number) for op in ("negative", "abs", "round", "floor", "ceil")]
        any_kind += [several(op, number) for op in ("greatest", "least")]
        any_kind += [made("trunc", number), made("length", text)]
        any_kind += [made("len", leaves("texts"))]
    if kind == "bool":
        pairs = [(op, each) for op in OF_TWO for each in (number, text, time, flag)]
        any_kind += [made(op, each, each) for op, each in pairs]
        any_kind += [several(op, flag) for op in ("and", "or")]
        any_kind += [several("in", each) for each in (number, text, time)]
        any_kind += [made("not", flag), made("isnan", number)]
        any_kind += [made("is null", each) for each in (number, text, flag, leaves("texts"))]
        any_kind += [made(op, text, text) for op in ("starts_with", "ends_with", "contains")]
        any_kind += [made("list_contains", leaves("texts"), text)]
    return st.one_of(any_kind)


def made_case(
    flag: st.SearchStrategy[Term], same: st.SearchStrategy[Term]
) -> Iterator[st.SearchStrategy[Term]]:
    """Terms that choose among values of one kind."""
    yield made("case", flag, same, same)
    yield made("case", flag, same, flag, same, same)
    yield several("coalesce", same)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection in UTC."""
    with duckdb.connect(":memory:", config={"threads": 1}) as opened:
        opened.execute("SET TimeZone = 'UTC'")
        yield opened


def sql_name(name: str) -> str:
    """Return the column as DuckDB has to read it."""
    return f'CAST("{name}" AS DOUBLE)' if COLUMNS[name] is FieldType.INT else f'"{name}"'


def bits(value: object) -> object:
    """Return what two equal results have in common; NaN is one value, and -0.0 is not 0.0."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("d", value)
    if isinstance(value, datetime):
        return (value - SINCE) // timedelta(microseconds=1)
    return value


ANY = st.one_of(terms("number"), terms("bool"), terms("text"), terms("time"))


@given(term=ANY, rows=ROWS)
@settings(max_examples=400)
def test_a_term_is_what_duckdb_computes(
    term: Term, rows: list[tuple[object, ...]], connection: duckdb.DuckDBPyConnection
) -> None:
    """A rule that fires in an analysis and not in a worker would be found by a customer."""
    frame = pl.DataFrame(rows, schema=TYPES, orient="row")
    connection.register("rows_of_test", frame.to_arrow())
    query = f"SELECT {to_sql(term, sql_name)} AS found FROM rows_of_test"
    expected = connection.sql(query).fetchall()
    run = compile_term(term, PLACES)
    assert [bits(run(row)) for row in rows] == [bits(found) for (found,) in expected], query


@given(term=ANY)
def test_a_term_survives_its_journey(term: Term) -> None:
    """A worker gets it as JSON."""
    found = from_json(to_json(term), COLUMNS)
    assert to_json(found) == to_json(term)
    assert found.kind == term.kind


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("price > 1.5 and country in ('CH', 'AT')", True),
        ("not member or visits between 1 and 3", True),
        ("'new' in tags", True),
        ("contains(country, 'H') and starts_with(country, 'C')", True),
        ("case when member then price else 0 end", 2.5),
        ("coalesce(null, price)", 2.5),
        ("nullif(price, 2.5)", None),
        ("if(visits = 3, 'a', 'b')", "a"),
        ("price is not distinct from 2.5", True),
        ("seen_at >= timestamptz '2026-01-01T00:00:00+01:00'", True),
        ("-visits + 2 * price % 3", -1.0),
        ("price::double / 0", math.inf),
        ("country is not null and null is null", True),
    ],
)
def test_sql_of_a_person_becomes_a_term(
    sql: str, expected: object, connection: duckdb.DuckDBPyConnection
) -> None:
    """People write SQL, and workers have no parser."""
    row = (2.5, 3, True, "CH", ["new"], datetime(2026, 1, 1, tzinfo=UTC))
    term = parse_scalar(connection, sql, COLUMNS, "condition")
    assert compile_term(term, PLACES)(row) == expected
