"""The trainer as a process on a real broker: examples in, a model that a worker trusts out."""

import json
from collections.abc import Callable
from dataclasses import replace
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
    received,
    wait_for,
)

from tidemill.errors import ConfigError, ContractError, LoopError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig, write_all
from tidemill.metrics_page import MetricsPage
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.signing import SigningKey
from tidemill.schemas.published import key_of, publish_loop
from tidemill.serving.model.admission import try_payload
from tidemill.trainers.evaluation.evaluation_sets import load_model
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.trainer import TrainerConfig, run_trainer

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
StartTrainer = Callable[..., TrainerProcess]


@pytest.fixture
def loop(kafka: KafkaConfig, make_loop: MakeLoop) -> Loop:
    """A published loop of this test alone."""
    made = make_loop(loop=f"late-{uuid4().hex[:8]}")
    publish_loop(kafka, made)
    return made


@pytest.fixture
def config(kafka: KafkaConfig, loop: Loop, lake: Lake) -> TrainerConfig:
    """A trainer of that loop, to be run once."""
    lake.create(loop)
    return TrainerConfig(loop=loop.loop, kafka=kafka, lake=lake.config, key=KEY, once=True)


@pytest.mark.kafka
def test_examples_become_a_model_that_a_worker_verifies(
    config: TrainerConfig, kafka: KafkaConfig, loop: Loop, lake: Lake, make_rows: MakeRows
) -> None:
    """The whole way of a model, from the lake over a real topic to a prediction."""
    for start in range(0, 3_000, 1_000):
        commit(lake, loop, make_rows(1_000, first=start))
    made: list[ModelVersion] = []
    assert run_trainer(config, trial=try_payload, on_version=made.append) == 0
    assert [model.learner for model in made] == [*["logistic_regression"] * 3, "lightgbm"]
    live = Registry(lake, loop.loop).live()
    newest = received(kafka, loop)[-1]
    assert live is not None
    assert newest.manifest.version == live.version
    assert newest.manifest.snapshot == live.snapshot
    predicted = load_model(live, newest.payload).predict(make_rows(5).unnest("features"))
    assert ((predicted > 0) & (predicted < 1)).all()
    assert received(kafka, loop, SigningKey.generate()) == []


@pytest.mark.kafka
def test_training_once_more_without_new_examples_publishes_nothing(
    config: TrainerConfig, kafka: KafkaConfig, loop: Loop, lake: Lake, make_rows: MakeRows
) -> None:
    """`tidemill train --once` from a cron job must not swap the fleet for nothing."""
    commit(lake, loop, make_rows(2_000))
    run_trainer(config, trial=try_payload)
    before = received(kafka, loop)
    made: list[ModelVersion] = []
    run_trainer(config, trial=try_payload, on_version=made.append)
    assert made == []
    assert received(kafka, loop) == before


@pytest.mark.kafka
def test_a_process_follows_the_lake_survives_kill_9_and_ends_clean(
    start_trainer: StartTrainer,
    kafka: KafkaConfig,
    loop: Loop,
    lake: Lake,
    make_rows: MakeRows,
) -> None:
    """Killed between two states, the next one goes on to the same bits; SIGTERM ends it with 0."""
    lake.create(loop)
    first = start_trainer(kafka, loop)
    for number in range(5):  # the last of them is learned, and forgotten, or not yet seen
        version = commit(lake, loop, make_rows(500, first=500 * number))
        write_all(kafka, topics.CONTROL, [(loop.loop.encode(), str(version).encode())])
    wait_for(lambda: is_taught(lake, loop, 2_000))
    first.kill()
    second = start_trainer(kafka, loop)
    for number in range(5, 8):
        commit(lake, loop, make_rows(500, first=500 * number))
    wait_for(lambda: is_taught(lake, loop, 4_000))
    assert second.end() == 0
    assert_learned_once(lake, loop, [1_000, 2_000, 3_000, 4_000])
    told = {json.loads(line)["version"] for line in second.out.splitlines()}
    assert told <= {model.version for model in Registry(lake, loop.loop).models()}
    live = Registry(lake, loop.loop).live()
    assert live is not None
    assert received(kafka, loop)[-1].manifest.version == live.version


@pytest.mark.kafka
def test_what_cannot_be_trained_leaves_the_last_good_version(
    config: TrainerConfig,
    kafka: KafkaConfig,
    loop: Loop,
    lake: Lake,
    make_rows: MakeRows,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A record by somebody's script must not end the trainers of all loops, nor of its own."""
    commit(lake, loop, make_rows(2_000))
    tree = loop.model_dump(mode="json") | {"version": 2, "label": {"sql": "nonsense(delay)"}}
    unfit = Loop.model_validate(tree)
    junk = [(f"junk-{loop.loop}/1".encode(), b"not json"), (f"{loop.loop}/3".encode(), b"{}")]
    write_all(kafka, topics.LOOPS, [*junk, (key_of(unfit), unfit.canonical.encode())])
    try:
        made: list[ModelVersion] = []
        assert run_trainer(config, trial=try_payload, on_version=made.append) == 0
        assert {model.loop_version for model in made} == {1}
        said = [line.getMessage() for line in caplog.records]
        assert sum(f"version 2 of {loop.loop} is not trained" in line for line in said) == 1
        assert sum(f"key 'junk-{loop.loop}/1'" in line for line in said) == 1
        assert lake.newest_number(loop.loop) == 1, "the lake has heard of no unfit version"
        alone = Loop.model_validate(tree | {"loop": f"{loop.loop}-alone"})
        write_all(kafka, topics.LOOPS, [(key_of(alone), alone.canonical.encode())])
        with pytest.raises(LoopError, match="nonsense"):
            run_trainer(replace(config, loop=alone.loop), trial=try_payload)
        with pytest.raises(ContractError, match="no loop 'nobody'"):
            run_trainer(replace(config, loop="nobody"), trial=try_payload)
    finally:
        write_all(kafka, topics.LOOPS, [(key, None) for key, _ in junk])


def test_the_settings_come_from_the_environment(tmp_path: Path) -> None:
    """Each missing one is named."""
    KEY.save(tmp_path / "signing.key")
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": "localhost:9092",
        "TIDEMILL_LAKE": str(tmp_path),
        "TIDEMILL_SIGNING_KEY": str(tmp_path / "signing.key"),
        "TIDEMILL_METRICS_PORT": "9000",
    }
    config = TrainerConfig.from_env(env, "offer")
    assert config.lake == LakeConfig(root=str(tmp_path))
    assert config.metrics == MetricsPage(port=9_000)
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "TIDEMILL_LAKE", "TIDEMILL_SIGNING_KEY"):
        without = {key: value for key, value in env.items() if key != name}
        with pytest.raises(ConfigError, match=name):
            TrainerConfig.from_env(without, "offer")
    with pytest.raises(ConfigError, match="TIDEMILL_METRICS_PORT"):
        TrainerConfig.from_env(env | {"TIDEMILL_METRICS_PORT": "many"}, "offer")
