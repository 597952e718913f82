"""A lake that was lost is made again, models included, and its trainer goes on."""

from collections.abc import Callable

import polars as pl
import pytest
from tests.trainers.cycles import KEY, cycle_of, live_version

from tidemill.errors import ModelError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.trainers.model_restore import restore_models
from tidemill.trainers.publisher import MemoryModelTopic

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]
TRUSTED = TrustedKeys.of([KEY.public])


@pytest.fixture
def topic(grown: Lake, make_loop: MakeLoop) -> MemoryModelTopic:
    """A topic with the models of a lake that is lost afterwards."""
    topic = MemoryModelTopic()
    made = cycle_of(make_loop(), grown, topic).run(force=True)
    assert {model.learner for model in made} == {"lightgbm", "logistic_regression"}
    assert live_version(topic) is not None
    return topic


@pytest.fixture
def again(grown: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow) -> Lake:
    """The lake that a replay has made: the same examples in other commits, and no model."""
    lake = Lake(LakeConfig(root=f"{grown.root}-again"))
    lake.create(make_loop())
    grow(lake, make_rows(3_000))
    return lake


def test_without_its_models_a_restored_lake_has_no_trainer(
    topic: MemoryModelTopic, again: Lake, make_loop: MakeLoop
) -> None:
    """The topic has later models than the registry could make: the hint says what to do."""
    with pytest.raises(ModelError) as error:
        cycle_of(make_loop(), again, topic).run(force=True)
    assert "tidemill model restore late-train" in error.value.hint


def test_a_trainer_goes_on_after_the_models_that_were_restored(
    topic: MemoryModelTopic, again: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """The live model stays as it is, and later ones have later numbers."""
    loop, before, log = make_loop(), live_version(topic), len(topic.log)
    restored = restore_models(again, loop, topic, TRUSTED)
    assert restored[-1].number == max(model.number for model in restored)
    cycle = cycle_of(loop, again, topic)
    live = cycle.registry.live()
    assert live is not None
    assert live.version == before
    cycle.publish()
    assert live_version(topic) == before
    assert len(topic.log) == log, "what the topic has already is not written again"
    grow(again, make_rows(3_000, first=3_000))
    made = cycle.run(force=True)
    assert made
    assert min(model.number for model in made) > restored[-1].number
    promoted = [model for model in made if model.promoted]
    assert all(model.sequence > live.sequence for model in promoted)


def test_the_online_learner_learns_a_restored_lake_from_its_first_row(
    topic: MemoryModelTopic, again: Lake, make_loop: MakeLoop
) -> None:
    """Its state counts commits of the lost lake: continued here it would skip rows."""
    restore_models(again, make_loop(), topic, TRUSTED)
    cycle = cycle_of(make_loop(), again, topic)
    cycle.run()
    assert cycle.online_run is not None
    assert cycle.online_run.learner.rows == 3_000


def test_a_lake_with_models_is_not_restored(
    topic: MemoryModelTopic, grown: Lake, make_loop: MakeLoop
) -> None:
    """Two models of one number would be two answers to what decided."""
    with pytest.raises(ModelError, match="already"):
        restore_models(grown, make_loop(), topic, TRUSTED)


def test_models_of_another_key_are_not_restored(
    topic: MemoryModelTopic, again: Lake, make_loop: MakeLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may write to the topic must not get a model into the registry."""
    stranger = TrustedKeys.of([SigningKey.generate().public])
    assert restore_models(again, make_loop(), topic, stranger) == []
    assert "not restored" in caplog.text
