"""The headline case over a real Kafka: a service, a streams worker and a trainer, from nothing on.

`tests/trainers/test_simulation.py` has the same case in memory, for many seeds.
"""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.streams.rig import Rig, until
from tests.trainers.simulation import World, headline_loop

from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import ACTION
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.schemas.published import publish_loop
from tidemill.serving.client.client import Client
from tidemill.serving.client.embedded import EmbeddedTransport, open_transport
from tidemill.serving.model.admission import try_payload
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.evaluation.evaluation_sets import load_model
from tidemill.trainers.evaluation.model_policies import action_scores, chances
from tidemill.trainers.publisher import KafkaModelTopic, Publisher
from tidemill.trainers.rows import Integers

START = datetime(2026, 2, 1, tzinfo=UTC)
DECISIONS, STEP = 20_000, 2_500
WORLD = World.headlines()


class Service:
    """A page that asks for a headline for each reader, and logs the clicks."""

    def __init__(self, loop: Loop, door: EmbeddedTransport, seed: int) -> None:
        self._loop, self._door = loop, door
        self._random = np.random.default_rng(seed)
        self.decided = 0

    def decide(self, client: Client, count: int) -> None:
        """Ask *count* times, and log what comes of it; return when Kafka has all of it."""
        page = client.loop(self._loop.loop)
        actions = self._loop.decision.actions
        for number in range(self.decided, self.decided + count):
            at = START + timedelta(seconds=number)
            segment = int(self._random.integers(WORLD.clicks.shape[0]))
            asked = {"segment": f"segment-{segment}"}
            decision = page.get_decision(asked, id=f"d{number:05}", at=at)
            clicks = WORLD.clicks[segment, actions.index(str(decision.action))]
            if self._random.random() < clicks:
                page.log_feedback(decision.id, "clicked", at=at + timedelta(seconds=3))
        self.decided += count
        assert self._door.worker.log.flush(60) == 0


def choice(cycle: TrainingCycle) -> Integers:
    """Return what decides in each segment, without exploration."""
    live, segments = cycle.registry.model(), WORLD.clicks.shape[0]
    if live is None:
        return np.full(segments, WORLD.default)
    names = [f"segment-{number}" for number in range(segments)]
    frame = pl.DataFrame({"segment": names, ACTION: None})
    model = load_model(live, cycle.registry.payload(live))
    taken = chances(action_scores(model, frame, cycle.loop), cycle.loop)
    return np.asarray(taken.argmax(axis=1))


@pytest.mark.kafka
@pytest.mark.soak
def test_headlines_over_kafka_get_most_of_what_they_could(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """80 % of the possible gain after 20,000 decisions, and never worse than the default."""
    named: dict[str, object] = {"loop": f"headlines-{random.randrange(10**9)}", "partitions": 2}
    named |= {"idle_after": timedelta(hours=1)}  # times are made: a pause of the test is none
    loop, key = headline_loop(WORLD).model_copy(update=named), SigningKey.generate()
    publish_loop(kafka, loop)
    rig = Rig(kafka, loop, tmp_path)
    topic = KafkaModelTopic(kafka)
    door = open_transport(
        kafka,
        loops=(loop.loop,),
        definitions=(),
        trusted=TrustedKeys.of([key.public]),
        name="headlines",
        ready_s=60.0,
    )
    default = WORLD.value(np.full(WORLD.clicks.shape[0], WORLD.default))
    with rig.worker(), Client.through(door) as client:
        publisher = Publisher(topic, loop.loop, key)
        cycle = TrainingCycle(loop, rig.lake, publisher, trial=try_payload, count_share=1.0)
        service = Service(loop, door, seed=1)
        while service.decided < DECISIONS:
            service.decide(client, STEP)
            until(rig.is_read, "the worker has read all")
            cycle.run()
            live = cycle.registry.model()
            decider = door.worker.decider(loop.loop)
            if live is not None:
                version = live.version
                until(lambda: decider.model and decider.model.version == version, "it serves")  # noqa: B023  # called before the next
            assert WORLD.value(choice(cycle)) >= default
    epsilon = loop.policy.epsilon
    possible = WORLD.value(WORLD.best, epsilon) - default
    reasons = [model.reason for model in cycle.registry.models()]
    assert (WORLD.value(choice(cycle), epsilon) - default) / possible >= 0.8 - 1e-9, reasons
