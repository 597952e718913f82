"""What a serving worker makes of the records of its two topics, bad ones among them."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tests.serving.conftest import NOWHERE
from tests.serving.model.bad_models import PAYLOAD
from tests.serving.models import FEATURES, banner, manifest, records

from tidemill.kafka import Record
from tidemill.kafka.bad_records import METRIC
from tidemill.schemas import topics
from tidemill.schemas.models.manifest import Ack
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.schemas.published import key_of
from tidemill.serving.api.metrics import registry_of
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import ServingWorkerConfig, Worker

KeyValue = tuple[bytes | None, bytes | None]


def log_of(topic: str, *pairs: KeyValue, first: int = 0) -> list[Record]:
    """Return *pairs* as the records of *topic* from offset *first* on."""
    return [
        Record(topic=topic, partition=0, offset=first + n, key=key, value=value, timestamp_ms=0)
        for n, (key, value) in enumerate(pairs)
    ]


def test_a_bad_loop_record_is_told_once_and_the_installed_version_stays(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """One record that anybody could write must neither stop a worker nor fill its log."""
    other = banner(version=2)
    bad = log_of(
        topics.LOOPS,
        (b"banner/2", b"{"),
        (b"banner/3", json.dumps({"loop": "banner"}).encode()),
        (b"\xff/2", b"\xff\x1b[31m"),
        (b"banner/7", other.canonical.encode()),
        (b"banner/8", b"[" * 100_000),
        (None, b"{}"),
    )
    for _reconnected in range(2):
        worker.subscriber.take_loops(bad)
    assert worker.decider("banner").loop.version == 1
    assert len(worker.subscriber.bad.all()) == len(bad)
    said = [line.getMessage() for line in caplog.records]
    assert sum("tidemill.loops/0 offset 2, key '\\xff/2'" in line for line in said) == 1
    assert len(said) == len(bad)
    assert "\x1b" not in "".join(said)
    assert "passed over tidemill.loops/0 offset 0" in " ".join(worker.troubles())


def test_what_is_written_later_under_its_key_mends_a_bad_record(worker: Worker) -> None:
    """The operator publishes again, and every page is clean."""
    newer = banner(version=2)
    worker.subscriber.take_loops(log_of(topics.LOOPS, (key_of(newer), b"junk"), (b"x/1", b"junk")))
    mended: list[KeyValue] = [(key_of(newer), newer.canonical.encode()), (b"x/1", None)]
    worker.subscriber.take_loops(log_of(topics.LOOPS, *mended, first=2))
    assert worker.subscriber.bad.all() == []
    assert worker.decider("banner").loop.version == 2


def test_a_bad_model_record_is_acknowledged_once(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """All records come again after a reconnect; the good model must stay the last word."""
    pairs: list[KeyValue] = [(b"banner/live", b"junk"), (b"\xfe", b"junk"), *records(key, PAYLOAD)]
    for _reconnected in range(2):
        worker.follower.rewind()
        worker.subscriber.take_models(log_of(topics.MODELS, *pairs))
        worker.follower.settle()
    acks = [Ack.from_json(each.value or b"") for each in log.events if each.topic == topics.ACKS]
    assert [ack.status for ack in acks] == ["refused", "serving"]
    assert [bad.key for bad in worker.subscriber.bad.all()] == ["\\xfe"]
    maker = worker.decider("banner")
    assert maker.decide(maker.decisions.check(FEATURES)).model_version == "lightgbm-1"


def test_a_worker_looks_at_its_own_loops_only(
    log: MemoryEventLog, key: SigningKey, trusted: TrustedKeys
) -> None:
    """Thousands of loops may share the topics."""
    config = ServingWorkerConfig(kafka=NOWHERE, name="w", trusted=trusted, loops=("mine",))
    worker = Worker(config, event_log=log)
    for name in ("mine", "banner"):
        loop = banner(loop=name)
        worker.subscriber.take_loops(log_of(topics.LOOPS, (key_of(loop), loop.canonical.encode())))
        said = records(key, PAYLOAD, replace(manifest(PAYLOAD), loop=name))
        worker.subscriber.take_models(log_of(topics.MODELS, *said))
        worker.follower.settle()
    assert list(worker.follower.deciders) == ["mine"]
    acks = [Ack.from_json(each.value or b"") for each in log.events if each.topic == topics.ACKS]
    assert [ack.loop for ack in acks] == ["mine"]


@pytest.mark.slow
def test_the_metric_of_bad_records_follows_the_reader_that_takes_over(
    key: SigningKey, tmp_path: Path
) -> None:
    """After a key was revoked, the metric stood still at what the reader before it had found."""
    path = tmp_path / "trusted.keys"
    TrustedKeys.of([key.public]).save(path)
    config = ServingWorkerConfig(
        kafka=NOWHERE, name="w-1", definitions=(banner(),), trusted=TrustedKeys.watched(path)
    )
    worker = Worker(config, event_log=MemoryEventLog())
    registry, before = registry_of(worker), worker.subscriber
    worker.start()
    try:
        path.unlink()
        TrustedKeys.of([SigningKey.generate().public]).save(path)
        while worker.subscriber is before:
            threading.Event().wait(0.01)
        worker.subscriber.take_loops(log_of(topics.LOOPS, (b"banner/2", b"{")))
        assert registry.get_sample_value(METRIC, {"topic": topics.LOOPS}) == 1
    finally:
        worker.close()
