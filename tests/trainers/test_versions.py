"""Versions of a loop live together: models go on where they fit, and labels never mix."""

import logging
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from tests.trainers.conftest import START
from tests.trainers.cycles import BATCH_ONLY, cycle_of

from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.lake.progress_keys import NOTHING_CLOSED, begin
from tidemill.features.sql import backfills
from tidemill.features.sql.backfills import Backfill, table_name
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.publisher import MemoryModelTopic

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Fill = Callable[[Loop], Lake]
Grow = Callable[[Lake, pl.DataFrame], int]
EUROS = {"sql": "sum(delay)", "type": "float"}
ROWS = 3_000  # of version 1

pytestmark = pytest.mark.slow


def take_over(lake: Lake, loop: Loop, row: int | None) -> None:
    """Record, as a worker does, that the version of *loop* begins with the decision *row*.

    None is the beginning of the log.
    """
    lake.create(loop)
    micros = NOTHING_CLOSED
    if row is not None:
        micros = int((START + timedelta(minutes=row)).timestamp()) * 1_000_000
    keys = [begin(loop.version).key(number) for number in range(loop.partitions)]
    swaps = [CompareAndSwap(key, None, micros) for key in keys]
    lake.table(loop.loop, EXAMPLES).append(None, swaps=swaps)


@pytest.fixture
def fill(lake: Lake, make_rows: MakeRows, grow: Grow) -> Callable[[Loop], Lake]:
    """Fill the lake with rows that the given first version has judged."""

    def fill(first: Loop) -> Lake:
        take_over(lake, first, None)
        for start in range(0, ROWS, 1_000):
            grow(lake, make_rows(1_000, first=start))
        return lake

    return fill


def in_euros(rows: pl.DataFrame) -> pl.DataFrame:
    """Return *rows* with labels of another meaning: tens of euros."""
    return rows.with_columns(pl.col("label") * 10.0 + 30.0)


def make_anew(lake: Lake, loop: Loop, rows: pl.DataFrame) -> None:
    """Put *rows* into the lake as the complete backfill of the version of *loop*."""
    made = Backfill(
        name=f"version_{loop.version}",
        loop=loop,
        since=None,
        until=None,
        ends={},
        frontiers={},
        cuts=[START, START + timedelta(days=9)],
    )
    lake.create(loop)
    backfills.begin(lake, made)
    table = lake.table(loop.loop, table_name(made.name))
    table.append(rows, swaps=[CompareAndSwap("made", None, 1)])
    backfills.complete(table)


def test_the_next_version_with_one_more_feature_keeps_its_model(
    fill: Fill, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """Publishing a feature took all traffic back to the default; now the model is a rival."""
    first, topic = make_loop(models=BATCH_ONLY), MemoryModelTopic()
    grown = fill(first)
    [live] = cycle_of(first, grown, topic).run()
    assert live.promoted
    features = {"fresh": {"type": "float", "nullable": True}, **first.model_dump()["features"]}
    second = make_loop(version=2, features=features, models=BATCH_ONLY)
    take_over(grown, second, ROWS)
    grow(grown, make_rows(1_000, first=ROWS))
    [model] = cycle_of(second, grown, topic).run()
    assert "live_log_loss" in model.metrics, model.reason
    assert model.replaces == live.version
    assert model.sources == {"version 1": ROWS, "version 2": 1_000}
    assert model.label_digest == live.label_digest == second.label_digest


def test_a_version_with_a_label_in_euros_never_learns_the_rows_of_the_old_label(
    fill: Fill,
    make_loop: MakeLoop,
    make_rows: MakeRows,
    grow: Grow,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was trained on 40,002 rows of a label of 0 and 1, and promoted."""
    topic, first = MemoryModelTopic(), make_loop(models=BATCH_ONLY)
    grown = fill(first)
    cycle_of(first, grown, topic).run()
    third = make_loop(version=3, label=EUROS, models=BATCH_ONLY)
    take_over(grown, third, ROWS)
    cycle = cycle_of(third, grown, topic)
    with caplog.at_level(logging.WARNING):
        assert cycle.run(force=True) == []
        assert cycle.run(force=True) == []
    [said] = [record.getMessage() for record in caplog.records if "not learned" in record.message]
    assert "version 3 has 0 labels of the 1,000" in said
    assert "3,000 rows of version 1 have a label that means something else" in said
    grow(grown, in_euros(make_rows(1_500, first=ROWS)))
    [model] = cycle.run(force=True)
    assert (model.labels, model.sources) == (1_500, {"version 3": 1_500})
    assert 30.0 < model.base_rate < 40.0
    assert model.replaces == ""
    assert "live_mse" not in model.metrics
    rows = training_set(grown, third).table
    assert pl.Series(rows["label"]).min() == 30.0


def test_a_backfill_makes_the_old_rows_fit_to_be_learned(
    fill: Fill, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """`publish --backfill`: each decision is learned once, and the record says whence."""
    grown = fill(make_loop())
    third = make_loop(version=3, label=EUROS, models=BATCH_ONLY)
    take_over(grown, third, ROWS)
    grow(grown, in_euros(make_rows(500, first=ROWS)))
    cycle = cycle_of(third, grown, MemoryModelTopic())
    assert cycle.run(force=True) == [], "500 of the 1,000 labels"
    make_anew(grown, third, in_euros(make_rows(ROWS + 200)))  # 200 of them are live, too
    [model] = cycle.run(force=True)
    assert model.sources == {f"backfill version_{third.version}": ROWS, "version 3": 500}
    assert model.labels == ROWS + 500
    rows = pl.DataFrame(training_set(grown, third).table)
    assert rows.height == rows["decision_id"].n_unique() == ROWS + 500
    assert rows["label"].min() == 30.0


def test_a_backfill_of_another_label_is_not_taken(
    fill: Fill, make_loop: MakeLoop, make_rows: MakeRows
) -> None:
    """A backfill of version 2 in cents says nothing to version 3 in euros."""
    grown = fill(make_loop())
    second = make_loop(version=2, label={"sql": "100 * sum(delay)", "type": "float"})
    make_anew(grown, second, in_euros(make_rows(ROWS)))
    third = make_loop(version=3, label=EUROS)
    take_over(grown, third, ROWS)
    assert training_set(grown, third).table.num_rows == 0
    fourth = make_loop(version=4, label={"sql": "100 * sum(delay)", "type": "float"})
    take_over(grown, fourth, ROWS + 1)
    assert training_set(grown, fourth).table.num_rows == ROWS


def test_an_online_learner_passes_over_the_rows_of_another_label(
    fill: Fill, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """It learns each row once and could never unlearn one; its predictions are apart, too."""
    topic, online = MemoryModelTopic(), {"batch": None, "online": {"publish_every": 400}}
    first = make_loop(models=online)
    grown = fill(first)
    [*_, before] = cycle_of(first, grown, topic).run()
    second = make_loop(version=2, models=online, label={"sql": "max(delay) > 60"})
    take_over(grown, second, ROWS)
    cycle = cycle_of(second, grown, topic)
    assert cycle.run() == []
    assert cycle.online_run is not None
    assert cycle.online_run.learner.rows == 0
    for start in range(ROWS, ROWS + 1_500, 500):
        grow(grown, make_rows(500, first=start))
        cycle.run()
    assert cycle.online_run.learner.rows == 1_500
    newest = cycle.registry.models()[-1]
    assert newest.number > before.number
    assert newest.sources == {"version 2": 1_500}
    predictions = cycle.online_run.predictions.read()
    assert predictions.height
    assert predictions["decision_id"].min() >= f"d{ROWS:08}"  # type: ignore[operator]  # a text


def test_an_online_learner_begins_with_the_backfill(
    fill: Fill, make_loop: MakeLoop, make_rows: MakeRows
) -> None:
    """What was made anew is learned like a commit, before all others, and once."""
    online = {"batch": None, "online": {"publish_every": 10_000}}
    grown = fill(make_loop())
    second = make_loop(version=2, models=online, label={"sql": "max(delay) > 60"})
    make_anew(grown, second, make_rows(ROWS))
    take_over(grown, second, ROWS)
    cycle = cycle_of(second, grown, MemoryModelTopic())
    [model] = cycle.run(force=True)
    assert model.trained_on_rows == ROWS
    again = cycle_of(second, grown, MemoryModelTopic())
    assert again.run(force=True) == []


def test_an_online_learner_goes_on_when_an_action_comes(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """Predictions of two actions and of three stand in one table; the new one is not learned."""
    online = {"batch": None, "online": {"learning_rate": 0.05, "publish_every": 1_000}}
    policy = {"kind": "greedy", "epsilon": 0.5}
    first = make_loop(models=online, policy=policy)
    take_over(lake, first, None)
    cycle = cycle_of(first, lake, MemoryModelTopic())

    def explored(start: int, actions: list[str]) -> pl.DataFrame:
        taken = np.random.default_rng(start).choice(actions, 500)
        return make_rows(500, first=start).with_columns(
            action=pl.Series(taken), propensity=pl.lit(0.5), source=pl.lit("explore")
        )

    for start in range(0, 2_000, 500):
        grow(lake, explored(start, ["warn", "quiet"]))
        cycle.run()
    assert cycle.online_run is not None
    assert cycle.online_run.learner.fitted_signature().fields[-1].vocabulary == ("quiet", "warn")
    decision = {"type": "choice", "actions": ["new", "quiet", "warn"], "default": "quiet"}
    second = make_loop(version=2, models=online, policy=policy, decision=decision)
    take_over(lake, second, 2_000)
    cycle = cycle_of(second, lake, MemoryModelTopic())
    assert cycle.online_run is not None
    assert cycle.online_run.learner.rows == 2_000, "it goes on"
    for start in range(2_000, 5_000, 500):
        grow(lake, explored(start, ["new", "quiet", "warn"]))
        cycle.run()
    scores = cycle.online_run.predictions.read(since=START + timedelta(minutes=2_000))
    assert scores["actions"].list.len().unique().to_list() == [3]
    news = scores["scores"].list.get(0)
    assert news.is_nan().any(), "before it was learned"
    assert not news.is_nan().all(), "and once it was"
    last = cycle.registry.models()[-1]
    assert "not numbers" not in last.reason
    assert last.signature.fields[-1].vocabulary == ("new", "quiet", "warn")


def test_an_older_trainer_does_not_replace_a_model_of_a_newer_label(
    fill: Fill, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """For a moment trainers of two versions run; workers of the newer one refuse its model."""
    topic = MemoryModelTopic()
    old = make_loop(models=BATCH_ONLY)
    grown = fill(old)
    second = make_loop(version=2, label={"sql": "max(delay) > 60"}, models=BATCH_ONLY)
    take_over(grown, second, ROWS)
    grow(grown, make_rows(2_000, first=ROWS))
    [live] = cycle_of(second, grown, topic).run(force=True)
    assert live.promoted, live.reason
    [late] = cycle_of(old, grown, topic).run(force=True)
    assert not late.promoted
    assert (
        late.reason == "not promoted: lightgbm-1 of loop version 2 has learned another label, "
        "and it is newer"
    )
    assert late.sources == {"version 1": ROWS}
