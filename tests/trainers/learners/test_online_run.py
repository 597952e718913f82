"""The run of an online learner: judged fairly, and the same after a restart."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.trainers.cycles import cycle_of, online_of

from tidemill.features.lake.lake import Lake
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.river_state import LinearState
from tidemill.trainers.learners.online import OnlineLearner
from tidemill.trainers.publisher import MemoryModelTopic

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]


@pytest.mark.slow
def test_a_killed_online_learner_ends_as_the_same_model(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """Bit for bit, wherever it was killed, and its predictions are in the lake once."""
    loop = make_loop()
    lake.create(loop)
    for start in range(0, 3_500, 250):
        grow(lake, make_rows(250, first=start))
        cycle = cycle_of(loop, lake, MemoryModelTopic())  # a new process for each commit
        cycle.run()
    newest = cycle.registry.newest("logistic_regression")
    assert newest is not None
    straight = OnlineLearner(loop, online_of(loop))
    examples = lake.table(loop.loop, "examples")
    for commit in examples.commits_since(-1):
        if commit.files and commit.version <= newest.snapshot:
            straight.learn(commit.version, examples.rows(commit))
    assert cycle.registry.payload(newest) == straight.state().to_bytes()
    predictions = lake.table(loop.loop, "online_predictions").read()
    assert predictions["decision_id"].n_unique() == predictions.height == newest.trained_on_rows


@pytest.mark.slow
def test_a_learner_is_not_credited_with_labels_that_came_later(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """Negative control: every hour all trains are late, or none is, and nobody can know which.

    A learner that sees the labels of an hour one by one predicts the rest of it well; when those
    decisions were made no label of the hour was known. Judged by that, it would go live.
    """
    loop = make_loop(models={"batch": None, "online": {"learning_rate": 0.5, "publish_every": 700}})
    cycle = cycle_of(loop, lake, MemoryModelTopic())
    coins = np.random.default_rng(8).integers(0, 2, 100)
    for start in range(0, 4_000, 250):
        rows = make_rows(250, first=start)
        hours = np.arange(start, start + 250) // 60
        grow(lake, rows.with_columns(label=pl.Series(coins[hours].astype(float))))
    made = cycle.run()
    assert not any(model.promoted for model in made)
    newest = LinearState.from_bytes(cycle.registry.payload(made[-1]))
    base = made[-1].metrics["base_log_loss"]
    assert newest.loss_sum / newest.rows < base - 0.1  # what learning row by row makes believe
    assert made[-1].metrics["log_loss"] > base


@pytest.mark.slow
def test_a_cut_log_is_made_up_for_by_ids(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """A trainer that was down for a week finds what it has not learned, and learns it once."""
    loop = make_loop()
    topic = MemoryModelTopic()
    cycle = cycle_of(loop, lake, topic)
    grow(lake, make_rows(800))
    cycle.run()
    for start in range(800, 1_600, 100):
        grow(lake, make_rows(100, first=start))
    examples = lake.table(loop.loop, "examples")
    log = sorted((Path(lake.root) / loop.loop / "examples" / "_delta_log").glob("*.json"))
    examples.handle().create_checkpoint()
    for file in log[:-2]:
        file.unlink()
    resumed = cycle_of(loop, Lake(lake.config), topic)
    resumed.run()
    assert resumed.online_run is not None
    assert resumed.online_run.learner.rows == 1_600
