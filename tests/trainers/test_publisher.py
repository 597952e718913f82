"""The publisher, one contract for every model topic: every reader gets whole models."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from tidemill.errors import BrokerError, ModelError
from tidemill.kafka import KafkaConfig, Tail
from tidemill.schemas.loop.definition import FieldType
from tidemill.schemas.models.assembler import Delivery, ModelAssembler, Refusal
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField
from tidemill.schemas.models.manifest import (
    INLINE_BYTES,
    LIVE,
    ModelManifest,
    chunk_count,
    parse_chunk_key,
    payload_digest,
)
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.trainers.publisher import (
    KafkaModelTopic,
    KeyedRecord,
    MemoryModelTopic,
    ModelTopic,
    Publisher,
)

KEY = SigningKey.generate()
SIGNATURE = FeatureSignature((SignatureField("hour", FieldType.INT),))
SMALL, BIG, BIGGER = b"tree", os.urandom(1_000_000), os.urandom(2_000_000)

ReadLog = Callable[[], Iterable[KeyedRecord]]


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[ModelTopic, ReadLog]]:
    """Each model topic in turn, with a function that reads its whole log."""
    if request.param == "memory":
        memory = MemoryModelTopic()
        yield memory, lambda: memory.log
        return
    config: KafkaConfig = request.getfixturevalue("kafka")
    name = f"models-{uuid4().hex}"
    topic = KafkaModelTopic(config, name)
    topic.read()  # makes it
    yield topic, lambda: _kafka_log(config, name)


def _kafka_log(config: KafkaConfig, name: str) -> list[KeyedRecord]:
    tail, items = Tail(config, name), list[KeyedRecord]()
    try:
        while not tail.caught_up:
            items += [(record.key or b"", record.value) for record in tail.poll(0.2)]
    finally:
        tail.close()
    return items


def model(payload: bytes, number: int, *, slot: str = LIVE, loop: str = "offer") -> ModelManifest:
    """Return a manifest of *payload*."""
    return ModelManifest(
        loop=loop,
        loop_version=1,
        slot=slot,
        version=f"lightgbm-{number}",
        number=number,
        sequence=number,
        learner="lightgbm",
        label_type="bool",
        digest=payload_digest(payload),
        payload_bytes=len(payload),
        chunks=0 if len(payload) <= INLINE_BYTES else chunk_count(len(payload)),
        features=SIGNATURE.to_json(),
        features_digest=SIGNATURE.digest,
        policy_version=1,
        snapshot=number,
        trained_on_rows=1_000,
        base_rate=0.2,
        metrics={"log_loss": 0.4},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def deliveries(items: Iterable[KeyedRecord]) -> list[Delivery | Refusal]:
    """Return what a worker assembles from the log."""
    assembler = ModelAssembler(TrustedKeys.of([KEY.public]))
    return [out for key, value in items if (out := assembler.feed(key, value)) is not None]


def test_what_is_published_arrives_in_order(opened: tuple[ModelTopic, ReadLog]) -> None:
    """Inline and chunked models, one after the other."""
    topic, log = opened
    publisher = Publisher(topic, "offer", KEY)
    for number, payload in enumerate((SMALL, BIG, BIGGER), 1):
        assert publisher.publish(model(payload, number), payload)
    assert deliveries(log()) == [
        Delivery.of(model(payload, number), payload)
        for number, payload in enumerate((SMALL, BIG, BIGGER), 1)
    ]


def test_no_manifest_is_ahead_of_its_chunks(opened: tuple[ModelTopic, ReadLog]) -> None:
    """A reader at any point of the log sees a whole model or none."""
    topic, log = opened
    publisher = Publisher(topic, "offer", KEY)
    publisher.publish(model(BIG, 1), BIG)
    publisher.publish(model(BIGGER, 2), BIGGER)
    items = list(log())
    for end in range(len(items) + 1):
        assembler = ModelAssembler(TrustedKeys.of([KEY.public]))
        for key, value in items[:end]:
            assembler.feed(key, value)
        assert assembler.pending() == []


def test_old_chunks_are_removed_and_the_newest_model_stays(
    opened: tuple[ModelTopic, ReadLog],
) -> None:
    """Else a compacted topic grows by every model there ever was."""
    topic, _ = opened
    publisher = Publisher(topic, "offer", KEY)
    publisher.publish(model(BIG, 1), BIG)
    publisher.publish(model(BIG, 1, slot="online"), BIG)
    publisher.publish(model(BIGGER, 2), BIGGER)
    held = {place[1] for key in topic.read() if (place := parse_chunk_key(key))}
    assert held == {payload_digest(BIG), payload_digest(BIGGER)}  # BIG is still online's
    publisher.publish(model(SMALL, 3, slot="online"), SMALL)
    held = {place[1] for key in topic.read() if (place := parse_chunk_key(key))}
    assert held == {payload_digest(BIGGER)}
    assert deliveries(topic.read().items()) == [Delivery.of(model(BIGGER, 2), BIGGER)]


def test_other_loops_are_left_alone(opened: tuple[ModelTopic, ReadLog]) -> None:
    """One topic carries all loops; a trainer removes only chunks of its own loop."""
    topic, _ = opened
    Publisher(topic, "price", KEY).publish(model(BIG, 1, loop="price"), BIG)
    publisher = Publisher(topic, "offer", KEY)
    publisher.publish(model(BIGGER, 1), BIGGER)
    publisher.publish(model(SMALL, 2), SMALL)
    found = deliveries(topic.read().items())
    assert {out.manifest.loop for out in found if isinstance(out, Delivery)} == {
        "price",
        "offer",
    }


def test_publishing_again_writes_nothing(opened: tuple[ModelTopic, ReadLog]) -> None:
    """Every start of a trainer publishes what its registry says."""
    topic, log = opened
    assert Publisher(topic, "offer", KEY).publish(model(BIG, 1), BIG)
    before = list(log())
    again = Publisher(topic, "offer", KEY)
    assert not again.publish(model(BIG, 1), BIG)
    assert again.manifest(LIVE) == model(BIG, 1)
    assert list(log()) == before


def test_a_lost_chunk_is_written_again(opened: tuple[ModelTopic, ReadLog]) -> None:
    """Someone removed one: the next start of the trainer repairs the topic."""
    topic, _ = opened
    Publisher(topic, "offer", KEY).publish(model(BIG, 1), BIG)
    chunk = next(key for key in topic.read() if parse_chunk_key(key))
    topic.write([(chunk, None)])
    assert deliveries(topic.read().items()) == []
    assert Publisher(topic, "offer", KEY).publish(model(BIG, 1), BIG)
    assert deliveries(topic.read().items()) == [Delivery.of(model(BIG, 1), BIG)]


def test_a_trainer_that_was_overtaken_does_not_publish(
    opened: tuple[ModelTopic, ReadLog],
) -> None:
    """Two trainers on two lakes would replace each other's models."""
    topic, log = opened
    Publisher(topic, "offer", KEY).publish(model(SMALL, 5), SMALL)
    before = list(log())
    with pytest.raises(ModelError, match="already has lightgbm-5"):
        Publisher(topic, "offer", KEY).publish(model(BIG, 4), BIG)
    assert list(log()) == before


def test_a_manifest_of_a_foreign_key_is_replaced(opened: tuple[ModelTopic, ReadLog]) -> None:
    """A forged record in the slot does not stop the trainer from publishing."""
    topic, _ = opened
    Publisher(topic, "offer", SigningKey.generate()).publish(model(SMALL, 9), SMALL)
    topic.write([(b"offer/live", b"garbage"), (b"offer/online", b"\xff" * 40)])
    assert Publisher(topic, "offer", KEY).publish(model(BIG, 1), BIG)
    assert deliveries(topic.read().items()) == [Delivery.of(model(BIG, 1), BIG)]


class BrokenTopic:
    """A model topic whose broker goes away after so many records."""

    def __init__(self, inner: ModelTopic, records: int) -> None:
        self._inner, self._left = inner, records

    def write(self, items: Iterable[KeyedRecord]) -> None:
        """Write until the broker goes away."""
        for item in items:
            if self._left == 0:
                raise BrokerError("the broker is away", hint="wait for it")
            self._left -= 1
            self._inner.write([item])

    def read(self) -> Mapping[bytes, bytes]:
        """Read the topic."""
        return self._inner.read()


@pytest.mark.parametrize("records", range(9))
def test_a_crash_between_any_two_records_is_repaired_by_publishing_again(records: int) -> None:
    """The fleet sees the old model or the new one, at every moment, whole."""
    topic = MemoryModelTopic()
    Publisher(topic, "offer", KEY).publish(model(BIG, 1), BIG)
    broken = Publisher(BrokenTopic(topic, records), "offer", KEY)
    new = model(BIGGER, 2)
    with contextlib.suppress(BrokerError):  # 3 chunks, the manifest, 2 old chunks
        broken.publish(new, BIGGER)
    seen = deliveries(topic.read().items())
    assert len([out for out in seen if isinstance(out, Delivery)]) == 1
    Publisher(topic, "offer", KEY).publish(new, BIGGER)
    assert deliveries(topic.read().items()) == [Delivery.of(new, BIGGER)]
    numbers = [out.manifest.number for out in deliveries(topic.log) if isinstance(out, Delivery)]
    assert numbers == [1, 2]
