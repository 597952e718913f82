"""The trainer process without a broker or with a full disk: late, but nothing happens twice."""

import resource
from collections.abc import Callable
from uuid import uuid4

import polars as pl
import pytest
from tests.trainers.rig import (
    DEADLINE_S,
    TrainerProcess,
    assert_learned_once,
    commit,
    is_taught,
    received,
    wait_for,
)

from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.features.lake.lake import Lake
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import LIVE
from tidemill.schemas.published import publish_loop
from tidemill.trainers.registry import ONLINE, Registry

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
StartTrainer = Callable[..., TrainerProcess]
ONLINE_ONLY = {"batch": None, "online": {"publish_every": 700}}


@pytest.fixture
def loop(lake: Lake, make_loop: MakeLoop) -> Loop:
    """A loop of this test alone, with an online learner only; its tables are there."""
    made = make_loop(loop=f"late-{uuid4().hex[:8]}", models=ONLINE_ONLY)
    lake.create(made)
    return made


@pytest.mark.kafka
def test_a_version_made_while_the_broker_is_away_is_published_once_when_it_is_back(
    start_trainer: StartTrainer,
    own_kafka: EmbeddedKafka,
    loop: Loop,
    lake: Lake,
    make_rows: MakeRows,
) -> None:
    """Training goes on without Kafka, says what is missing, and needs nobody to start it again."""
    publish_loop(own_kafka.config, loop)
    trainer = start_trainer(own_kafka.config, loop)
    commit(lake, loop, make_rows(800))
    wait_for(lambda: bool(received(own_kafka.config, loop, slot=ONLINE)))
    own_kafka.kill()
    commit(lake, loop, make_rows(800, first=800))
    wait_for(lambda: is_taught(lake, loop, 1_600))
    wait_for(lambda: "new models wait in the lake" in trainer.errors)
    assert "hint: " in trainer.errors.split("new models wait in the lake", 1)[1].splitlines()[0]
    assert trainer.process.poll() is None
    own_kafka.restart()
    wait_for(lambda: len(received(own_kafka.config, loop, slot=ONLINE)) > 1)
    assert trainer.end() == 0
    assert_learned_once(lake, loop, [800, 1_600])
    models = Registry(lake, loop.loop).models()
    for slot, expected in (
        (ONLINE, models),
        (LIVE, [model for model in models if model.promoted]),
    ):
        told = [one.manifest.digest for one in received(own_kafka.config, loop, slot=slot)]
        assert told == [model.digest for model in expected]


@pytest.mark.kafka
def test_a_full_disk_ends_the_process_and_with_room_the_next_makes_the_version_once(
    start_trainer: StartTrainer, kafka: KafkaConfig, loop: Loop, lake: Lake, make_rows: MakeRows
) -> None:
    """A file size limit refuses writes as a full disk does, and needs no root."""
    publish_loop(kafka, loop)
    trainer = start_trainer(kafka, loop)
    commit(lake, loop, make_rows(800))
    wait_for(lambda: is_taught(lake, loop, 800))
    resource.prlimit(trainer.process.pid, resource.RLIMIT_FSIZE, (4_096, 4_096))
    commit(lake, loop, make_rows(800, first=800))
    assert trainer.process.wait(DEADLINE_S) == 2
    assert "tidemill: cannot " in trainer.errors
    assert f"hint: free disk space for {lake.root}" in trainer.errors
    assert not is_taught(lake, loop, 1_600)
    second = start_trainer(kafka, loop)
    wait_for(lambda: is_taught(lake, loop, 1_600))
    assert second.end() == 0
    assert_learned_once(lake, loop, [800, 1_600])
    told = [one.manifest.trained_on_rows for one in received(kafka, loop, slot=ONLINE)]
    assert told == [800, 1_600]
