"""Evaluation sets: all models are judged by the same rows, and none by rows it has learned."""

from collections.abc import Callable

import polars as pl
import pytest

from tidemill.features.lake.lake import Lake
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.signing import SigningKey
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.publisher import MemoryModelTopic, Publisher
from tidemill.trainers.registry import ModelVersion

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]
BATCH: dict[str, object] = {
    "min_labels": 1_000,
    "retrain": {"new_labels": 1_000},
    "rounds": 20,
    "params": {"num_leaves": 7, "min_data_in_leaf": 20},
}


def train(loop: Loop, lake: Lake) -> list[ModelVersion]:
    """Run one training cycle and return its versions."""
    publisher = Publisher(MemoryModelTopic(), loop.loop, SigningKey.generate())
    return TrainingCycle(loop, lake, publisher).run(force=True)


@pytest.fixture
def grow_to(lake: Lake, make_rows: MakeRows, grow: Grow) -> Callable[[int, int], None]:
    """Commit the rows of a range, 250 a commit."""

    def commit(start: int, stop: int) -> None:
        for first in range(start, stop, 250):
            grow(lake, make_rows(250, first=first))

    return commit


@pytest.mark.slow
def test_a_longer_holdout_does_not_judge_the_live_model_by_rows_it_knows(
    lake: Lake, make_loop: MakeLoop, grow_to: Callable[[int, int], None]
) -> None:
    """It would win by memory: only rows that neither model has learned count."""
    first = make_loop(models={"batch": BATCH, "online": None})
    lake.create(first)
    grow_to(0, 3_000)
    [live] = train(first, lake)
    assert live.promoted
    longer = make_loop(version=2, models={"batch": BATCH | {"holdout": 0.5}, "online": None})
    [candidate] = train(longer, lake)
    assert candidate.trained_on_rows == 1_500 - 31
    assert candidate.metrics["later_rows"] == 600
    assert "live_log_loss" in candidate.metrics


@pytest.mark.slow
def test_a_live_state_of_another_rate_is_asked_as_it_stands(
    lake: Lake, make_loop: MakeLoop, grow_to: Callable[[int, int], None]
) -> None:
    """The predictions of the new learner say nothing about the old one that is live."""
    slow = make_loop(
        models={"batch": None, "online": {"learning_rate": 0.02, "publish_every": 1_000}}
    )
    lake.create(slow)
    grow_to(0, 4_000)
    live = [model for model in train(slow, lake) if model.promoted][-1]
    grow_to(4_000, 5_000)
    fast = make_loop(
        version=2,
        models={"batch": BATCH, "online": {"learning_rate": 0.2, "publish_every": 1_000}},
    )
    made = train(fast, lake)
    *online, batch = made
    assert [model.learner for model in online] == ["logistic_regression"] * 5
    assert online[0].trained_on_rows == 1_000  # from the beginning, at the new rate
    assert all(live.version in model.replaces for model in online[:4])
    last = online[-1]
    assert "live_log_loss" in last.metrics or "continues" in last.reason
    assert batch.metrics["later_rows"] <= 1_000  # not those that the live state has learned
    assert "live_log_loss" in batch.metrics


@pytest.mark.slow
def test_the_online_learner_is_judged_by_the_rows_it_served(
    lake: Lake, make_loop: MakeLoop, grow_to: Callable[[int, int], None]
) -> None:
    """The first offer has served nothing; the second is judged by the predictions of the first."""
    loop = make_loop(models={"batch": None, "online": {"publish_every": 1_000}})
    lake.create(loop)
    grow_to(0, 3_000)
    first, second, third = train(loop, lake)
    assert first.reason.startswith("not promoted: only 0 later rows, the gate wants 100; each")
    assert second.metrics["later_rows"] == 1_000 - 31 + 1
    assert third.metrics["later_rows"] == 2_000 - 31 + 1
    assert second.until is not None
    assert first.until is not None
    assert second.later_from == first.until + loop.wait + loop.grace
