"""Chaos on the shared topics of a real broker, while all processes of two loops run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer
from tests.deploy.chaos import noise
from tests.streams.rig import START, WORKER, Rig, assert_exact, end, new_loop, until
from tests.trainers.rig import KEY, TrainerProcess, received

from tidemill.deploy.local.jars import cache_dir
from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig
from tidemill.monitor.observer import MonitorConfig, Observer, Status
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import Ack, utc_now
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.schemas.published import publish_loop
from tidemill.serving.worker import ServingWorkerConfig, Worker

pytestmark = [pytest.mark.kafka, pytest.mark.soak]

DECISIONS = 1_500
ASKED = 200
RECORDS = 2_000
SECOND = timedelta(seconds=1)


def loop_of(name: str) -> Loop:
    """Return a loop whose model is trained once, when all of its decisions have a label."""
    batch = {
        "min_labels": DECISIONS,
        "retrain": {"new_labels": 10 * DECISIONS},
        "rounds": 20,
        "params": {"num_leaves": 7, "min_data_in_leaf": 20},
    }
    return new_loop(
        loop=name,
        partitions=1,
        idle_after="1h",
        models={"batch": batch, "online": None},
        gate={"min_rows": 100},
    )


def send(rig: Rig, first: int, end: int) -> None:
    """Send decisions, and clicks on those of the afternoon."""
    producer = rig.producer()
    for number in range(first, end):
        at = START + number * SECOND
        hour = (number * 7) % 24
        producer.decide(f"d{number}", at, hour=hour, price=float(number % 13))
        if hour >= 12:
            producer.feed(f"d{number}", at + SECOND)
    producer.flush()


@contextmanager
def own_broker() -> Iterator[KafkaConfig]:
    """A broker of its own: two runs must not see each other's topics."""
    broker = EmbeddedKafka(cache=cache_dir({}))
    broker.start(timeout_s=300)
    try:
        yield broker.config
    finally:
        broker.close()


class Town:
    """All processes of two loops on one broker, and what came of them."""

    def __init__(self, kafka: KafkaConfig, folder: Path, running: ExitStack) -> None:
        folder.mkdir()
        self.kafka = kafka
        self.rigs = [Rig(kafka, loop_of(name), folder) for name in ("shop", "ads")]
        for rig in self.rigs:
            publish_loop(kafka, rig.loop)
            rig.program = ("-c", f"import sys; sys.argv[1:] = []\n{WORKER}")
        self.joiner = self.rigs[0].start()
        running.callback(end, self.joiner)
        lake = Lake(LakeConfig(root=str(folder / "lake")))
        self.trainers = []
        for rig in self.rigs:
            place = folder / rig.loop.loop
            place.mkdir()
            self.trainers.append(TrainerProcess(kafka, lake, rig.loop, place))
            running.callback(self.trainers[-1].kill)
        trusted = TrustedKeys.of([KEY.public])
        self.server = Worker(
            ServingWorkerConfig(kafka=kafka, name="w", loops=("ads", "shop"), trusted=trusted)
        )
        self.server.start()
        running.callback(self.server.close)
        self.observer = Observer(MonitorConfig(kafka=kafka, lake=lake.config))
        running.callback(self.observer.close)

    def serves(self) -> bool:
        """Return whether the models of both loops decide."""
        deciders = self.server.follower.deciders
        return len(deciders) == 2 and all(each.model is not None for each in deciders.values())

    def results(self) -> Mapping[str, object]:
        """Return examples, models and answers, without what a clock has made."""
        found: dict[str, object] = {}
        for rig in self.rigs:
            name = rig.loop.loop
            assert_exact(rig)
            found[f"{name} examples"] = rig.examples().to_dicts()
            found[f"{name} models"] = [
                each.manifest.digest for each in received(self.kafka, rig.loop)
            ]
            decider = self.server.decider(name)
            asked = [
                {"hour": number % 24, "price": number / 7, "page": "home"}
                for number in range(ASKED)
            ]
            answers = [decider.decide(decider.decisions.check(each)) for each in asked]
            found[f"{name} answers"] = [
                (each.action, each.score, each.model_version, each.loop_version) for each in answers
            ]
        return found


def run(
    folder: Path, disturb: Callable[[KafkaConfig, list[Loop], int], None]
) -> Mapping[str, object]:
    """Run all processes while *disturb* does what it does, and return what came of it."""
    with own_broker() as kafka, ExitStack() as running:
        town = Town(kafka, folder, running)
        loops = [rig.loop for rig in town.rigs]
        step = DECISIONS // 5
        for part in range(5):
            for rig in town.rigs:
                send(rig, part * step, (part + 1) * step)
            disturb(kafka, loops, part)
            until(lambda: all(rig.is_read() for rig in town.rigs), "all is read", 600)
            chains = town.observer.read(Status()).chains.value
            assert chains is not None
            assert {chain.loop for chain in chains.rows} >= {"shop", "ads"}
        for rig in town.rigs:
            rig.close(START + DECISIONS * SECOND)
        until(lambda: all(rig.is_done() for rig in town.rigs), "all is closed", 600)
        until(town.serves, "both models serve", 600)
        assert town.joiner.poll() is None
        assert [trainer.process.poll() for trainer in town.trainers] == [None, None]
        results = town.results()
        assert [trainer.end() for trainer in town.trainers] == [0, 0]
        assert end(town.joiner) == 0
    return results


def test_examples_models_and_answers_are_those_of_a_quiet_run(tmp_path: Path) -> None:
    """Processes of loops that are well must not notice what others write on the shared topics."""

    def make_noise(kafka: KafkaConfig, loops: list[Loop], part: int) -> None:
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        ack = Ack(
            worker="v",
            loop="nobody",
            slot="live",
            version="1",
            digest="0" * 64,
            status="serving",
            at=utc_now(),
        )
        samples = {
            topics.LOOPS: [each.canonical.encode() for each in loops],
            topics.ACKS: [ack.to_json()],
        }
        for each in noise(part, RECORDS // 5, loops, samples):
            producer.produce(each.topic, each.value, each.key, headers=list(each.headers))
        assert producer.flush(120) == 0

    quiet = run(tmp_path / "quiet", lambda _kafka, _loops, _part: None)
    noisy = run(tmp_path / "noisy", make_noise)
    assert quiet.keys() == noisy.keys()
    for name, found in quiet.items():
        assert noisy[name] == found, name
    assert all(quiet[f"{name} models"] for name in ("shop", "ads"))
