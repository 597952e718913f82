"""The states that the views tell of a lake, against the oracle that reads whole logs."""

import random
from pathlib import Path

import polars as pl
import pytest
from tests.streams.join_logs import LOGS, LOOP, Shell, random_logs

from tidemill.features.lake import Lake, LakeConfig, Swap
from tidemill.features.oracle import Relations, oracle_sql
from tidemill.features.views import connect
from tidemill.streams.rules import micros

PLACE = {"topic": pl.lit("shop"), "partition": pl.lit(1, dtype=pl.Int32)}


def _store(stream: Shell, folder: Path) -> Lake:
    """Write what *stream* has committed to a lake."""
    lake = Lake(LakeConfig(root=str(folder)))
    lake.create(LOOP)
    for log in LOGS:
        if stream.raw[log]:
            frame = stream.rows(log).with_columns(ingested_at=pl.col("at"), **PLACE)
            lake.table(LOOP.loop, log).append(frame, swaps=[])
    if stream.closed:
        frontier = Swap("frontier/1", None, micros(stream.closed[-1].frontier))
        examples = stream.examples().with_columns(**PLACE)
        lake.table(LOOP.loop, "examples").append(examples, swaps=[frontier])
    return lake


@pytest.mark.parametrize("seed", range(8))
def test_the_views_tell_every_record_as_the_oracle_does(seed: int, tmp_path: Path) -> None:
    """Whoever asks for one decision gets the answer that the rules give, for feedback as well."""
    rng = random.Random(seed)
    stream = Shell(random_logs(rng, 150))
    for _ in range(rng.randint(2, 30)):
        stream.poll(rng.choice(LOGS), rng.choice((5, 20)))
        if rng.random() < 0.5:
            stream.commit()
    stream.commit()
    with connect(_store(stream, tmp_path)) as connection:
        told = connection.execute(
            f'SELECT log, "offset", state FROM ({oracle_sql(LOOP, Relations(idle=False))})'
        ).fetchall()
        shown = connection.execute(
            """
            SELECT 'decisions', "offset", state FROM decision_states
            UNION ALL SELECT 'feedback', "offset", state FROM feedback_states
            """
        ).fetchall()
    assert sorted(shown) == sorted(told)
    assert len(shown) == sum(len(stream.rows(log)) for log in LOGS if stream.raw[log])
