"""Workers against a real broker: started from the topics alone, unmoved when Kafka is killed."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.schemas.registry.confluent_server import running_registry
from tests.serving.models import FEATURES, banner, manifest, records, text

from tidemill import Client
from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.kafka import KafkaConfig, read_compacted, write_all
from tidemill.schemas import topics
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import Ack
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.schemas.published import publish_loop
from tidemill.schemas.registry.choose import schema_store
from tidemill.schemas.registry.kafka import KafkaSchemaStore
from tidemill.serving.worker import ServingWorkerConfig, Worker

pytestmark = pytest.mark.kafka
Served = tuple[str, subprocess.Popen[bytes]]
PAYLOAD = text().encode()


def eventually(holds: Callable[[], bool], timeout_s: float = 300.0) -> None:
    """Return once *holds* does; fail if that takes longer than *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def publish(kafka: KafkaConfig, key: SigningKey, loop: Loop, number: int) -> None:
    """Put a model of *loop* on the model topic."""
    said = manifest(PAYLOAD, number, loop=loop.loop)
    write_all(kafka, topics.MODELS, records(key, PAYLOAD, said))


def read_events(kafka: KafkaConfig, loop: Loop, kind: str) -> list[dict[str, object]]:
    """Return every event of a topic of *loop*, as columns read by the published schemas."""
    topic = topics.decisions(loop.loop) if kind == "decisions" else topics.feedback(loop.loop)
    values = list(read_compacted(kafka, topic).values())  # keys are distinct here
    decoder = EventDecoder(loop, Log(kind), KafkaSchemaStore(kafka))
    found = decoder.decode(values)
    assert not found.poison
    return found.frame.to_dicts()


@pytest.fixture
def loop(kafka: KafkaConfig) -> Loop:
    """A published loop of this test's own."""
    made = banner(loop=f"banner-{uuid.uuid4().hex[:8]}")
    publish_loop(kafka, made)
    return made


@contextmanager
def running(worker: Worker) -> Iterator[Worker]:
    """Start *worker* and stop it."""
    worker.start()
    try:
        yield worker
    finally:
        worker.close()


def test_a_worker_starts_from_the_topics_alone(
    kafka: KafkaConfig, loop: Loop, key: SigningKey, trusted: TrustedKeys
) -> None:
    """A new machine needs a broker's address and the keys, nothing else."""
    publish(kafka, key, loop, 1)
    name = f"w-{loop.loop}"
    client = Client.embedded(kafka, loops=[loop.loop], trusted=trusted, name=name)
    with client:
        calls = client.loop(loop.loop)
        first = calls.get_decision(FEATURES, entity="u1")
        assert first.model_version == "lightgbm-1"
        publish(kafka, key, loop, 2)
        eventually(lambda: calls.get_decision(FEATURES).model_version == "lightgbm-2")
        calls.log_feedback(first.id, "clicked", seconds=4.0, page="home")
    decisions = {row["id"]: row for row in read_events(kafka, loop, "decisions")}
    assert decisions[first.id]["action"] == first.action
    assert decisions[first.id]["score"] == first.score
    (feedback,) = read_events(kafka, loop, "feedback")
    assert feedback["decision_id"] == first.id
    ack = Ack.from_json(read_compacted(kafka, topics.ACKS)[f"{name}/{loop.loop}".encode()])
    assert (ack.version, ack.status) == ("lightgbm-2", "serving")


def test_an_embedded_worker_writes_for_the_registry_that_readers_ask(kafka: KafkaConfig) -> None:
    """With prefixes of its own, all its events would be dead letters, and no error would say so."""
    made = banner(loop=f"banner-{uuid.uuid4().hex[:8]}")
    with running_registry() as (url, registry):
        env = {"SCHEMA_REGISTRY_URL": url}
        publish_loop(kafka, made, schema_store(kafka, env))
        known = list(registry.schemas)
        with Client.embedded(kafka, loops=[made.loop], env=env) as client:
            result = client.loop(made.loop).get_decision(FEATURES)
            client.loop(made.loop).log_feedback(result.id, "left")
        assert registry.schemas == known
        for kind in ("decisions", "feedback"):
            (value,) = read_compacted(kafka, f"{made.loop}.{kind}").values()
            decoder = EventDecoder(made, Log(kind), schema_store(kafka, env))
            found = decoder.decode([value])
            assert value[:1] == b"\0"
            assert (found.frame.height, found.poison) == (1, [])


def test_a_forged_model_is_refused_on_the_topic_too(
    kafka: KafkaConfig, loop: Loop, key: SigningKey, trusted: TrustedKeys
) -> None:
    """The acknowledgement with the reason is what the trainer's operator sees."""
    config = ServingWorkerConfig(kafka=kafka, name=loop.loop, loops=(loop.loop,), trusted=trusted)
    with running(Worker(config)) as worker:
        assert worker.subscriber.ready.wait(300)
        publish(kafka, SigningKey.generate(), loop, 9)
        eventually(lambda: worker.follower.refused == 1)
        publish(kafka, key, loop, 1)
        eventually(lambda: worker.decider(loop.loop).model is not None)
        assert worker.log.flush(10) == 0
    ack = Ack.from_json(read_compacted(kafka, topics.ACKS)[f"{loop.loop}/{loop.loop}".encode()])
    assert (ack.version, ack.status) == ("lightgbm-1", "serving")


def test_a_key_that_is_revoked_decides_nothing_more(
    kafka: KafkaConfig, loop: Loop, key: SigningKey, tmp_path: Path
) -> None:
    """Its owner may have lost it: the default is safer, until a trusted model is there."""
    path, other = tmp_path / "trusted.keys", SigningKey.generate()
    TrustedKeys.of([key.public]).save(path)
    publish(kafka, key, loop, 1)
    trusted = TrustedKeys.from_env({"TIDEMILL_TRUSTED_KEYS": str(path)})
    with Client.embedded(kafka, loops=[loop.loop], trusted=trusted) as client:
        calls = client.loop(loop.loop)
        eventually(lambda: calls.get_decision(FEATURES).source == "model")
        path.unlink()
        TrustedKeys.of([other.public]).save(path)
        eventually(lambda: calls.get_decision(FEATURES).source == "default")
        publish(kafka, other, loop, 2)
        eventually(lambda: calls.get_decision(FEATURES).model_version == "lightgbm-2")
        path.unlink()
        TrustedKeys.of([key.public, other.public]).save(path)
        path.write_text("what is this")
        publish(kafka, other, loop, 3)
        eventually(lambda: calls.get_decision(FEATURES).model_version == "lightgbm-3")


def test_a_new_version_is_picked_up(kafka: KafkaConfig, loop: Loop) -> None:
    """Publishing is all a data engineer does; no worker is restarted."""
    config = ServingWorkerConfig(kafka=kafka, name=loop.loop, loops=(loop.loop,))
    with running(Worker(config)) as worker:
        assert worker.subscriber.ready.wait(300)
        publish_loop(kafka, banner(loop=loop.loop, version=2))
        eventually(lambda: worker.decider(loop.loop).loop.version == 2)


def test_decisions_go_on_while_kafka_is_dead_and_arrive_when_it_is_back(
    own_kafka: EmbeddedKafka, key: SigningKey, trusted: TrustedKeys
) -> None:
    """Nothing waits for Kafka; what fits into the buffer is delivered, the rest is counted."""
    kafka, loop = own_kafka.config, banner()
    publish_loop(kafka, loop)
    publish(kafka, key, loop, 1)
    config = ServingWorkerConfig(kafka=kafka, name="w", trusted=trusted, queue_events=1_000)
    with running(Worker(config)) as worker:
        eventually(lambda: worker.ready)
        maker = worker.decider("banner")
        request = maker.decisions.check(FEATURES)
        before = [maker.decide(request).id for _ in range(10)]
        assert worker.log.flush(120) == 0
        own_kafka.kill()
        slowest, made = 0.0, []
        for _ in range(3_000):
            started = time.perf_counter()
            result = maker.decide(request)
            slowest = max(slowest, time.perf_counter() - started)
            assert result.source == "model"
            made.append(result.id)
        assert slowest < 30.0
        assert worker.log.dropped == 2_000
        assert "2000 events were lost" in worker.troubles()
        own_kafka.restart()
        assert worker.log.flush(300) == 0
        after = maker.decide(request).id
        assert worker.log.flush(120) == 0
    arrived = {row["id"] for row in read_events(kafka, loop, "decisions")}
    assert arrived == {*before, *made[:1_000], after}


def test_a_worker_starts_while_kafka_is_away_and_finds_it_later(
    own_kafka: EmbeddedKafka, key: SigningKey, trusted: TrustedKeys
) -> None:
    """With a loop file at hand it decides at once, by the default; then by the model."""
    kafka, loop = own_kafka.config, banner()
    publish_loop(kafka, loop)
    publish(kafka, key, loop, 1)
    own_kafka.kill()
    client = Client.embedded(kafka, definitions=[loop], trusted=trusted, name="w")
    with client:
        calls = client.loop("banner")
        first = calls.get_decision(FEATURES)
        assert first.source == "default"
        own_kafka.restart()
        eventually(lambda: calls.get_decision(FEATURES).source == "model", 60)
    assert first.id in {row["id"] for row in read_events(kafka, loop, "decisions")}


@contextmanager
def served(
    kafka: KafkaConfig, loop: Loop, trusted: Path | None = None, journal: Path | None = None
) -> Iterator[Served]:
    """Run ``tidemill serve`` as a process of its own; stop it by SIGTERM if it still runs."""
    port = _free_port()
    env = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap}
    env["TIDEMILL_JOURNAL"] = str(journal or "off")
    if trusted is not None:
        env["TIDEMILL_TRUSTED_KEYS"] = str(trusted)
    program = "import sys; from tidemill.cli.app import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", loop.loop, "--port", str(port)]
    process = subprocess.Popen(command, env=env)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: process.poll() is not None or status(url, "/readyz") == 200)
        yield url, process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port: int = opened.getsockname()[1]
    return port


def status(url: str, path: str) -> int | None:
    """Return the status of a page; None if nobody answers."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def test_serve_answers_until_it_is_told_to_stop_and_loses_nothing(
    kafka: KafkaConfig, loop: Loop, key: SigningKey, trusted: TrustedKeys, tmp_path: Path
) -> None:
    """SIGTERM is how every platform stops a process; its last events must not be lost."""
    keys = tmp_path / "trusted.keys"
    trusted.save(keys)
    publish(kafka, key, loop, 1)
    with served(kafka, loop, keys) as (url, _), Client(url, budget_ms=10_000) as client:
        calls = client.loop(loop.loop)
        eventually(lambda: calls.get_decision(FEATURES).source == "model")
        ids = {calls.get_decision(FEATURES).id for _ in range(500)}
    rows = read_events(kafka, loop, "decisions")
    assert ids <= {row["id"] for row in rows}


def test_two_workers_swap_and_one_may_die(
    kafka: KafkaConfig, loop: Loop, key: SigningKey, trusted: TrustedKeys, tmp_path: Path
) -> None:
    """The client finds the other worker; no decision fails while one is killed."""
    keys = tmp_path / "trusted.keys"
    trusted.save(keys)
    with (
        served(kafka, loop, keys) as (first, _),
        served(kafka, loop, keys) as (second, process),
        Client([first, second], budget_ms=10_000) as client,
    ):
        calls = client.loop(loop.loop)
        publish(kafka, key, loop, 1)
        eventually(lambda: {calls.get_decision(FEATURES).source for _ in range(4)} == {"model"})
        process.kill()
        process.wait()
        sources = {calls.get_decision(FEATURES).source for _ in range(100)}
        assert sources == {"model"}
        assert client.unanswered == 0


def test_health_is_json_over_http(kafka: KafkaConfig, loop: Loop) -> None:
    """Without trusted keys a worker says so where operators look first."""
    with served(kafka, loop, None) as (url, _):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
        connection.request("GET", "/healthz")
        health = json.loads(connection.getresponse().read())
        connection.close()
    assert health["ready"] is True
    assert "TIDEMILL_TRUSTED_KEYS is not set" in health["trouble"][0]
    assert list(health["loops"]) == [loop.loop]
