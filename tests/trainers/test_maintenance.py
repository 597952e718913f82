"""Compaction between two versions: it is done, and makes no learner learn a row twice."""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest
from tests.trainers.rig import (
    KEY,
    TrainerProcess,
    assert_learned_once,
    commit,
    is_taught,
    wait_for,
)

from tidemill.errors import LakeError
from tidemill.features.lake.compaction import compact
from tidemill.features.lake.lake import CompareAndSwap, Lake
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import publish_loop
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.maintenance import Maintenance
from tidemill.trainers.publisher import MemoryModelTopic, Publisher

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
StartTrainer = Callable[..., TrainerProcess]
ONLINE_ONLY = {"batch": None, "online": {"publish_every": 700}}
TIDY = """
import os, sys
from dataclasses import replace
from tidemill.trainers.trainer import TrainerConfig, run_trainer
from tidemill.serving.model.admission import try_payload
config = TrainerConfig.from_env(os.environ, sys.argv[1])
config = replace(config, poll_s=0.2, tidy_every_s=0.2, tidy_files=3)
sys.exit(run_trainer(config, trial=try_payload))
"""


def cycle_of(loop: Loop, lake: Lake) -> TrainingCycle:
    """A trainer without a process or a broker."""
    publisher = Publisher(MemoryModelTopic(), loop.loop, KEY)
    return TrainingCycle(loop, lake, publisher, count_share=1.0)


def files(lake: Lake, loop: Loop) -> int:
    """How many files the examples are in."""
    return len(lake.table(loop.loop, "examples").uris())


def test_it_looks_at_once_and_then_every_few_minutes(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows
) -> None:
    """A cycle each second must not open three tables each second."""
    loop, now = make_loop(), [100.0]
    lake.create(loop)
    tidy = Maintenance(lake, loop.loop, every_s=300.0, files=2, clock=lambda: now[0])
    counted = []
    for second in (100, 399, 400, 500):
        now[0] = float(second)
        for _ in range(4):
            commit(lake, loop, make_rows(1))
        tidy.run_if_due()
        counted.append(files(lake, loop))
    assert counted == [1, 5, 1, 5]


def test_a_lake_that_is_gone_is_no_quiet_failure(lake: Lake, make_loop: MakeLoop) -> None:
    """The process ends by it, as by any other error of the lake."""
    with pytest.raises(LakeError):
        Maintenance(lake, make_loop().loop).run_if_due()


@pytest.mark.slow
def test_merged_files_are_learned_once(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows
) -> None:
    """Before, between and after the commits a learner has seen."""
    loop = make_loop(models=ONLINE_ONLY)
    cycle = cycle_of(loop, lake)
    tidy = Maintenance(lake, loop.loop, every_s=0.0, files=1)
    for start in range(0, 1_600, 100):
        commit(lake, loop, make_rows(100, first=start))
        if start % 200 == 0:
            tidy.run_if_due()
        if start % 300 == 0:
            cycle.run()
    cycle.run()
    assert files(lake, loop) <= 4  # two days of examples
    assert_learned_once(lake, loop, [700, 1_400])


def test_rows_that_wait_for_the_next_version_survive_a_cut_log(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows
) -> None:
    """A quiet day, then a compaction: the log is shorter than what the learner last saw."""
    loop = make_loop(models=ONLINE_ONLY)
    cycle = cycle_of(loop, lake)
    commit(lake, loop, make_rows(500))
    cycle.run()  # 500 rows are learned, no version is due
    for owner in (None, 1):  # a day of commits without rows
        lake.table(loop.loop, "examples").append(
            None, swaps=[CompareAndSwap("owner/0", owner, (owner or 0) + 1)]
        )
    compact(lake, loop.loop)
    log = Path(lake.root) / loop.loop / "examples" / "_delta_log"
    for entry in sorted(log.glob("*.json"))[:-1]:
        entry.unlink()
    commit(lake, loop, make_rows(100, first=500))
    cycle.run()
    assert cycle.online_run is not None
    assert cycle.online_run.learner.rows == 600


@pytest.mark.soak
@pytest.mark.kafka
def test_a_trainer_merges_many_small_files_and_learns_each_example_once(
    start_trainer: StartTrainer,
    kafka: KafkaConfig,
    make_loop: MakeLoop,
    lake: Lake,
    make_rows: MakeRows,
) -> None:
    """No other process may do it: `tidemill up` runs no cron."""
    loop = make_loop(loop=f"late-{uuid4().hex[:8]}", models=ONLINE_ONLY)
    publish_loop(kafka, loop)
    lake.create(loop)
    for start in range(0, 1_000, 125):
        commit(lake, loop, make_rows(125, first=start))
    trainer = start_trainer(kafka, loop, TIDY)
    wait_for(lambda: files(lake, loop) == 1)
    for start in range(1_000, 1_500, 125):
        commit(lake, loop, make_rows(125, first=start))
    wait_for(lambda: is_taught(lake, loop, 1_500))
    assert trainer.end() == 0
    assert_learned_once(lake, loop, [750, 1_500])
