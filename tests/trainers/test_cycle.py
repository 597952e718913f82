"""The training cycle: everything in order, and nothing lost or doubled by a kill between steps."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tidemill.errors import BrokerError, FencedError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.tables import Table
from tidemill.schemas.loop.definition import Loop, Online
from tidemill.schemas.models.assembler import Delivery, ModelAssembler
from tidemill.schemas.models.manifest import LIVE
from tidemill.schemas.models.river_state import LinearState
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.learners.online import OnlineLearner
from tidemill.trainers.publisher import KeyedRecord, MemoryModelTopic, ModelTopic, Publisher
from tidemill.trainers.registry import ONLINE, ModelVersion

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]
KEY = SigningKey.generate()
NOW = datetime(2026, 2, 1, tzinfo=UTC)
BATCH_ONLY = {
    "batch": {
        "min_labels": 1000,
        "retrain": {"new_labels": 1000},
        "rounds": 20,
        "params": {"num_leaves": 7, "min_data_in_leaf": 20},
    },
    "online": None,
}


class Killed(BaseException):
    """What stands for SIGKILL: nothing in the product catches it."""


class DyingTopic(MemoryModelTopic):
    """A model topic whose process is killed, or whose broker is away, before its n-th write."""

    def __init__(self, kill_at: int | None, error: BaseException) -> None:
        super().__init__()
        self.kill_at, self._error = kill_at, error
        self.writes = 0

    def write(self, items: Iterable[KeyedRecord]) -> None:
        """Append, unless it is the moment."""
        self.writes += 1
        if self.writes == self.kill_at:
            raise self._error
        super().write(items)


class DyingLake(Lake):
    """A lake whose process is killed before, or after, its n-th commit."""

    def __init__(self, config: LakeConfig, kill_at: int, *, is_after: bool) -> None:
        super().__init__(config)
        self.left, self.is_after = kill_at, is_after

    def table(self, loop_name: str, name: str, *, fenced: bool = True) -> Table:
        """Return the table, mortal."""
        return DyingTable(self, super().table(loop_name, name, fenced=fenced))


class DyingTable(Table):
    """A table of a `DyingLake`."""

    def __init__(self, lake: DyingLake, table: Table) -> None:
        self.__dict__.update(vars(table))
        self._lake = lake

    def append(
        self,
        frame: pl.DataFrame | None,
        *,
        swaps: Sequence[CompareAndSwap],
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Append, unless it is the moment."""
        self._lake.left -= 1
        if self._lake.left == 0 and not self._lake.is_after:
            raise Killed
        version = super().append(frame, swaps=swaps, metadata=metadata)
        if self._lake.left == 0:
            raise Killed
        return version


def online_of(loop: Loop) -> Online:
    """The online learner of a loop that has one."""
    assert loop.models.online is not None
    return loop.models.online


def cycle_of(loop: Loop, lake: Lake, topic: ModelTopic) -> TrainingCycle:
    """A trainer as it stands after a start."""
    return TrainingCycle(loop, lake, Publisher(topic, loop.loop, KEY), clock=lambda: NOW)


def live_version(topic: ModelTopic) -> str | None:
    """What a worker that starts now would serve."""
    inbox = ModelAssembler(TrustedKeys.of([KEY.public]))
    outs = [inbox.feed(key, value) for key, value in topic.read().items()]
    found = [out.announcement.version for out in outs if isinstance(out, Delivery)]
    assert inbox.pending() == []
    return found[-1] if found else None


def told(models: Iterable[ModelVersion]) -> list[tuple[str, bool]]:
    """Version and verdict of each model."""
    return [(model.version, model.promoted) for model in models]


@pytest.fixture
def grown(lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow) -> Lake:
    """A lake with 3,000 labelled rows in six commits."""
    lake.create(make_loop())
    for start in range(0, 3_000, 500):
        grow(lake, make_rows(500, first=start))
    return lake


def test_an_empty_lake_makes_no_model(lake: Lake, make_loop: MakeLoop) -> None:
    """The first minutes of every loop."""
    topic = MemoryModelTopic()
    assert cycle_of(make_loop(), lake, topic).run() == []
    assert topic.log == []


def test_the_first_model_waits_for_enough_labels(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """`min_labels` counts labelled rows, not rows."""
    loop = make_loop(models=BATCH_ONLY)
    topic = MemoryModelTopic()
    cycle = cycle_of(loop, lake, topic)
    unlabelled = pl.lit(None, dtype=pl.Float64).alias("label")
    grow(lake, make_rows(500, first=5_000).with_columns(unlabelled))
    grow(lake, make_rows(999))
    assert cycle.run(force=True) == []
    grow(lake, make_rows(1, first=999))
    assert [model.version for model in cycle.run(force=True)] == ["lightgbm-1"]


def test_both_learners_publish_and_the_gate_decides(grown: Lake, make_loop: MakeLoop) -> None:
    """The online learner offers every 700 rows, LightGBM once; all are kept, one is live."""
    topic = MemoryModelTopic()
    cycle = cycle_of(make_loop(), grown, topic)
    made = cycle.run()
    assert [model.version for model in made] == [
        "logistic_regression-1",
        "logistic_regression-2",
        "logistic_regression-3",
        "lightgbm-4",
    ]
    assert [model.trained_on_rows for model in made[:3]] == [1_000, 2_000, 3_000]
    assert made[3].trained_on_rows == 2_400 - 31
    live = cycle.registry.live()
    assert live is not None
    assert live_version(topic) == live.version
    assert all(model.reason.startswith(("promoted: ", "not promoted: ")) for model in made)
    assert f"live {made[2].version}" in made[3].reason


def test_a_turn_with_nothing_new_makes_nothing(grown: Lake, make_loop: MakeLoop) -> None:
    """The trainer looks every second; the lake may rest for a day."""
    topic = MemoryModelTopic()
    cycle = cycle_of(make_loop(), grown, topic)
    cycle.run()
    before = list(topic.log)
    assert cycle.run() == []
    assert cycle.run(force=True) == []
    assert topic.log == before


def test_retraining_counts_new_labels(
    grown: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """After `new_labels` and not one earlier."""
    cycle = cycle_of(make_loop(version=2, models=BATCH_ONLY), grown, MemoryModelTopic())
    cycle.run()
    grow(grown, make_rows(999, first=3_000))
    assert look(cycle) == []
    grow(grown, make_rows(1, first=3_999))
    assert [model.version for model in look(cycle)] == ["lightgbm-2"]


def look(cycle: TrainingCycle) -> list[ModelVersion]:
    """Run the cycle until it has counted the labels again, which it does not do each time."""
    before = cycle.registry.next_number()
    while cycle._label_count is None or cycle._label_count.version != cycle._examples.version():
        cycle.run()
    return [model for model in cycle.registry.models() if model.number >= before]


def test_retraining_by_schedule_follows_event_time(
    grown: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """A replay of last year retrains by last year's clock."""
    often = BATCH_ONLY["batch"] | {"retrain": {"new_labels": 10_000, "every": "2h"}}  # type: ignore[operator]
    cycle = cycle_of(
        make_loop(version=2, models={"batch": often, "online": None}), grown, MemoryModelTopic()
    )
    cycle.run()
    grow(grown, make_rows(119, first=3_000))
    assert look(cycle) == []
    grow(grown, make_rows(1, first=3_119))
    assert len(look(cycle)) == 1


def test_a_model_that_knows_nothing_is_kept_and_not_published(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """Negative control through the whole cycle: coins in, no model out, and the reason kept."""
    topic = MemoryModelTopic()
    cycle = cycle_of(make_loop(), lake, topic)
    for start in range(0, 3_000, 500):
        grow(lake, make_rows(500, first=start, signal=0.0))
    made = cycle.run()
    assert len(made) == 4
    assert not any(model.promoted for model in made)
    assert all(model.sequence == 0 for model in made)
    assert live_version(topic) is None
    assert made[0].reason == "not promoted: only 0 later rows, the gate wants 100"
    assert all("the base rate's" in model.reason for model in made[1:])


@pytest.mark.parametrize("error", [Killed(), BrokerError("away", hint="wait")], ids=repr)
@pytest.mark.parametrize("kill_at", range(1, 10))
def test_a_kill_before_any_write_to_the_topic_neither_loses_nor_doubles_a_version(
    grown: Lake, make_loop: MakeLoop, kill_at: int, error: BaseException
) -> None:
    """The lake and the topic end as without a kill."""
    topic = DyingTopic(kill_at, error)
    with contextlib.suppress(Killed, BrokerError):
        cycle_of(make_loop(), grown, topic).run()
    assert topic.writes >= kill_at
    assert_as_without_a_kill(make_loop(), grown, topic)


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kill_at", range(1, 8))
def test_a_kill_around_any_commit_of_the_lake_neither_loses_nor_doubles_a_version(
    grown: Lake, make_loop: MakeLoop, kill_at: int, is_after: bool
) -> None:
    """Predictions and versions are commits: 3 of the one, 4 of the other."""
    topic = MemoryModelTopic()
    dying = DyingLake(grown.config, kill_at, is_after=is_after)
    with pytest.raises(Killed):
        cycle_of(make_loop(), dying, topic).run()
    assert_as_without_a_kill(make_loop(), grown, topic)


def assert_as_without_a_kill(loop: Loop, lake: Lake, topic: ModelTopic) -> None:
    """Start a trainer anew; what then is, is what one straight run leaves."""
    restarted = cycle_of(loop, Lake(lake.config), topic)
    restarted.run()
    models = restarted.registry.models()
    assert [model.version for model in models] == [
        "logistic_regression-1",
        "logistic_regression-2",
        "logistic_regression-3",
        "lightgbm-4",
    ]
    assert [model.trained_on_rows for model in models] == [1_000, 2_000, 3_000, 2_369]
    straight = OnlineLearner(loop, online_of(loop))
    examples = lake.table(loop.loop, "examples")
    for commit in examples.commits_since(-1):
        straight.learn(commit.version, examples.rows(commit))
    assert restarted.registry.payload(models[2]) == straight.state().to_bytes()
    predictions = lake.table(loop.loop, "online_predictions").read()
    assert predictions["decision_id"].n_unique() == predictions.height == 3_000
    live = restarted.registry.live()
    assert live is not None
    assert live_version(topic) == live.version


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


def test_a_second_trainer_of_the_same_lake_is_fenced(grown: Lake, make_loop: MakeLoop) -> None:
    """Two trainers would publish two models of one number."""
    loop = make_loop(version=2, models=BATCH_ONLY)
    first = cycle_of(loop, grown, MemoryModelTopic())
    second = cycle_of(loop, Lake(grown.config), MemoryModelTopic())
    first.run()
    with pytest.raises(FencedError):
        second.run()


def test_a_new_topic_gets_the_live_model_back(grown: Lake, make_loop: MakeLoop) -> None:
    """The lake is the truth; a broker that lost its disk is filled again at the next start."""
    loop = make_loop()
    cycle = cycle_of(loop, grown, MemoryModelTopic())
    cycle.run()
    live = cycle.registry.live()
    assert live is not None
    topic = MemoryModelTopic()
    cycle_of(loop, grown, topic).publish()
    assert live_version(topic) == live.version
    assert Publisher(topic, loop.loop, KEY).manifest(ONLINE) is not None


def test_a_model_of_other_features_does_not_compete(grown: Lake, make_loop: MakeLoop) -> None:
    """After a new loop version the live model cannot be asked; the verdict says so."""
    cycle_of(make_loop(version=2, models=BATCH_ONLY), grown, MemoryModelTopic()).run()
    features = {"hour": "int", "line": "category"}
    loop = make_loop(version=3, models=BATCH_ONLY, features=features)
    [model] = cycle_of(loop, grown, MemoryModelTopic()).run()
    assert model.promoted
    assert model.reason.endswith("reads other features and could not compete")
    assert model.loop_version == 3


def test_every_version_names_its_data_its_seed_and_its_cost(
    grown: Lake, make_loop: MakeLoop
) -> None:
    """Whoever asks in a year why a model was live finds it in one row."""
    cycle = cycle_of(make_loop(), grown, MemoryModelTopic())
    model = cycle.run()[-1]
    assert model.learner == "lightgbm"
    assert model.at == NOW
    assert model.snapshot == grown.table("late-train", "examples").version()
    assert model.labels == 3_000
    assert model.until == datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=2_999)
    assert model.later_from == datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=2_400)
    assert model.params["num_leaves"] == 7
    assert model.seed == 7
    assert model.software["lightgbm"]
    assert model.cpu_s > 0
    assert model.replaces.startswith("logistic_regression-")
    read = cycle_of(make_loop(), grown, MemoryModelTopic()).registry.models()[-1]
    assert read == model
    announced = cycle.registry.manifest(model, 10, LIVE)
    assert dict(announced.metrics) == dict(model.metrics)


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
