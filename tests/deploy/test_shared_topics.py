"""Chaos on the topics that all loops share: two loops beside it are as they are in quiet."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from tests.deploy.chaos import Noise, legal_keys, noise
from tests.serving.models import FEATURES, banner, manifest, records, text

from tidemill.kafka import CompactedLog, KafkaConfig, Record
from tidemill.monitor.chain import parse_ack
from tidemill.schemas import topics
from tidemill.schemas.avro.wire import canonical_json, single_object_prefix
from tidemill.schemas.control import CloseRequest, NewExamples, parse_control
from tidemill.schemas.events.schemas import event_schemas
from tidemill.schemas.models.manifest import Ack
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.schemas.published import LoopTopic, check_unchanged, key_of, parse_loop
from tidemill.schemas.registry.kafka import parse_schema
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import ServingWorkerConfig, Worker

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LOOPS = (banner(loop="shop"), banner(loop="ads"))
KEY = SigningKey.generate()
PAYLOAD = text().encode()


def good_records() -> list[Noise]:
    """Return what publishers, trainers and workers write about the two loops."""
    found = []
    for loop in LOOPS:
        found.append(Noise(topic=topics.LOOPS, key=key_of(loop), value=loop.canonical.encode()))
        for subject, schema in event_schemas(loop).items():
            key = f"{subject}/{single_object_prefix(schema)[2:].hex()}".encode()
            value = canonical_json(schema).encode()
            found.append(Noise(topic=topics.SCHEMAS, key=key, value=value))
        said = replace(manifest(PAYLOAD), loop=loop.loop)
        found += [
            Noise(topic=topics.MODELS, key=key, value=value)
            for key, value in records(KEY, PAYLOAD, said)
            if key is not None
        ]
        ack = Ack(
            worker="w",
            loop=loop.loop,
            slot="live",
            version=said.version,
            digest=said.digest,
            status="serving",
            at=NOON,
        )
        found.append(Noise(topic=topics.ACKS, key=ack.key, value=ack.to_json()))
        for message in (NewExamples(loop.loop, 7), CloseRequest(loop.loop, NOON)):
            key, value = message.record()
            found.append(Noise(topic=topics.CONTROL, key=key, value=value))
    return found


def as_records(written: Sequence[Noise]) -> dict[str, list[Record]]:
    """Return *written* as each topic has it."""
    found: dict[str, list[Record]] = {}
    for each in written:
        of_topic = found.setdefault(each.topic, [])
        of_topic.append(
            Record(
                topic=each.topic,
                partition=0,
                offset=len(of_topic),
                key=each.key,
                value=each.value,
                timestamp_ms=0,
                headers=each.headers,
            )
        )
    return found


@dataclass(frozen=True)
class Read:
    """What the readers of the shared topics know of the two loops, and how many records are bad."""

    known: Mapping[str, object]
    bad: Mapping[str, int]


def read(written: Sequence[Noise]) -> Read:
    """Read *written* by every reader that a process has."""
    by_topic = as_records(written)
    names = {loop.loop for loop in LOOPS}
    loops = CompactedLog(parse_loop, check_unchanged)
    schemas, control = CompactedLog(parse_schema), CompactedLog(parse_control)
    acks = CompactedLog(parse_ack)
    log = MemoryEventLog()
    config = ServingWorkerConfig(
        kafka=KafkaConfig("127.0.0.1:1"),
        name="w",
        trusted=TrustedKeys.of([KEY.public]),
        loops=tuple(sorted(names)),
    )
    worker = Worker(config, event_log=log)
    loops.take(by_topic[topics.LOOPS])
    schemas.take(by_topic[topics.SCHEMAS])
    control.take(by_topic[topics.CONTROL])
    acks.take(by_topic[topics.ACKS])
    worker.subscriber.take_loops(by_topic[topics.LOOPS])
    worker.subscriber.take_models(by_topic[topics.MODELS])
    worker.follower.settle()
    answers = {}
    for name in names:
        decider = worker.decider(name)
        result = decider.decide(decider.decisions.check(FEATURES))
        answers[name] = (result.action, result.score, result.model_version, result.loop_version)
    known = LoopTopic.of(loops).loops
    return Read(
        {
            "loops": {key: loop.digest for key, loop in known.items() if key[0] in names},
            "schemas": {
                (each.subject, each.prefix)
                for each in schemas.values
                if each.subject.split(".")[0] in names
            },
            "control": {each for each in control.values if getattr(each, "loop", None) in names},
            "acks": {each for each in acks.values if each.loop in names},
            "answers": answers,
        },
        {
            topics.LOOPS: len(loops.bad),
            topics.SCHEMAS: len(schemas.bad),
            topics.CONTROL: len(control.bad),
            topics.ACKS: len(acks.bad),
            topics.MODELS: len(worker.subscriber.bad.all()),
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_two_loops_beside_2000_random_records_are_as_in_quiet(seed: int) -> None:
    """What anybody may write to the shared topics must reach no loop but its own."""
    good = good_records()
    samples = {each.topic: [each.value or b""] for each in good}
    written = list(noise(seed, 2_000, LOOPS, samples))
    draw = random.Random(seed)
    for place, each in zip(sorted(draw.sample(range(2_000), len(good))), good, strict=True):
        written.insert(place, each)
    quiet, noisy = read(good), read(written)
    assert len(quiet.known["answers"]) == 2  # type: ignore[arg-type]
    assert noisy.known == quiet.known
    assert all(count > 100 for count in noisy.bad.values()), noisy.bad
    assert not any(quiet.bad.values())
    assert legal_keys(written) != set()
