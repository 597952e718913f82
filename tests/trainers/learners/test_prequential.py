"""The predictions an online learner would have served, by which it is judged."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl

from tidemill.features.lake.lake import Lake
from tidemill.schemas.loop.definition import FieldType, Loop, Online
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField
from tidemill.schemas.models.river_state import LinearPredictor, LinearState
from tidemill.trainers.learners.prequential import MAX_STATES, OfferedStates, Predictions

MakeLoop = Callable[..., Loop]
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ONLINE = Online()


def predictor(value: float) -> LinearPredictor:
    """A model that predicts *value*, whatever the row."""
    state = LinearState(
        learner="linear_regression",
        learning_rate=0.1,
        l2=0.0,
        learned_until=1,
        rows=1,
        loss_sum=0.0,
        iterations=1,
        intercept=value,
        scales=(),
        weights=(),
    )
    return LinearPredictor(state, FeatureSignature((SignatureField("hour", FieldType.INT),)))


def told(first: int, count: int, predicted: float | None = 0.5) -> pl.DataFrame:
    """Predictions of *count* decisions, one an hour."""
    numbers = range(first, first + count)
    return pl.DataFrame(
        {
            "decision_id": [f"d{number:04}" for number in numbers],
            "at": [START + number * HOUR for number in numbers],
            "label": [1.0] * count,
            "predicted": [predicted] * count,
            "prequential": [0.4] * count,
        },
        schema_overrides={"predicted": pl.Float64, "at": pl.Datetime("us", "UTC")},
    )


def test_a_state_serves_once_its_labels_were_known() -> None:
    """If labels take 8 hours, a decision at noon cannot use those of the decisions at eleven."""
    states = OfferedStates(8 * HOUR)
    states.add(START, predictor(1.0))
    states.add(START + 10 * HOUR, predictor(2.0))
    times = [START + hours * HOUR for hours in (0, 7, 8, 17, 18, 99)]
    assert states.predict(times, [{}] * 6) == [None, None, 1.0, 1.0, 2.0, 2.0]


def test_only_the_newest_states_are_remembered() -> None:
    """A learner that offers every second must not fill the memory."""
    states = OfferedStates(HOUR)
    for number in range(3 * MAX_STATES):
        states.add(START + number * HOUR, predictor(float(number)))
    assert states.score(START + HOUR, {}) is None
    assert states.score(START + 2 * MAX_STATES * HOUR + HOUR, {}) == 2.0 * MAX_STATES


def test_saved_predictions_come_back_in_order_of_time(lake: Lake, make_loop: MakeLoop) -> None:
    """Rows that no state could serve are stored, but judge no model."""
    lake.create(make_loop())
    kept = Predictions(lake, "late-train", ONLINE)
    kept.add(2, told(30, 10))
    kept.add(3, told(0, 5, predicted=None))
    kept.add(4, told(10, 20))
    kept.save()
    found = Predictions(lake, "late-train", ONLINE)
    assert found.read()["decision_id"].to_list() == [f"d{number:04}" for number in range(10, 40)]
    assert found.read(since=START + 35 * HOUR).height == 5
    assert found.newest(3)["decision_id"].to_list() == ["d0037", "d0038", "d0039"]
    assert found.newest(9, since=START + 39 * HOUR).height == 1
    assert sorted(found.learned_ids(3)) == [
        f"d{number:04}" for number in [*range(5), *range(30, 40)]
    ]


def test_commits_gone_through_again_add_nothing(lake: Lake, make_loop: MakeLoop) -> None:
    """A resumed learner starts before the predictions it had saved already."""
    lake.create(make_loop())
    first = Predictions(lake, "late-train", ONLINE)
    first.add(1, told(0, 5))
    first.add(2, told(5, 5))
    first.save()
    again = Predictions(lake, "late-train", ONLINE)
    again.add(2, told(5, 5))
    again.add(3, told(10, 5))
    again.save()
    again.save()
    assert again.read().height == again.read()["decision_id"].n_unique() == 15


def test_another_learner_has_predictions_of_its_own(lake: Lake, make_loop: MakeLoop) -> None:
    """Another rate starts from zero; its predictions do not mix with those of the old one."""
    lake.create(make_loop())
    slow, fast = (
        Predictions(lake, "late-train", Online(learning_rate=rate)) for rate in (0.01, 0.5)
    )
    slow.add(1, told(0, 5))
    slow.save()
    fast.add(1, told(0, 3))
    fast.save()
    assert (slow.read().height, fast.read().height) == (5, 3)


def test_two_writers_of_one_learner_save_once(lake: Lake, make_loop: MakeLoop) -> None:
    """The second sees that the rows are there already."""
    lake.create(make_loop())
    one, two = (Predictions(Lake(lake.config), "late-train", ONLINE) for _ in range(2))
    one.add(1, told(0, 5))
    two.add(1, told(0, 5))
    one.save()
    two.save()
    assert two.read().height == 5
