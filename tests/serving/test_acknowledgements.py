"""What a service was answered is on its topic, whatever became of the worker."""

import http.client
import json
import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.schemas.loops import with_items
from tests.serving.api.test_http import call
from tests.serving.conftest import NOWHERE, Serve
from tests.serving.decision.test_items import item
from tests.serving.models import FEATURES, banner
from tests.serving.test_worker import eventually, read_events, served

from tidemill.errors import ConfigError, RequestError
from tidemill.http_server.http_limits import HttpLimits
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import publish_loop
from tidemill.schemas.registry.kafka import KafkaSchemaStore
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import Event, MemoryEventLog
from tidemill.serving.decision.feedback_events import MAX_EVENT_BYTES
from tidemill.serving.journal import JournalConfig
from tidemill.serving.kafka_log import KafkaEventLog
from tidemill.serving.worker import ServingWorkerConfig, Worker


class Sender(threading.Thread):
    """Posts one body after the other, and keeps the ids that were acknowledged."""

    def __init__(self, url: str, path: str) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[str] = []
        self._netloc = urlsplit(url).netloc
        self._path = path

    def run(self) -> None:
        """Post until the worker is gone."""
        connection = http.client.HTTPConnection(self._netloc, timeout=120)
        kind = self._path.rpartition("/")[2]
        try:
            while True:
                name = uuid.uuid4().hex
                body: dict[str, object] = {"id": name, "features": FEATURES}
                if kind == "feedback":
                    body = {"id": name, "decision_id": name, "kind": "left"}
                connection.request("POST", self._path, json.dumps(body))
                answer = connection.getresponse()
                if json.loads(answer.read()).get("id") == name:
                    self.acknowledged.append(name)
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()


def all_acknowledged(senders: list[Sender]) -> bool:
    """Return whether each has had some answers."""
    return all(len(sender.acknowledged) > 50 for sender in senders)


@pytest.mark.kafka
def test_what_was_acknowledged_before_kill_9_arrives(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Feedback is on its topic at once; decisions are when the next worker has started."""
    loop = banner(loop=f"banner-{uuid.uuid4().hex[:8]}")
    publish_loop(kafka, loop)
    senders = []
    for _ in range(2):  # the second one finds what the first one left
        with served(kafka, loop, journal=tmp_path) as (url, process):
            started = [Sender(url, f"/v1/loops/{loop.loop}/decisions") for _ in range(3)]
            started += [Sender(url, f"/v1/loops/{loop.loop}/feedback") for _ in range(3)]
            for sender in started:
                sender.start()
            eventually(partial(all_acknowledged, started))
            process.kill()
            process.wait()
            for sender in started:
                sender.join()
        senders += started
    given = {name for s in senders if "feedback" in s._path for name in s.acknowledged}
    assert given <= {str(row["id"]) for row in read_events(kafka, loop, "feedback")}
    with served(kafka, loop, journal=tmp_path) as (url, _process):
        eventually(lambda: len(list(tmp_path.iterdir())) == 1)  # its own
    decided = {name for s in senders if "decisions" in s._path for name in s.acknowledged}
    assert decided <= {str(row["id"]) for row in read_events(kafka, loop, "decisions")}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.kafka
def test_a_journal_for_other_brokers_is_left_alone(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Events of the test cluster have no business in production."""
    config = JournalConfig(folder=tmp_path)
    away = KafkaEventLog(NOWHERE, journal=config)
    topic = f"t-{uuid.uuid4().hex[:8]}"
    assert away.write(topic, b"k", b"v")
    away.close(timeout_s=0.1)
    (left,) = list(tmp_path.iterdir())
    log = KafkaEventLog(kafka, journal=config)
    assert log.troubles == []
    log.close()
    assert list(tmp_path.iterdir()) == [left]


@pytest.fixture
def away() -> Iterator[Worker]:
    """A worker whose broker does not answer."""
    config = ServingWorkerConfig(
        kafka=NOWHERE, name="w", definitions=(banner(),), acknowledge_s=0.3, close_s=0.1
    )
    worker = Worker(config)
    yield worker
    worker.close()


def test_feedback_that_kafka_does_not_take_is_unavailable(away: Worker, serve: Serve) -> None:
    """202 for what only a buffer has is a label that a restart loses; and nobody else waits."""
    url = serve(away, limits=HttpLimits(acknowledge_s=0.3))
    body = json.dumps({"decision_id": "d", "kind": "left", "id": "f"}).encode()
    path = "/v1/loops/banner/feedback"
    answers: list[int] = []
    waiting = [
        threading.Thread(target=lambda: answers.append(call(url, "POST", path, body)[0]))
        for _ in range(20)
    ]
    for thread in waiting:
        thread.start()
    decided = json.dumps({"features": FEATURES}).encode()
    assert call(url, "POST", "/v1/loops/banner/decisions", decided)[0] == 200
    for thread in waiting:
        thread.join()
    assert answers == [503] * 20


def test_a_worker_without_a_home_goes_on_without_a_journal(tmp_path: Path) -> None:
    """A container may have nothing to write to; only a folder that somebody named must be there."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "journal"
    log = KafkaEventLog(NOWHERE, journal=JournalConfig(folder=folder, is_required=False))
    assert "there is no journal" in log.troubles[0]
    log.close(timeout_s=0.0)
    with pytest.raises(ConfigError, match="journal cannot be written"):
        KafkaEventLog(NOWHERE, journal=JournalConfig(folder=folder))


def test_a_batch_is_acknowledged_when_kafka_has_all_of_it() -> None:
    """In memory: all events or none."""
    log = MemoryEventLog(capacity=2)
    told: list[str | None] = []
    log.deliver([Event("t", b"k", b"1"), Event("t", b"k", b"2")], told.append)
    log.deliver([Event("t", b"k", b"3")], told.append)
    assert told == [None, "the buffer for Kafka is full"]
    assert (len(log.events), log.dropped) == (2, 1)


@pytest.mark.kafka
def test_kafka_acknowledges_each_batch_once(kafka: KafkaConfig, loop: Loop) -> None:
    """The answer to the service hangs on it."""
    log = KafkaEventLog(kafka)
    told: list[str | None] = []
    for number in range(100):
        key = b"%d" % number
        log.deliver([Event(f"{loop.loop}.feedback", key, b"v")] * 3, told.append)
    deadline = time.monotonic() + 120
    while len(told) < 100:
        assert time.monotonic() < deadline
    assert told == [None] * 100
    assert (log.delivered, log.waiting, log.dropped, log.failed) == (300, 0, 0, 0)
    too_large = Event(f"{loop.loop}.feedback", b"k", b"x" * 2_000_000)
    log.deliver([too_large], told.append)
    assert told[100] is not None
    log.close()


@pytest.fixture
def loop(kafka: KafkaConfig) -> Loop:
    """A published loop of this test's own."""
    made = banner(loop=f"banner-{uuid.uuid4().hex[:8]}")
    publish_loop(kafka, made)
    return made


@pytest.mark.kafka
def test_the_largest_event_with_items_arrives(kafka: KafkaConfig, tmp_path: Path) -> None:
    """What a worker does not refuse, brokers with their defaults take, through the journal, too."""
    loop = with_items(loop=f"banner-{uuid.uuid4().hex[:8]}")
    publish_loop(kafka, loop)
    log = KafkaEventLog(kafka, journal=JournalConfig(folder=tmp_path))
    decider = Decider(loop, store=KafkaSchemaStore(kafka), log=log)
    check, room = decider.decisions.check, MAX_EVENT_BYTES // 50 - 40
    while room:  # the largest that is not refused
        sent = [item(f"item-{number}", topic="x" * room) for number in range(50)]
        try:
            decider.decide(check({"country": "at", "visits": 3}, items=sent, id="d-1"))
            break
        except RequestError:
            room -= 1
    assert log.flush(120) == 0
    assert (log.dropped, log.failed) == (0, 0)
    log.close()
    (row,) = read_events(kafka, loop, "decisions")
    items = row["items"]
    assert isinstance(items, list)
    assert [len(each["features"]["topic"]) for each in items] == [room] * 50
    assert room * 50 > MAX_EVENT_BYTES * 0.99
