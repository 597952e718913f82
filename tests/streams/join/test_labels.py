"""Labels: DuckDB computes them from joined feedback, and one bad value harms no other label."""

import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import duckdb
import numpy as np
import polars as pl
import psutil
import pytest
from tests.schemas.loops import minimal

from tidemill.errors import LoopError
from tidemill.schemas.loop.labels import compile_label, connect
from tidemill.schemas.loop.sql.allow_list import AGGREGATES
from tidemill.schemas.loop.sql.label_query import LabelQuery
from tidemill.streams.join.labels import GROUP, ComputedLabels, LabelEngine, Labels

TIME = pl.Datetime("us", "UTC")


def label_query(sql: str, label_type: str = "float") -> LabelQuery:
    """Return the label *sql* over feedback with a number, a whole number and a text."""
    values = {"amount": "float", "n": "int", "note": "category", "ok": "bool"}
    values |= {"tags": "categories"}
    kinds = {"clicked": {"within": "1h", "values": values}}
    loop = minimal(feedback=kinds, label={"sql": sql, "type": label_type})
    return compile_label(loop)


def labels(sql: str, label_type: str = "float") -> Labels:
    """Return what computes the label *sql*."""
    return Labels(label_query(sql, label_type))


def rows(*pairs: tuple[int, float | None], n: int | None = 1, note: str = "") -> pl.DataFrame:
    """Return joined feedback of (decision, value)."""
    group, values = zip(*pairs, strict=True)
    return pl.DataFrame(
        {GROUP: group, "amount": values, "n": n, "note": note, "offset": range(len(pairs))},
        schema_overrides={"amount": pl.Float64, "n": pl.Int64},
    ).with_columns(
        kind=pl.lit("clicked"),
        ok=pl.lit(value=True),
        tags=pl.lit(["a"]),
        at=pl.lit(0).cast(TIME),
        decision_at=pl.lit(0).cast(TIME),
    )


def ids(count: int) -> pl.Series:
    """Return ids for so many decisions."""
    return pl.Series([f"d{number}" for number in range(count)])


def test_each_decision_gets_the_label_of_its_own_feedback() -> None:
    """And a decision without feedback gets none."""
    found = labels("sum(amount)").of(rows((0, 1.0), (2, 2.0), (2, 3.0)), ids(4))
    assert found.values[[0, 2]].tolist() == [1.0, 5.0]
    assert np.isnan(found.values[[1, 3]]).all()
    assert not found.is_error.any()


def test_a_bool_label_is_zero_or_one() -> None:
    """Learners take numbers."""
    found = labels("max(amount) > 1", "bool").of(rows((0, 1.0), (1, 2.0)), ids(2))
    assert found.values.tolist() == [0.0, 1.0]


def test_a_value_that_is_not_finite_is_no_label() -> None:
    """An infinite label would end the training; null means that there is no label."""
    given = rows((0, float("inf")), (1, float("nan")), (2, None), (3, 1.0))
    found = labels("max(amount)").of(given, ids(4))
    assert np.isnan(found.values[:3]).all()
    assert found.values[3] == 1.0
    assert not found.is_error.any()


def test_one_impossible_label_leaves_the_others_alone() -> None:
    """A bad record never stops a partition; it is counted, and its reason told."""
    given = rows(*((number, -1.0 if number == 17 else 4.0) for number in range(40)))
    label = labels("max(cast(amount as utinyint))", "float")
    found = label.of(given, ids(40))
    assert found.is_error.nonzero()[0].tolist() == [17]
    assert np.isnan(found.values[17])
    assert np.delete(found.values, 17).tolist() == [4.0] * 39
    assert label.failed == 1
    assert label.last_error.startswith("d17: Conversion Error: ")


def test_a_label_that_fails_for_all_costs_one_query() -> None:
    """A producer must not be able to turn one close into thousands of queries."""
    label = labels("max(100 % n) > 1", "bool")
    queries: list[str] = []
    counted = _Counted(label._engine._connection, queries)
    label._engine._connection = counted  # type: ignore[assignment]  # counts what is asked of it
    found = label.of(rows(*((number, 1.0) for number in range(4_000)), n=0), ids(4_000))
    assert found.is_error.all()
    assert len(queries) == 2, "one for all labels, and one for the words of a sample"


def test_loops_that_share_an_engine_get_their_own_labels() -> None:
    """A DuckDB of its own would cost each loop of a fleet eight threads and four megabytes."""
    engine, before = LabelEngine(), threading.active_count()
    sums = [Labels(label_query(f"sum(amount) + {number}"), engine) for number in range(20)]
    given = [rows((0, float(number))) for number in range(20)]
    threads = process_threads()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda of, over: of.of(over, ids(1)), sums, given))
    assert [each.values[0] for each in found] == [2.0 * number for number in range(20)]
    assert process_threads() - threads <= threading.active_count() - before + 4


def process_threads() -> int:
    """Return how many threads this process has, those of libraries too."""
    return psutil.Process().num_threads()


class _Counted:
    """A connection that keeps what it was asked."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, queries: list[str]) -> None:
        self._connection, self._queries = connection, queries
        self.register, self.unregister = connection.register, connection.unregister

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Run a query."""
        self._queries.append(query)
        return self._connection.sql(query)

    def execute(self, query: str) -> duckdb.DuckDBPyConnection:
        """Run a query."""
        self._queries.append(query)
        return self._connection.execute(query)


ONE_ARGUMENT = sorted(AGGREGATES - {"count_star", "string_agg", "group_concat", "listagg"})
EXTREME = (
    *("n", "amount", "n * 170141183460469231731687303715884105727", "n * 1.5", "to_days(n)"),
    *("cast(amount as decimal(38, 4))", "n % 3", "note", "ok", "at", "abs(n)", "tags", "n > 0"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_no_aggregate_is_an_error_whatever_it_reads(name: str) -> None:
    """TRY cannot guard an aggregate, so one that fails would end the query of a whole close."""
    numbers = (1, -(2**63), 2**63 - 1, 1, None)
    floats = (1.7e308, -1.7e308, float("inf"), float("nan"), 1e30, None)
    pairs = [(number % 3, value) for number, value in enumerate(floats * 4)]
    given = pl.concat(
        [rows(pair, n=numbers[number % 5], note="x" * 50) for number, pair in enumerate(pairs)]
    )
    more = {"median": [], "quantile": ["0.5"], "quantile_cont": ["0.5"], "quantile_disc": ["0.5"]}
    two = name.startswith(("arg", "max_by", "min_by"))
    tried = 0
    for value in EXTREME:
        arguments = ", ".join([value, *more.get(name, []), *(["n * amount"] if two else [])])
        try:
            label = labels(f"{name}({arguments}) is null", "bool")
        except LoopError:
            continue
        label.of(given, ids(3))
        tried += 1
    assert tried, "some type of value is accepted"


EXPRESSIONS = (
    "max(100 % n)",
    "sum(cast(note as int))",
    "sum(cast(amount as utinyint))",
    "first(100 // n order by amount)",
    "count(distinct 100 % n)",
    "100 % min(n)",
    "max(n * n * n)",
    "sum(n) filter (where 100 % n = 0)",
    "max(case when n > 3 then n * n else 0 end)",
    "min(epoch(to_days(n)))",
    "max(abs(n))",
)


@pytest.mark.slow
@pytest.mark.parametrize("sql", EXPRESSIONS)
def test_a_label_is_an_error_exactly_where_duckdb_says_so_of_that_decision_alone(
    sql: str,
) -> None:
    """What is evaluated together must not matter: not the other decisions, not their number."""
    rng = random.Random(sql)
    label = labels(sql)
    numbers = (-(2**63), -1, 0, 0, 1, 3, 7, 2**62, None)
    parts = [
        rows(
            (decision, rng.choice((-4.0, 0.0, 9.0, None))),
            n=rng.choice(numbers),
            note=rng.choice(("", "x", "12")),
        )
        for decision in range(300)
        for _ in range(rng.randint(1, 3))
    ]
    given = pl.concat(parts).with_columns(pl.int_range(pl.len()).alias("offset"))
    found = label.of(given, ids(300))
    connection = connect()
    alone = [
        _alone(connection, label, part) for part in given.partition_by(GROUP, maintain_order=True)
    ]
    assert [
        "error" if error else None if np.isnan(value) else value
        for value, error in zip(found.values.tolist(), found.is_error.tolist(), strict=True)
    ] == alone
    assert {"error"} < set(map(str, alone)), "both are met"


def _alone(connection: duckdb.DuckDBPyConnection, label: Labels, joined: pl.DataFrame) -> object:
    """Return the label of one decision by its plain expression."""
    connection.register("joined", joined.to_arrow())
    try:
        [(value,)] = connection.execute(
            f"SELECT CAST({label._plain} AS DOUBLE) FROM joined"
        ).fetchall()
    except duckdb.Error:
        return "error"
    return None if value is None or not math.isfinite(value) else value


def test_no_labels_are_no_errors() -> None:
    """A close without joined feedback asks nothing."""
    found = ComputedLabels.none(3)
    assert np.isnan(found.values).all()
    assert not found.is_error.any()


def of_extremes(query: LabelQuery) -> ComputedLabels:
    """Return the labels of decisions with numbers that are the largest, none and not finite."""
    joined = pl.concat(
        [
            rows((0, 1.0), (1, None), (2, math.inf), (3, math.nan), (3, -1e308), n=0, note="x"),
            rows((4, 2.0), (5, 1e308), (5, 1e308), n=2**63 - 1, note="1"),
            rows((6, -0.0), n=None, note="2"),
        ]
    ).with_columns(offset=pl.int_range(pl.len()))
    return Labels(query).of(joined, ids(8))


@pytest.mark.parametrize(
    "sql",
    [
        *("count(*) > 0", "max(amount) > 15", "max(amount) > 1.5", "max(n) = count(*)"),
        *("bool_or(amount > 1)", "count(*) > 9223372036854775808", "sum(n) > 3"),
    ],
)
def test_what_cannot_be_an_error_is_not_tried(sql: str) -> None:
    """Trying costs as much as the label does."""
    query = label_query(sql, "bool")
    assert query.is_sure
    assert "TRY" not in query.over("joined")
    found, tried = of_extremes(query), of_extremes(replace(query, is_sure=False))
    np.testing.assert_array_equal(found.values, tried.values)
    assert not (found.is_error | tried.is_error).any()


@pytest.mark.parametrize(
    "sql", ["100 % max(n) > 1", "max(note) = 1", "max(100 % n) > 1", "bool_or(n + 1 > n)"]
)
def test_what_can_be_an_error_is_tried(sql: str) -> None:
    """A label that is wrongly sure would end the worker, as it does here."""
    query = label_query(sql, "bool")
    assert not query.is_sure
    assert of_extremes(query).is_error.any()
    if not query.failures:
        with pytest.raises(duckdb.Error):
            of_extremes(replace(query, is_sure=True))
