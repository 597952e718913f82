"""The trainer as a process on a real broker: examples in, a model that a worker believes out."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest

from tidemill.deploy.processes import tidemill_command
from tidemill.errors import ConfigError
from tidemill.features.commits import Swap
from tidemill.features.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig, Tail, write_all
from tidemill.schemas import topics
from tidemill.schemas.inbox import Delivery, ModelInbox
from tidemill.schemas.keys import SigningKey, TrustedKeys
from tidemill.schemas.loop import Loop
from tidemill.schemas.loops import publish_loop
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.trainer import TrainerConfig, run_trainer
from tidemill.trainers.trials import load_model

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
KEY = SigningKey.generate()
DEADLINE_S = 60.0


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


def commit(lake: Lake, loop: Loop, rows: pl.DataFrame) -> int:
    """Commit rows to the examples as a worker does; return the version."""
    examples = lake.table(loop.loop, "examples")
    before = examples.progress(["frontier/0"])["frontier/0"]
    return examples.append(rows, swaps=[Swap("frontier/0", before, (before or 0) + 1)])


def received(kafka: KafkaConfig, loop: Loop, key: SigningKey = KEY) -> list[Delivery]:
    """What a worker that starts now makes of the model topic."""
    inbox = ModelInbox(TrustedKeys.of([key.public]), wants=lambda name: name == loop.loop)
    tail, found = Tail(kafka, topics.MODELS), list[Delivery]()
    try:
        while not tail.caught_up:
            for record in tail.poll(0.2):
                out = inbox.feed(record.key, record.value)
                if isinstance(out, Delivery):
                    found.append(out)
    finally:
        tail.close()
    return found


@pytest.mark.kafka
def test_examples_become_a_model_that_a_worker_verifies(
    config: TrainerConfig, kafka: KafkaConfig, loop: Loop, lake: Lake, make_rows: MakeRows
) -> None:
    """The whole walk of a model, from the lake over a real topic to a prediction."""
    for start in range(0, 3_000, 1_000):
        commit(lake, loop, make_rows(1_000, first=start))
    made: list[ModelVersion] = []
    assert run_trainer(config, made.append) == 0
    assert [model.learner for model in made] == [*["logistic_regression"] * 3, "lightgbm"]
    live = Registry(lake, loop.loop).live()
    newest = received(kafka, loop)[-1]
    assert live is not None
    assert newest.announcement.version == live.version
    assert newest.announcement.snapshot == live.snapshot
    predicted = load_model(live, newest.payload).predict(make_rows(5).unnest("features"))
    assert ((predicted > 0) & (predicted < 1)).all()
    assert received(kafka, loop, SigningKey.generate()) == []


@pytest.mark.kafka
def test_training_once_more_without_new_examples_publishes_nothing(
    config: TrainerConfig, kafka: KafkaConfig, loop: Loop, lake: Lake, make_rows: MakeRows
) -> None:
    """`tidemill train --once` from a cron job must not swap the fleet for nothing."""
    commit(lake, loop, make_rows(2_000))
    run_trainer(config)
    before = received(kafka, loop)
    made: list[ModelVersion] = []
    run_trainer(config, made.append)
    assert made == []
    assert received(kafka, loop) == before


@pytest.fixture
def process_env(kafka: KafkaConfig, lake: Lake, tmp_path: Path) -> dict[str, str]:
    """What a supervisor gives the process."""
    KEY.save(tmp_path / "signing.key")
    return {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "TIDEMILL_LAKE": lake.config.root,
        "TIDEMILL_SIGNING_KEY": str(tmp_path / "signing.key"),
    }


@pytest.fixture
def start(process_env: dict[str, str], loop: Loop) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start trainers as processes; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def run() -> subprocess.Popen[str]:
        command = tidemill_command("train", loop.loop, "--json")
        process = subprocess.Popen(command, env=process_env, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_for(true: Callable[[], bool]) -> None:
    """Poll until *true*, or fail at the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def is_taught(lake: Lake, loop: Loop, rows: int) -> bool:
    """Whether the online learner has offered what it knows of so many rows."""
    return any(model.trained_on_rows == rows for model in Registry(lake, loop.loop).models())


@pytest.mark.kafka
def test_a_process_follows_the_lake_survives_kill_9_and_ends_clean(
    start: Callable[[], subprocess.Popen[str]],
    kafka: KafkaConfig,
    loop: Loop,
    lake: Lake,
    make_rows: MakeRows,
) -> None:
    """Killed in the middle of its work, the next one goes on; SIGTERM ends it with status 0."""
    lake.create(loop)
    first = start()
    for number in range(4):
        version = commit(lake, loop, make_rows(500, first=500 * number))
        write_all(kafka, topics.CONTROL, [(loop.loop.encode(), str(version).encode())])
    wait_for(lambda: bool(Registry(lake, loop.loop).models()))
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = start()
    for number in range(4, 8):
        commit(lake, loop, make_rows(500, first=500 * number))
    wait_for(lambda: is_taught(lake, loop, 4_000))
    second.send_signal(signal.SIGTERM)
    out, _ = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == 0
    models = Registry(lake, loop.loop).models()
    assert [model.number for model in models] == list(range(1, len(models) + 1))
    online = [m.trained_on_rows for m in models if m.learner == "logistic_regression"]
    assert online == [1_000, 2_000, 3_000, 4_000]
    told = [json.loads(line)["version"] for line in out.splitlines()]
    assert set(told) <= {model.version for model in models}
    live = Registry(lake, loop.loop).live()
    assert live is not None
    assert received(kafka, loop)[-1].announcement.version == live.version


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
    assert (config.lake, config.metrics_port) == (LakeConfig(root=str(tmp_path)), 9_000)
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "TIDEMILL_LAKE", "TIDEMILL_SIGNING_KEY"):
        without = {key: value for key, value in env.items() if key != name}
        with pytest.raises(ConfigError, match=name):
            TrainerConfig.from_env(without, "offer")
    with pytest.raises(ConfigError, match="TIDEMILL_METRICS_PORT"):
        TrainerConfig.from_env(env | {"TIDEMILL_METRICS_PORT": "many"}, "offer")
