"""The states that the views tell of a lake, against the oracle that reads whole logs."""

import random
from pathlib import Path

import polars as pl
import pytest
from tests.features.streamlakes import SHOP, STATES, write_streams
from tests.streams.join_logs import LOOP, Shell, random_logs

from tidemill.features.audit.judged import Relations
from tidemill.features.audit.oracle import oracle_sql
from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig
from tidemill.features.lake.layouts import table_of
from tidemill.features.sql.views import connect
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.units import micros

PLACE = {"topic": pl.lit("shop"), "partition": pl.lit(1, dtype=pl.Int32)}


def _store(stream: Shell, folder: Path, loop: Loop = LOOP) -> Lake:
    """Write what *stream* has committed to a lake."""
    lake = Lake(LakeConfig(root=str(folder)))
    lake.create(loop)
    for log in loop.logs:
        if stream.raw[log]:
            frame = stream.rows(log).with_columns(ingested_at=pl.col("at"), **PLACE)
            lake.table(LOOP.loop, table_of(log)).append(frame, swaps=[])
    if stream.closed:
        frontier = CompareAndSwap("frontier/1", None, micros(stream.closed[-1].frontier))
        examples = stream.examples().with_columns(**PLACE)
        lake.table(LOOP.loop, "examples").append(examples, swaps=[frontier])
    return lake


@pytest.mark.slow
@pytest.mark.parametrize("loop", [LOOP, SHOP], ids=["two logs", "three logs"])
@pytest.mark.parametrize("seed", range(6))
def test_the_views_tell_every_record_as_the_oracle_does(
    seed: int, loop: Loop, tmp_path: Path
) -> None:
    """Whoever asks for one decision gets the answer that the rules give, for feedback as well."""
    rng = random.Random(seed)
    stream = Shell(random_logs(rng, 150, streams=loop is SHOP), JoinRules.of(loop))
    for _ in range(rng.randint(2, 30)):
        stream.poll(rng.choice(loop.logs), rng.choice((5, 20)))
        if rng.random() < 0.5:
            stream.commit()
    stream.commit()
    with connect(_store(stream, tmp_path, loop)) as connection:
        told = connection.execute(
            f'SELECT log, "offset", state FROM ({oracle_sql(loop, Relations(idle=False))})'
        ).fetchall()
        shown = connection.execute(
            """
            SELECT 'decisions', "offset", state FROM decision_states
            UNION ALL SELECT 'feedback', "offset", replace(state, 'misplaced', 'unmatched')
            FROM feedback_states
            """
        ).fetchall()
    assert sorted(shown) == sorted(told)
    assert len(shown) == sum(len(stream.rows(log)) for log in loop.logs if stream.raw[log])


def test_feedback_of_a_stream_is_told_with_its_place_and_its_offset(tmp_path: Path) -> None:
    """The place is what examples name it by, the offset is where it is in its topic."""
    with connect(write_streams(tmp_path)) as connection:
        rows = connection.execute(
            """
            SELECT id, "offset", state, topic, kafka_offset FROM feedback_states
            ORDER BY topic, kafka_offset
            """
        ).fetchall()
        seen = connection.execute("SELECT kafka_offset FROM feedback ORDER BY ALL").fetchall()
    assert {(id_, place): state for id_, place, state, _, _ in rows} == STATES
    orders = [(id_, offset) for id_, _, _, topic, offset in rows if topic == "shop.feedback.orders"]
    assert orders == [("x", 0), ("x", 1), ("v", 2), ("u", 3)]
    assert [offset for (offset,) in seen] == sorted([*range(5), *range(4)])


def test_a_loop_without_streams_has_the_columns_it_had(tmp_path: Path) -> None:
    """Its offsets are offsets, and whoever selects all of them gets what they always got."""
    with connect(_store(Shell(random_logs(random.Random(1), 20)), tmp_path)) as connection:
        described = connection.execute("DESCRIBE feedback").fetchall()
    assert "kafka_offset" not in [row[0] for row in described]
