"""The registry: one row for each version, from which the topic can be restored."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from tests.trainers.cycles import BATCH_ONLY, KEY, NOW, cycle_of, live_version

from tidemill.errors import FencedError
from tidemill.features.lake.lake import Lake
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import LIVE
from tidemill.trainers.publisher import MemoryModelTopic, Publisher
from tidemill.trainers.registry import ONLINE

MakeLoop = Callable[..., Loop]


def test_a_second_trainer_of_the_same_lake_is_fenced(grown: Lake, make_loop: MakeLoop) -> None:
    """Two trainers would publish two models of one number."""
    loop = make_loop(version=2, models=BATCH_ONLY)
    first = cycle_of(loop, grown, MemoryModelTopic())
    second = cycle_of(loop, Lake(grown.config), MemoryModelTopic())
    first.run()
    with pytest.raises(FencedError):
        second.run()


@pytest.mark.slow
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


@pytest.mark.slow
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
    manifest = cycle.registry.manifest(model, 10, LIVE)
    assert dict(manifest.metrics) == dict(model.metrics)
