"""SQL over the lake: what became of every record, told by views that cannot change it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import duckdb
import polars as pl
import pytest

from tidemill.errors import LakeError
from tidemill.features.lake.lake import CompareAndSwap, Lake
from tidemill.features.lake.layouts import layouts
from tidemill.features.sql.datasets import training_set
from tidemill.features.sql.views import connect, views
from tidemill.schemas.events.schemas import CIRCUMSTANCES
from tidemill.schemas.loop.definition import Loop

Rows = Callable[..., pl.DataFrame]
START = datetime(2024, 3, 1, 12, tzinfo=UTC)


def _micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _states(connection: duckdb.DuckDBPyConnection, view: str) -> dict[int, str]:
    return dict(connection.execute(f'SELECT "offset", state FROM {view}').fetchall())


def test_every_loop_has_a_schema_even_while_it_is_empty(
    lake: Lake, loop: Loop, grown: Loop
) -> None:
    """A dashboard is made before the first event comes."""
    lake.create(loop)
    connection = connect(lake)
    for view in ("decisions", "feedback", "examples", "decision_states", "feedback_states"):
        assert connection.execute(f"SELECT count(*) FROM home_page.{view}").fetchall() == [(0,)]
        assert connection.execute(f"SELECT count(*) FROM {view}").fetchall() == [(0,)]
    other = grown.model_copy(update={"loop": "other-page"})
    lake.create(other)
    columns = connect(lake).execute("DESCRIBE other_page.feedback").fetchall()
    assert ("values", "STRUCT(amount DOUBLE, coupon VARCHAR)") in {row[:2] for row in columns}


def test_views_show_the_columns_of_the_lake(lake: Lake, loop: Loop, rows: Rows) -> None:
    """What a data engineer asks for first: features by name, times as times, the date."""
    lake.create(loop)
    lake.table(loop.loop, "decisions").append(rows("decisions", 3), swaps=[])
    found = connect(lake).execute(
        'SELECT features.country, features.tags[1], max("at"), event_date'
        " FROM decisions GROUP BY ALL"
    )
    assert found.fetchall() == [("NL", "a", START + timedelta(seconds=2), START.date())]


def test_a_view_stays_at_its_version(lake: Lake, loop: Loop, rows: Rows) -> None:
    """Two queries of one report must not see two lakes."""
    lake.create(loop)
    table = lake.table(loop.loop, "decisions")
    table.append(rows("decisions", 3), swaps=[])
    connection = duckdb.connect()
    views(lake, [loop], connection)
    table.append(rows("decisions", 3, offset=3), swaps=[])
    assert connection.execute("SELECT count(*) FROM decisions").fetchall() == [(3,)]


def test_decision_states_tell_what_became_of_each_decision(
    lake: Lake, loop: Loop, rows: Rows
) -> None:
    """`tidemill sql` answers 'what happened to my decision' for every record of the topic."""
    lake.create(loop)
    verdicts = [None, "late", None, None, "duplicate", None]
    lake.table(loop.loop, "decisions").append(rows("decisions", 6, verdict=verdicts), swaps=[])
    closed = rows("examples", 4).filter(pl.col("offset").is_in([0, 2, 3]))
    closed = closed.with_columns(
        state=pl.Series(["labeled", "no_feedback", "censored"]), label=pl.Series([1.0, 0.0, None])
    )
    frontier = CompareAndSwap("frontier/0", None, _micros(START + timedelta(seconds=5)))
    lake.table(loop.loop, "examples").append(closed, swaps=[frontier])
    connection = connect(lake)
    assert _states(connection, "decision_states") == {
        0: "labeled",
        1: "late",
        2: "no_feedback",
        3: "censored",
        4: "duplicate",
        5: "open",
    }
    labels = connection.execute('SELECT label FROM decision_states ORDER BY "offset"').fetchall()
    assert [label for (label,) in labels] == [1.0, None, 0.0, None, None, None]


def test_feedback_states_tell_what_became_of_each_feedback(
    lake: Lake, loop: Loop, rows: Rows
) -> None:
    """Feedback that joined nothing says why: late, a copy, or of no decision at all."""
    lake.create(loop)
    seconds = timedelta(seconds=1)
    lake.table(loop.loop, "decisions").append(rows("decisions", 1), swaps=[])
    at = [START + 60 * seconds] * 3 + [START + 700 * seconds, START, START]
    at += [START + 9000 * seconds, START]
    feedback = rows(
        "feedback",
        8,
        id=["a", "a", "b", "c", "d", "e", "f", "g"],
        decision_id=["0-0", "0-0", "0-0", "0-0", "stray", "0-0", "0-0", "nobody"],
        at=at,
        stream_time=[None, START, START + 3661 * seconds, START, START, START, START, START],
        verdict=[None, None, None, None, None, "late", None, None],
    )
    lake.table(loop.loop, "feedback").append(feedback, swaps=[])
    example = rows("examples", 1, feedback_offsets=[[0]], state=["labeled"], label=[1.0])
    frontier = CompareAndSwap("frontier/0", None, _micros(START + 1000 * seconds))
    lake.table(loop.loop, "examples").append(example, swaps=[frontier])
    assert _states(connect(lake), "feedback_states") == {
        0: "joined",
        1: "duplicate",
        2: "late",  # read after its decision had closed
        3: "late",  # clicked after ten minutes: too late for a click
        4: "unmatched",
        5: "late",
        6: "open",
        7: "misplaced",
    }


def test_a_version_without_a_row_shows_nulls_for_what_it_adds(
    lake: Lake, loop: Loop, grown: Loop, rows: Rows
) -> None:
    """A quiet loop may wait days for the first event of a version; it is readable meanwhile."""
    lake.create(loop)
    lake.table(loop.loop, "decisions").append(rows("decisions", 2), swaps=[])
    bought = rows("feedback", 2)
    lake.table(loop.loop, "feedback").append(bought, swaps=[])
    lake.table(loop.loop, "examples").append(rows("examples", 2, label=[1.0, 0.0]), swaps=[])
    lake.create(grown)
    with connect(lake) as connection:
        for view in ("decisions", "examples"):
            query = f"SELECT features.age, features.country FROM {view}"
            assert connection.sql(query).fetchall() == [(None, "NL")] * 2
        assert connection.sql('SELECT "values".coupon FROM feedback').fetchall() == [(None,)] * 2
        assert connection.sql("SELECT count(*) FROM decision_states").fetchall() == [(2,)]
    made = training_set(lake, grown)
    assert made.table["age"].to_pylist() == [None, None]
    assert made.table["country"].to_pylist() == ["NL", "NL"]


def test_rows_of_an_older_version_show_nulls_for_what_came_later(
    lake: Lake, loop: Loop, grown: Loop, rows: Rows
) -> None:
    """One query over the whole history, whatever the loop has learned to log since."""
    lake.create(loop)
    table = lake.table(loop.loop, "decisions")
    table.append(rows("decisions", 1), swaps=[])
    lake.create(grown)
    newer = rows("decisions", 1, offset=1, of=grown)
    table.append(newer, swaps=[])
    found = connect(lake).execute('SELECT "offset", features.age, features.country FROM decisions')
    assert sorted(found.fetchall()) == [(0, None, "NL"), (1, None, "NL")]


@pytest.mark.parametrize("name", ["memory", "information-schema", "pg-catalog"])
def test_a_loop_with_a_name_of_duckdb_costs_itself_alone(
    lake: Lake, loop: Loop, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An earlier version let such a loop be published; all others are still to be read."""
    lake.create(loop)
    lake.create(loop.model_copy(update={"loop": name}))
    connection = connect(lake)
    assert connection.execute("SELECT count(*) FROM home_page.decision_states").fetchall() == [(0,)]
    assert f"{name}: " in caplog.text
    assert "views are left out" in caplog.text
    with pytest.raises(LakeError, match="there is no view") as caught:
        views(lake, [lake.loop(name)], duckdb.connect())
    assert "another one" in caught.value.hint


def test_a_loop_whose_tables_are_gone_costs_itself_alone(
    lake: Lake, loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a lake must not hide the other half."""
    lake.create(loop)
    lake.create(loop.model_copy(update={"loop": "other-page"}))
    lake.table("other-page", "decisions").location.storage.remove_folder("other-page/decisions")
    connection = connect(lake)
    assert connection.execute("SELECT count(*) FROM home_page.decisions").fetchall() == [(0,)]
    assert "other-page: 1 views are left out" in caplog.text


def test_a_lake_of_an_earlier_release_is_read_beside_the_columns_it_lacked(
    lake: Lake, loop: Loop, rows: Rows
) -> None:
    """The version of the loop is the same; only tidemill has more to say about a decision."""
    for name, schema in layouts(loop).items():
        older = {column: kind for column, kind in schema.items() if column not in CIRCUMSTANCES}
        lake.create_table(loop.loop, name, pl.Schema(older))
    before = rows("decisions", 3).drop(CIRCUMSTANCES, strict=False)
    lake.table(loop.loop, "decisions").append(before, swaps=[])
    lake.create(loop)
    after = rows("decisions", 3, offset=3).with_columns(baseline=pl.col("action"))
    lake.table(loop.loop, "decisions").append(after, swaps=[])
    found = connect(lake).execute('SELECT baseline IS NULL FROM decisions ORDER BY "offset"')
    assert found.fetchall() == [(True,)] * 3 + [(False,)] * 3
