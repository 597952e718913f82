"""One process that trains many loops, on a real broker: shared, fenced, failing, killed."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
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

from tidemill.errors import ConfigError
from tidemill.features.lake.lake import Lake
from tidemill.kafka import BadRecords, KafkaConfig, write_all
from tidemill.schemas import topics
from tidemill.schemas.control import NewExamples
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import DEFAULT_PAYLOAD
from tidemill.schemas.published import publish_loop, retired_version
from tidemill.trainers.fleet.fleet_config import FleetConfig
from tidemill.trainers.fleet.fleet_trainer import FleetTrainer
from tidemill.trainers.fleet.ownership import PARTITIONS, partition_of
from tidemill.trainers.metrics import TrainerMetrics
from tidemill.trainers.model_trial import Trial, no_trial
from tidemill.trainers.registry import ModelVersion, Registry, default_version

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]

_PROGRAM = """
import sys
from tidemill.cli.commands.train import train
sys.exit(train(sys.argv[1].split(",")))
"""


@pytest.fixture
def loops(kafka: KafkaConfig, lake: Lake, make_loop: MakeLoop) -> list[Loop]:
    """Four published loops of this test alone."""
    name = f"fleet-{uuid4().hex[:8]}"
    made = [make_loop(loop=f"{name}-{number}") for number in range(4)]
    for loop in made:
        publish_loop(kafka, loop, prepare=lake.create)
    return made


class _Fleet:
    """A fleet trainer in a thread of this process, and what it has made."""

    def __init__(
        self, kafka: KafkaConfig, lake: Lake, loops: list[Loop], trial: Trial = no_trial
    ) -> None:
        self.made: list[tuple[str, ModelVersion]] = []
        self.metrics = TrainerMetrics()
        names = [loop.loop for loop in loops]
        config = FleetConfig(kafka=kafka, lake=lake.config, key=KEY, loops=names, poll_s=1.0)
        self._stop = threading.Event()
        self._trainer = FleetTrainer(
            config,
            trial=trial,
            on_version=lambda loop, model: self.made.append((loop, model)),
            metrics=self.metrics,
            bad=BadRecords(),
        )
        self._thread = threading.Thread(target=self._trainer.run, args=(self._stop,))

    def __enter__(self) -> "_Fleet":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def value(self, sample: str, loop: str) -> float | None:
        return self.metrics.registry.get_sample_value(sample, {"loop": loop})

    def learners(self, loop: Loop) -> list[str]:
        return [model.learner for name, model in self.made if name == loop.loop]


@pytest.mark.kafka
def test_one_process_trains_all_loops_and_takes_up_and_drops_others_as_it_runs(
    kafka: KafkaConfig, lake: Lake, loops: list[Loop], make_rows: MakeRows, make_loop: MakeLoop
) -> None:
    """A new loop must not ask for a new process, and a retired one must cost nothing."""
    later = make_loop(loop=f"{loops[0].loop}-later")
    with _Fleet(kafka, lake, [*loops, later]) as fleet:
        for loop in loops:
            version = commit(lake, loop, make_rows(2_000))
            write_all(kafka, topics.CONTROL, [NewExamples(loop.loop, version).record()])
        for loop in loops:
            wait_for(lambda loop=loop: "lightgbm" in fleet.learners(loop))  # type: ignore[misc]
        publish_loop(kafka, later, prepare=lake.create)
        commit(lake, later, make_rows(2_000))
        wait_for(lambda: "lightgbm" in fleet.learners(later))
        live = "tidemill_live_model_number"
        assert fleet.value(live, loops[0].loop) is not None
        publish_loop(kafka, retired_version(loops[0], "ann: nobody asks"), prepare=lake.create)
        wait_for(lambda: fleet.value(live, loops[0].loop) is None)
        assert fleet.value(live, later.loop) is not None
    newest = received(kafka, later)[-1]
    assert newest.manifest.version == Registry(lake, later.loop).live().version  # type: ignore[union-attr]


@pytest.mark.kafka
def test_a_fenced_and_a_failing_loop_end_neither_the_process_nor_the_others(
    kafka: KafkaConfig, lake: Lake, loops: list[Loop], make_rows: MakeRows
) -> None:
    """One loop of a thousand must not take the others with it."""
    fenced, failing, *well = loops
    others = {fenced.loop: threading.Event()}

    def trial(loop: Loop, *, learner: str, **_given: object) -> None:
        if loop == failing and learner == "lightgbm":
            raise RuntimeError("a defect of ours")
        if learner == "lightgbm" and loop == fenced and not others[loop.loop].is_set():
            others[loop.loop].set()
            _add_as_another(lake, loop)

    with _Fleet(kafka, lake, loops, trial) as fleet:
        for loop in loops:
            commit(lake, loop, make_rows(2_000))
        for loop in well:
            wait_for(lambda loop=loop: "lightgbm" in fleet.learners(loop))  # type: ignore[misc]
        wait_for(lambda: (fleet.value("tidemill_training_failures_total", failing.loop) or 0) >= 2)
        wait_for(others[fenced.loop].is_set)
        assert fleet.is_alive
        assert "lightgbm" not in fleet.learners(failing)
    made = [model.learner for model in Registry(lake, fenced.loop).models()]
    assert "lightgbm" not in made, "the version of the fenced trainer is in no registry"


def _add_as_another(lake: Lake, loop: Loop) -> None:
    """Add a version as another trainer would, which has the loop too."""
    registry = Registry(lake, loop.loop)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    model = default_version(
        loop, registry, at=at, reason="another trainer", metrics={}, snapshot=0, until=None
    )
    registry.add(model, DEFAULT_PAYLOAD)


@pytest.mark.kafka
def test_one_loop_is_trained_in_batch_at_a_time(
    kafka: KafkaConfig, lake: Lake, loops: list[Loop], make_rows: MakeRows
) -> None:
    """The memory of a fleet is that of its largest training, not of all of them."""
    threads: dict[str, set[int]] = {}

    def trial(_loop: Loop, *, learner: str, **_given: object) -> None:
        threads.setdefault(learner, set()).add(threading.get_ident())

    with _Fleet(kafka, lake, loops, trial) as fleet:
        for loop in loops:
            commit(lake, loop, make_rows(2_000))
        for loop in loops:
            wait_for(lambda loop=loop: "lightgbm" in fleet.learners(loop))  # type: ignore[misc]
    batch, online = threads["lightgbm"], threads.get("logistic_regression", set())
    assert len(batch) == 1, "one thread trains one loop after the other"
    assert not batch & online, "and online learning does not wait for it"


@pytest.mark.kafka
@pytest.mark.soak
def test_the_loops_of_a_killed_process_go_on_in_the_other_and_nothing_is_trained_twice(
    kafka: KafkaConfig, lake: Lake, loops: list[Loop], make_rows: MakeRows, tmp_path: Path
) -> None:
    """A fleet that stops with one machine is a fleet of one machine."""
    names = loops[0].model_copy(update={"loop": ",".join(loop.loop for loop in loops)})
    processes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        processes.append(TrainerProcess(kafka, lake, names, tmp_path / name, _PROGRAM))
    first, second = processes
    try:
        for loop in loops:
            commit(lake, loop, make_rows(2_000))
        for loop in loops:
            wait_for(lambda loop=loop: is_taught(lake, loop, 2_000))  # type: ignore[misc]
        first.kill()
        for loop in loops:
            commit(lake, loop, make_rows(2_000, first=2_000))
        for loop in loops:
            wait_for(lambda loop=loop: is_taught(lake, loop, 4_000))  # type: ignore[misc]
        assert second.end() == 0
    finally:
        first.kill()
        second.kill()
    for loop in loops:
        assert_learned_once(lake, loop, [2_000, 4_000])


def test_loops_are_spread_over_the_partitions() -> None:
    """The hash is a contract between processes of different versions."""
    assert partition_of("flight-delay") == 55
    found = {partition_of(f"loop-{number}") for number in range(1_000)}
    assert found == set(range(PARTITIONS))


def test_a_training_over_the_memory_budget_is_refused_with_what_to_do(
    lake: Lake, make_loop: MakeLoop
) -> None:
    """The system would kill the process, and with it all other loops."""
    config = FleetConfig(
        kafka=KafkaConfig("localhost:1"), lake=lake.config, key=KEY, memory_bytes=100_000_000
    )
    config.check_memory(make_loop(), 300_000)
    with pytest.raises(ConfigError, match="more than the 100MB") as refused:
        config.check_memory(make_loop(), 3_000_000)
    assert "TIDEMILL_TRAINER_MEMORY" in refused.value.hint


def test_the_settings_of_a_fleet_come_from_the_environment(tmp_path: Path) -> None:
    """A misspelt number must be told, not taken for the default."""
    KEY.save(tmp_path / "signing.key")
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": "localhost:1",
        "TIDEMILL_LAKE": str(tmp_path),
        "TIDEMILL_SIGNING_KEY": str(tmp_path / "signing.key"),
        "TIDEMILL_TRAINER_MEMORY": "3GB",
        "TIDEMILL_TRAINER_SHARE": "0.5",
        "TIDEMILL_TRAINER_POLL_S": "30",
    }
    config = FleetConfig.from_env(env)
    assert (config.memory_bytes, config.batch_share, config.poll_s) == (3_000_000_000, 0.5, 30.0)
    for name in ("TIDEMILL_TRAINER_MEMORY", "TIDEMILL_TRAINER_SHARE", "TIDEMILL_TRAINER_POLL_S"):
        with pytest.raises(ConfigError, match=name):
            FleetConfig.from_env(env | {name: "many"})
    assert (
        FleetConfig.from_env(env, ["b", "a"]).group == FleetConfig.from_env(env, ["a", "b"]).group
    )
    assert config.group != FleetConfig.from_env(env, ["a", "b"]).group
    assert config.group == "tidemill.trainers"
