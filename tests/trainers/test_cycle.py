"""The training cycle: steps in order, and a kill between them neither loses nor repeats one."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import polars as pl
import pytest
from tests.trainers.cycles import BATCH_ONLY, cycle_of, live_version, online_of

from tidemill.errors import BrokerError, ModelError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.tables import Table
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.signing import SigningKey
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.learners.online import OnlineLearner
from tidemill.trainers.publisher import KeyedRecord, MemoryModelTopic, ModelTopic, Publisher
from tidemill.trainers.registry import ModelVersion

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]


class Killed(BaseException):
    """Stands for SIGKILL: no code of the product catches it."""


class DyingTopic(MemoryModelTopic):
    """A model topic whose process is killed, or whose broker is away, before its n-th write."""

    def __init__(self, kill_at: int | None, error: BaseException) -> None:
        super().__init__()
        self.kill_at, self._error = kill_at, error
        self.writes = 0

    def write(self, items: Iterable[KeyedRecord]) -> None:
        """Append, unless this is the write to die at."""
        self.writes += 1
        if self.writes == self.kill_at:
            raise self._error
        super().write(items)


class DyingLake(Lake):
    """A lake whose process is killed before, or after, its n-th commit."""

    def __init__(self, config: LakeConfig, kill_at: int, *, is_after: bool) -> None:
        super().__init__(config)
        self.left, self.is_after = kill_at, is_after

    def table(self, loop_name: str, name: str) -> Table:
        """Return the table, which dies with its lake."""
        return DyingTable(self, super().table(loop_name, name))


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
        is_new: bool = True,
    ) -> int:
        """Append, unless this is the write to die at."""
        self._lake.left -= 1
        if self._lake.left == 0 and not self._lake.is_after:
            raise Killed
        version = super().append(frame, swaps=swaps, metadata=metadata, is_new=is_new)
        if self._lake.left == 0:
            raise Killed
        return version


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_cycle_with_nothing_new_makes_nothing(grown: Lake, make_loop: MakeLoop) -> None:
    """A cycle runs each second; the lake may not change for a day."""
    topic = MemoryModelTopic()
    cycle = cycle_of(make_loop(), grown, topic)
    cycle.run()
    before = list(topic.log)
    assert cycle.run() == []
    assert cycle.run(force=True) == []
    assert topic.log == before


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert made[0].reason.startswith("not promoted: only 0 later rows, the gate wants 100; each")
    assert all("the base rate's" in model.reason for model in made[1:])


@pytest.mark.slow
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


@pytest.mark.slow
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
    """Start a trainer again and check that lake and topic are as after a run without a kill."""
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


@pytest.mark.slow
def test_a_model_of_other_features_does_not_compete(grown: Lake, make_loop: MakeLoop) -> None:
    """After a new loop version the live model cannot be asked; the verdict says so."""
    cycle_of(make_loop(version=2, models=BATCH_ONLY), grown, MemoryModelTopic()).run()
    features = {"hour": "int", "line": "category"}
    loop = make_loop(version=3, models=BATCH_ONLY, features=features)
    [model] = cycle_of(loop, grown, MemoryModelTopic()).run()
    assert model.promoted
    assert "the live lightgbm-1 reads other features than" in model.reason
    assert model.reason.endswith("and could not compete")
    assert model.loop_version == 3


def test_what_workers_would_refuse_is_not_promoted(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """A promoted model that no worker loads leaves the old one deciding, and nobody is told."""
    loop = make_loop(models=BATCH_ONLY)
    tried: list[str] = []

    def trial(_loop: Loop, /, *, version: str, **_model: object) -> None:
        tried.append(version)
        raise ModelError("it is a forest", hint="")

    grow_loop = cycle_of(loop, lake, MemoryModelTopic())
    grow(lake, make_rows(3_000))
    publisher = Publisher(MemoryModelTopic(), loop.loop, SigningKey.generate())
    [refused] = TrainingCycle(loop, lake, publisher, trial=trial).run(force=True)
    assert tried == [refused.version]
    assert refused.reason == "not promoted: workers refuse it: it is a forest"
    assert (refused.promoted, refused.sequence) == (False, 0)
    assert grow_loop.registry.live() is None


@pytest.mark.slow
def test_labels_that_are_too_young_are_told_once_with_the_time_they_are_ready(
    lake: Lake,
    make_loop: MakeLoop,
    make_rows: MakeRows,
    grow: Grow,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A line every few seconds that no model was trained does not say what to wait for."""
    loop = make_loop(
        models=BATCH_ONLY, feedback={"arrived": {"within": "20h", "values": {"delay": "float"}}}
    )
    cycle = cycle_of(loop, lake, MemoryModelTopic())
    grow(lake, make_rows(1_200))
    for first in range(1_200, 1_400, 50):
        assert cycle.run() == []
        grow(lake, make_rows(50, first=first))
    [told] = [one for one in caplog.messages if "no model was trained" in one]
    assert "none of 1,200 labels is old enough" in told
    assert "2026-01-02 01:01" in told
    grow(lake, make_rows(800, first=1_400))
    while not (made := cycle.run()):  # it counts labels again only after a pause
        pass
    assert made[0].trained_on_rows > 0


def test_a_version_that_adds_a_feature_trains_before_its_first_example(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """The trainer of a quiet loop must not end again and again until somebody decides."""
    loop, topic = make_loop(), MemoryModelTopic()
    lake.create(loop)
    grow(lake, make_rows(2_000))
    tree = loop.model_dump(mode="json")
    tree["features"]["logged_in"] = {"type": "bool", "nullable": True}
    newer = Loop.model_validate(tree | {"version": 2})
    made = cycle_of(newer, lake, topic).run(force=True)
    assert {model.learner for model in made} == {"logistic_regression", "lightgbm"}
    assert all("logged_in" in model.features for model in made)


@pytest.mark.slow
def test_requests_with_a_baseline_are_judged_against_it(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """Both learners: the default of the loop is not what the service would have done."""
    loop, topic = make_loop(), MemoryModelTopic()
    lake.create(loop)
    for start in range(0, 3_000, 500):
        rows = make_rows(500, first=start)
        known = pl.when(pl.col("label") > 0).then(pl.lit("warn")).otherwise(pl.lit("quiet"))
        grow(lake, rows.with_columns(known.alias("baseline")))
    made = cycle_of(loop, lake, topic).run()
    judged = [model for model in made if "default_cost" in model.metrics]
    assert {model.learner for model in judged} == {"logistic_regression", "lightgbm"}
    assert all(model.metrics["default_cost"] == 0.0 for model in judged)
    assert not any(model.promoted for model in made)
