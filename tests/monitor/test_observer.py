"""The monitor shows each link of the chain once it is there, and says what it cannot read."""

import json
import socket
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.schemas.loops import minimal

from tidemill.cli.app import main
from tidemill.cli.tables.chain import chain_table
from tidemill.cli.terminal import WRONG
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig, write_all
from tidemill.monitor.chain import Chain
from tidemill.monitor.lag import GroupLag
from tidemill.monitor.observer import MonitorConfig, Observer, Status
from tidemill.monitor.readings import Reading
from tidemill.monitor.status import as_metrics, run_monitor
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import Ack
from tidemill.schemas.published import publish_loop

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def loop(kafka: KafkaConfig) -> Loop:
    """A loop of this test's own, published."""
    kinds = {"clicked": {"within": "30m"}, "bought": {"within": "7d", "stream": "orders"}}
    made = minimal(loop=f"watched-{uuid.uuid4().hex[:8]}", feedback=kinds)
    publish_loop(kafka, made)
    return made


@pytest.fixture
def config(kafka: KafkaConfig, loop: Loop, tmp_path: Path) -> MonitorConfig:
    """A monitor of that loop on a free port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    lake = LakeConfig(root=str(tmp_path / "lake"))
    return MonitorConfig(kafka=kafka, lake=lake, loops=[loop.loop], port=port, every_s=0.1)


def ack(loop: Loop, worker: str, version: str, status: str, at: datetime) -> tuple[bytes, bytes]:
    """What a worker would say of a model, as a record."""
    made = Ack.from_json(
        json.dumps(
            {"worker": worker, "loop": loop.loop, "slot": "live", "version": version}
            | {"digest": "0" * 64, "status": status, "reason": "", "at": at.isoformat()}
        ).encode()
    )
    return made.key, made.to_json()


def chain(config: MonitorConfig) -> Chain:
    """Read once and return the one chain."""
    with Observer(config) as observer:
        status = observer.read(Status())
    assert status.chains.value is not None, status.problem
    return status.chains.value[0]


@pytest.mark.kafka
def test_a_loop_that_was_only_published_has_no_link_yet(config: MonitorConfig) -> None:
    """An empty chain is a normal first hour, not an error."""
    found = chain(config)
    assert found.decision_age_s is found.feedback_age_s is found.example_age_s is None
    assert (found.model, found.workers) == (None, 0)


@pytest.mark.kafka
def test_each_link_shows_once_it_is_there(config: MonitorConfig, loop: Loop) -> None:
    """The row tells an operator at which link the chain is broken."""
    write_all(config.kafka, topics.decisions(loop.loop), [(b"d1", b"any bytes")])
    assert chain(config).decision_age_s is not None
    assert chain(config).feedback_age_s is None
    write_all(config.kafka, topics.feedback(loop.loop, "orders"), [(b"d1", b"any bytes")])
    assert chain(config).feedback_age_s is not None, "the newest of any stream"
    lake = Lake(config.lake)
    lake.create(loop)
    frontier = int(NOON.timestamp() * 1e6)
    lake.table(loop.loop, "examples").append(
        None,
        swaps=[CompareAndSwap(f"frontier/{n}", None, frontier + n) for n in range(loop.partitions)],
    )
    found = chain(config)
    assert found.closed_until == NOON
    assert found.example_age_s is not None
    assert found.example_age_s < 600


@pytest.mark.kafka
def test_workers_are_counted_by_the_model_they_serve(config: MonitorConfig, loop: Loop) -> None:
    """A worker left behind on an old model, or refusing the new one, is a worker to look at."""
    later = NOON + timedelta(minutes=1)
    said = [
        ack(loop, "a", "lightgbm-1", "serving", NOON),
        ack(loop, "b", "lightgbm-2", "serving", later),
        ack(loop, "c", "lightgbm-2", "refused", later),
    ]
    write_all(config.kafka, topics.ACKS, said)
    found = chain(config)
    assert found.model == "lightgbm-2"
    assert (found.serving, found.workers, found.refused) == (1, 3, 1)
    assert chain_table([found]).rows[0].style == WRONG


@pytest.mark.kafka
def test_the_service_answers_and_says_when_it_cannot_look(config: MonitorConfig) -> None:
    """A monitor that hides its own failure is worse than none."""
    stop, url = threading.Event(), f"http://127.0.0.1:{config.port}"
    thread = threading.Thread(target=run_monitor, args=(config, stop))
    thread.start()
    try:
        wait_for(lambda: get(f"{url}/healthz")[0] == 200)
        status = json.loads(get(f"{url}/status")[1])
        assert [loop["loop"] for loop in status["loops"]] == list(config.loops)
        assert b"tidemill_monitor_up 1.0" in get(f"{url}/metrics")[1]
        write_all(config.kafka, topics.ACKS, [(f"broken/{config.loops[0]}".encode(), b"{")])
        wait_for(lambda: get(f"{url}/healthz")[0] == 503)
        assert b"tidemill_monitor_up 0.0" in get(f"{url}/metrics")[1]
    finally:
        write_all(config.kafka, topics.ACKS, [(f"broken/{config.loops[0]}".encode(), None)])
        stop.set()
        thread.join()


def test_figures_of_a_failed_reading_are_not_exported() -> None:
    """Old ones say that all is well, all night long; their age is what alerts."""
    lag = GroupLag(group="readers", members=1, partitions=())
    read: Reading[Sequence[GroupLag]] = Reading(name="lag", at_s=1_000.0, value=[lag], problem=None)
    metrics = as_metrics(Status(lags=read), 1_007.0).decode()
    assert 'tidemill_lag_messages{group="readers"} 0.0' in metrics
    lost = replace(read, value=None, problem="no answer")
    metrics = as_metrics(Status(lags=lost), 1_300.0).decode()
    assert "tidemill_lag_" not in metrics
    assert 'tidemill_reading_age_seconds{reading="lag"} 300.0' in metrics
    assert "tidemill_monitor_up 0.0" in metrics


def test_a_monitor_without_kafka_says_what_it_could_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 3, and within ten seconds."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    assert main(["monitor", "--once", "--json"]) == 3
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["groups"] == document["loops"] == []
    assert "127.0.0.1:1" in document["readings"]["lag"]["problem"]
    assert "loops: 127.0.0.1:1 does not answer" in captured.err


def get(url: str) -> tuple[int, bytes]:
    """Return status and body of *url*; 0 while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def wait_for(is_true: object) -> None:
    """Ask until *is_true* is, at most a minute; the broker decides how long it takes."""
    assert callable(is_true)
    pause = threading.Event()
    for _ in range(600):
        if is_true():
            return
        pause.wait(0.1)
    pytest.fail("it did not come true within a minute")
