"""The DuckDB oracle against the oracle of dictionaries: both read whole logs, and share no code."""

import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest
from tests.features.streamlakes import JOINED, ORDERS, SHOP, STATES, write_streams
from tests.streams.join_logs import (
    LOGS,
    LOOP,
    SECOND,
    START,
    D,
    F,
    Logs,
    Outcome,
    decision_frame,
    feedback_frame,
    naive,
    random_logs,
)
from tests.streams.join_logs import Shell as Stream

from tidemill.features.audit.differences import differences
from tidemill.features.audit.judged import Relations
from tidemill.features.audit.oracle import oracle_sql
from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig
from tidemill.features.sql import views
from tidemill.features.sql.positions import stream_sql
from tidemill.schemas.logs import (
    DECISIONS,
    FEEDBACK,
    Log,
    first_position,
    is_feedback,
    number_of,
    position_of,
)
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.labels import connect
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.units import micros

NO_TIME = pl.Datetime("us", "UTC")


def told(
    logs: Logs,
    loop: Loop = LOOP,
    frontier: datetime | None = None,
    *,
    examined: Mapping[Log, int] | None = None,
    stream: Stream | None = None,
) -> Outcome:
    """Return what the DuckDB oracle tells of *logs*, or of what *stream* has stored of them."""
    connection = connect()
    tables = {"decisions": [decision_frame(logs.decisions)], "feedback": []}
    for log in filter(is_feedback, loop.logs):
        tables["feedback"].append(feedback_frame(logs.answers(log), first_position(log)))
    if stream:
        stored = {DECISIONS: stream.rows(DECISIONS), FEEDBACK: stream.answers()}
        tables = {name: [rows] if len(rows) else tables[name] for name, rows in stored.items()}
    for name, frames in tables.items():
        frame = pl.concat(frames)
        if "stream_time" not in frame.columns:
            frame = frame.with_columns(pl.lit(None, dtype=NO_TIME).alias("stream_time"))
        raw = frame.with_columns(pl.lit(0, dtype=pl.Int32).alias("partition"))
        connection.register(name, raw.to_arrow())
    closed = pl.DataFrame(
        {"partition": [0], "frontier": [frontier]},
        schema={"partition": pl.Int32, "frontier": NO_TIME},
    )
    connection.register("frontiers", closed.to_arrow())
    looked_at = pl.DataFrame(
        [(0, number_of(log), position_of(log, offset)) for log, offset in (examined or {}).items()],
        schema={"partition": pl.Int32, "stream": pl.Int32, "examined": pl.Int64},
        orient="row",
    )
    connection.register("examined", looked_at.to_arrow())
    return outcome(connection, loop, idle=stream is not None)


def outcome(connection: duckdb.DuckDBPyConnection, loop: Loop, *, idle: bool) -> Outcome:
    """Return the rows of the query in the terms of the other oracle."""
    rows = connection.sql(oracle_sql(loop, Relations(idle=idle))).to_arrow_table().to_pylist()
    found = Outcome({}, {}, {}, {})
    for row in rows:
        states = found.decisions if row["log"] == "decisions" else found.feedback
        assert row["offset"] not in states, "one row for each record"
        states[row["offset"]] = row["state"]
        if row["feedback_offsets"] is not None:
            example = row["label"], tuple(row["feedback_offsets"])
            found.examples[row["offset"]] = example
            found.revisions[row["offset"], row["revision"]] = row["state"], example
    return found


def newest(outcome: Outcome) -> Outcome:
    """Return *outcome* with the newest revisions alone, which are all that a query tells."""
    last = dict(sorted(outcome.revisions))
    return outcome._replace(revisions={place: outcome.revisions[place] for place in last.items()})


@pytest.mark.slow
@pytest.mark.parametrize("three", [False, True], ids=["two logs", "three logs"])
@pytest.mark.parametrize("seed", range(30))
def test_both_oracles_tell_the_same(seed: int, three: bool) -> None:
    """A mistake in one way of saying the rules does not repeat itself in the other."""
    rng = random.Random(seed)
    logs = random_logs(rng, 60, streams=three)
    missing = rng.choice(("negative", "censored", "dropped"))
    activation = rng.choice((None, "click", "buy"))
    value = {None: "coalesce(weight, amount)", "click": "amount", "buy": "weight"}[activation]
    sql = f"sum({value}) + 1000 * first({value})"
    label = LOOP.label.model_copy(update={"sql": sql, "missing": missing})
    loop = (SHOP if three else LOOP).model_copy(
        update={
            "label": label,
            "activation": activation,
            "remember": rng.choice((0, 15, 40)) * SECOND,
            "corrections": rng.choice((0, 5, 50)) * SECOND,
        }
    )
    frontier = rng.choice((-20, 0, 5, 15, 40, 200))
    examined = {log: rng.choice((0, 5, 20, 1000)) for log in filter(is_feedback, loop.logs)}
    expected = newest(naive(JoinRules.of(loop), logs, frontier, examined=examined))
    assert told(logs, loop, START + frontier * SECOND, examined=examined) == expected


@pytest.mark.slow
@pytest.mark.parametrize("three", [False, True], ids=["two logs", "three logs"])
@pytest.mark.parametrize("seed", range(20))
def test_the_stream_wrote_what_the_oracle_tells(seed: int, three: bool) -> None:
    """With crashes in between, and with idle logs that were moved on."""
    rng = random.Random(seed)
    corrections = rng.choice((0, 10, 40)) * SECOND
    loop = (SHOP if three else LOOP).model_copy(update={"corrections": corrections})
    stream = Stream(random_logs(rng, 60, streams=three), JoinRules.of(loop))
    for _ in range(20):
        stream.poll(rng.choice(loop.logs), rng.choice((1, 5, 20)))
        if rng.random() < 0.1:
            stream.advance(rng.choice(loop.logs), rng.randint(0, 60))
        if rng.random() < 0.4:
            stream.commit(crash_after=rng.choice((0, 1, 2, 3, 3, 3)))
    for log in loop.logs:
        stream.poll(log, 1000)
    stream.commit()
    last = stream.closed[-1] if stream.closed else None
    none: Mapping[Log, int] = dict.fromkeys(filter(is_feedback, loop.logs), 0)
    frontier, examined = (last.frontier, last.examined) if last else (None, none)
    found, _ = stream.outcome()
    expected = told(stream.logs, loop, frontier, examined=examined, stream=stream)
    assert expected.decisions == found.decisions
    assert expected.examples == found.examples
    assert expected.revisions == newest(found).revisions
    for state in ("joined", "corrected"):
        ended = {at for at, each in found.feedback.items() if each == state}
        assert {at for at, each in expected.feedback.items() if each == state} == ended


@pytest.mark.slow
def test_without_a_frontier_everything_on_time_is_open() -> None:
    """A partition that has closed nothing yet owes nothing yet."""
    found = told(Logs([D("a", 0)], [F("x", "a", 1)]))
    assert found == Outcome({0: "open"}, {}, {0: "open"}, {})


@pytest.mark.slow
def test_times_count_to_the_microsecond() -> None:
    """Both ends of a window are inside, and nothing beyond."""
    loop = LOOP.model_copy(
        update={
            "feedback": {
                kind: each.model_copy(update={"within": each.within - timedelta(microseconds=1)})
                for kind, each in LOOP.feedback.items()
            }
        }
    )
    logs = Logs([D("a", 0)], [F("x", "a", 2), F("y", "a", 3)])
    assert told(logs, LOOP, START + 99 * SECOND).examples[0][1] == (0, 1)
    assert told(logs, loop, START + 99 * SECOND).examples[0][1] == (0,)


def large_logs(rng: random.Random, size: int) -> Logs:
    """Return logs too long for one shelf, one run of an index, or one close."""
    decisions = [D(f"d{number}", number // 40) for number in range(size)]
    after, kinds = (-2, 0, 1, 3, 5, 8, 9), ("click", "buy")
    feedback = [
        F(f"f{number}", d.id, d.at + rng.choice(after), rng.choice(kinds))
        for number, d in enumerate(decisions)
        if rng.random() < 0.7
    ]
    decisions += rng.choices(decisions, k=size // 20)
    feedback += rng.choices(feedback, k=size // 20)
    decisions.sort(key=lambda d: d.at + rng.uniform(0, 2.5))
    feedback.sort(key=lambda f: f.at + rng.choice((0, 0, 0, 1, 4, 12)) * rng.random())
    return Logs(decisions, feedback)


@pytest.mark.slow
def test_logs_of_many_batches_agree_as_well() -> None:
    """What is split into shelves and runs, merged and forgotten, must not be lost on the way."""
    rng = random.Random(3)
    stream = Stream(large_logs(rng, 40_000))
    while any(stream.positions[log] < len(getattr(stream.logs, log)) for log in LOGS):
        for _ in range(rng.randint(1, 8)):
            stream.poll(rng.choice(LOGS), rng.choice((100, 700, 3000)))
        stream.commit(crash_after=rng.choice((1, 2, 3, 3, 3, 3, 3, 3)))
    stream.finish()
    found, counts = stream.outcome()
    expected = told(stream.logs, frontier=stream.closed[-1].frontier, stream=stream)
    assert found.decisions == expected.decisions
    assert found.examples == expected.examples
    fates = list(expected.feedback.values())
    verdicts = list(found.feedback.values())
    assert counts.duplicate == fates.count("duplicate") > 100
    assert counts.unmatched == fates.count("unmatched")
    assert counts.late + verdicts.count("late") == fates.count("late") > 1000
    assert (stream.join.open_decisions, stream.join.open_feedback) == (0, 0)


def stored(stream: Stream, folder: Path, *, spoil: pl.Expr | None = None) -> pl.DataFrame:
    """Write what *stream* committed to a lake in *folder*, and return what the oracle objects to.

    *spoil* replaces columns of the examples first.
    """
    lake = Lake(LakeConfig(root=str(folder)))
    lake.create(LOOP)
    place = {"topic": pl.lit("shop"), "partition": pl.lit(1, dtype=pl.Int32)}
    for log in LOGS:
        frame = stream.rows(log).with_columns(ingested_at=pl.col("at"), **place)
        lake.table(LOOP.loop, log).append(frame, swaps=[])
    examples = stream.examples().with_columns(**place)
    frontier = micros(stream.closed[-1].frontier)
    lake.table(LOOP.loop, "examples").append(
        examples if spoil is None else examples.with_columns(spoil),
        swaps=[CompareAndSwap("frontier/1", None, frontier)],
    )
    with views.connect(lake) as connection:
        return differences(connection, LOOP, views.schema_name(LOOP.loop))


def a_stream() -> Stream:
    """Return a stream that has committed some of everything."""
    stream = Stream(random_logs(random.Random(11), 200))
    for _ in range(10):
        for log in LOGS:
            stream.poll(log, 20)
        stream.commit()
    return stream


@pytest.mark.slow
def test_a_lake_that_is_right_differs_nowhere(tmp_path: Path) -> None:
    """Closed and open, joined and not: every record of both logs is compared."""
    stream = a_stream()
    assert stored(stream, tmp_path).is_empty()
    assert {"labeled", "open", "duplicate"} <= set(stream.outcome()[0].decisions.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "column"),
    [
        (pl.col("label") + (pl.int_range(pl.len()) == 3).cast(pl.Float64), "label"),
        (pl.col("feedback_offsets").list.head(1), "feedback_offsets"),
        (pl.when(pl.int_range(pl.len()) == 3).then(1).otherwise(pl.col("offset")).alias("offset"),
         "state"),
    ],
    ids=["a label that is off by one", "feedback left out", "an example twice, another not at all"],
)  # fmt: skip
def test_a_planted_mistake_is_named(tmp_path: Path, spoil: pl.Expr, column: str) -> None:
    """A check that cannot go red proves nothing."""
    found = stored(a_stream(), tmp_path, spoil=spoil)
    assert len(found) >= 1
    assert found.filter(pl.col(column).ne_missing(pl.col(f"{column}_found"))).height >= 1


def told_of_streams(folder: Path, blind: Callable[[str], str] = str) -> list[tuple[object, ...]]:
    """Return what the oracle tells of three streams by hand; *blind* changes the query first."""
    with views.connect(write_streams(folder)) as connection:
        query = blind(oracle_sql(SHOP, Relations(idle=False)))
        return connection.execute(
            f'SELECT log, id, "offset", state, feedback_offsets FROM ({query}) ORDER BY ALL'
        ).fetchall()


def test_each_stream_is_a_log_of_its_own_to_the_oracle(tmp_path: Path) -> None:
    """Stream time, lateness and copies are matters of one topic, whoever produces the others."""
    rows = told_of_streams(tmp_path)
    feedback = {(row[1], row[2]): row[3] for row in rows if row[0] == "feedback"}
    assert feedback == STATES
    assert {row[1]: row[4] for row in rows if row[4] is not None} == JOINED


@pytest.mark.slow
@pytest.mark.parametrize(
    "blind",
    [
        lambda sql: sql.replace(f'"partition", {stream_sql()} ORDER', '"partition" ORDER'),
        lambda sql: sql.replace("_decision, _id, _stream", "_decision, _id"),
    ],
    ids=["stream time", "copies"],
)
def test_an_oracle_that_sees_one_log_tells_something_else(
    tmp_path: Path, blind: Callable[[str], str]
) -> None:
    """The test above would find it: a purchase is late by the clicks, or a copy of one."""
    assert told_of_streams(tmp_path / "blind", blind) != told_of_streams(tmp_path / "seeing")


@pytest.mark.parametrize(
    ("blind", "state", "joined"),
    [
        (str, "duplicate", []),
        (lambda sql: sql.replace("WHERE NOT _is_final", ""), "joined", [position_of(ORDERS, 0)]),
    ],
    ids=["seeing", "blind"],
)
def test_what_closed_before_a_stream_was_added_stays_as_it_is(
    blind: Callable[[str], str], state: str, joined: list[int]
) -> None:
    """Its first purchase is on time by its own log, but the window closed without that log."""
    connection = connect()
    raw = {
        "decisions": decision_frame([D("a", 0)]),
        FEEDBACK: feedback_frame([F("x", "a", 8, "buy")], first_position(ORDERS)),
    }
    for name, frame in raw.items():
        rows = frame.with_columns(
            partition=pl.lit(0, dtype=pl.Int32),
            stream_time=pl.lit(None, dtype=NO_TIME),
            verdict=pl.lit(None, dtype=pl.String),
        )
        connection.register(name, rows.to_arrow())
    told = "SELECT 0 AS partition, make_timestamptz({}::BIGINT) AS frontier"
    closed, since = (told.format(micros(START + at * SECOND)) for at in (20, 5))
    connection.execute(f"CREATE TABLE frontiers AS {closed}")
    connection.execute(
        f"""
        CREATE TABLE begins AS SELECT * FROM ({since}), (VALUES
            ('decisions', 0, 1), ('feedback', {number_of(ORDERS)}, {first_position(ORDERS)})
        ) AS logs(log, stream, first)"""
    )
    query = blind(oracle_sql(SHOP, Relations(idle=False, begins="begins")))
    found = {row["log"]: row for row in connection.sql(query).to_arrow_table().to_pylist()}
    assert found["feedback"]["state"] == state
    assert found["decisions"]["feedback_offsets"] == joined


def test_the_lake_of_three_streams_is_what_the_oracle_tells(tmp_path: Path) -> None:
    """The same comparison that tests of workers make, row by row."""
    with views.connect(write_streams(tmp_path)) as connection:
        assert differences(connection, SHOP, "shop", idle=False).is_empty()
