"""The embedded Kafka: real, on its own, and never left behind."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tidemill.deploy.local.jars import KAFKA_VERSION, SERVER, cache_dir, fetch_jars
from tidemill.deploy.local.kafka import EmbeddedKafka, find_kafka
from tidemill.deploy.local.kafka_settings import free_port, listeners
from tidemill.errors import BrokerError, ConfigError
from tidemill.kafka import KafkaConfig, Topic, ensure_topics, read_compacted, write_all
from tidemill.testing.kafka import START_S

STARTER = """
import os, sys, time
from pathlib import Path
from tidemill.deploy.local.kafka import EmbeddedKafka
broker = EmbeddedKafka(cache=Path(sys.argv[1]), data=Path(sys.argv[2]))
broker.start()
print(broker.config.bootstrap, flush=True)
time.sleep(600)
"""


def java_with(text: str) -> list[int]:
    """Return the ids of the Java processes whose command line contains *text*."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if process.info["name"] == "java" and text in line:
            found.append(process.pid)
    return found


def gone(text: str, timeout_s: float = 120.0) -> bool:
    """Return whether the Java processes with *text* end within *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while java_with(text):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def started(kafka: KafkaConfig, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that started a broker; *kafka* skips where none can be started."""
    arguments = [sys.executable, "-c", STARTER, str(cache_dir(os.environ)), str(tmp_path)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("127.0.0.1:")
    yield process
    process.kill()
    process.wait()


@pytest.mark.kafka
def test_a_broker_dies_with_the_process_that_started_it(
    started: subprocess.Popen[str], tmp_path: Path
) -> None:
    """A test run that is killed must not leave 350 MB of Java behind."""
    assert len(java_with(str(tmp_path))) == 1
    os.kill(started.pid, signal.SIGKILL)
    assert gone(str(tmp_path))


@pytest.mark.kafka
def test_ctrl_c_ends_the_starter_and_its_broker(
    started: subprocess.Popen[str], tmp_path: Path
) -> None:
    """The terminal sends Ctrl-C to the whole group; the broker is its starter's to end."""
    os.kill(started.pid, signal.SIGINT)
    assert started.wait(120) != 0
    assert gone(str(tmp_path))


@pytest.mark.kafka
def test_a_killed_broker_returns_with_its_address_and_its_data(own_kafka: EmbeddedKafka) -> None:
    """What was acknowledged survives; clients find it where it was."""
    before = own_kafka.config
    ensure_topics(before, [Topic(name="kept", compacted=True)])
    write_all(before, "kept", [(b"k", b"v")])
    own_kafka.kill()
    assert not own_kafka.running
    assert gone(str(own_kafka.data))
    own_kafka.restart()
    assert own_kafka.config == before
    assert read_compacted(before, "kept") == {b"k": b"v"}
    own_kafka.stop()
    own_kafka.start()
    assert read_compacted(before, "kept") == {b"k": b"v"}
    data = own_kafka.data
    own_kafka.close()
    assert not data.exists()
    assert gone(str(data))


@pytest.mark.kafka
def test_a_suspended_broker_does_not_answer_until_it_goes_on(own_kafka: EmbeddedKafka) -> None:
    """A broker that hangs is another fault than one that is gone."""
    ensure_topics(own_kafka.config, [Topic(name="slow")])
    own_kafka.suspend()
    with pytest.raises(BrokerError):
        write_all(own_kafka.config, "slow", [(b"k", b"v")], timeout_s=1)
    own_kafka.resume()
    write_all(own_kafka.config, "slow", [(b"k", b"v")])


@pytest.mark.kafka
def test_a_second_broker_over_the_same_data_is_refused(own_kafka: EmbeddedKafka) -> None:
    """It overwrote the settings of the first one, and ended it."""
    second = EmbeddedKafka(cache=cache_dir(os.environ), data=own_kafka.data)
    settings = (own_kafka.data / "server.properties").read_text()
    with pytest.raises(ConfigError, match=f"of process {os.getpid()}") as caught:
        second.start()
    assert own_kafka.config.bootstrap in caught.value.hint
    assert (own_kafka.data / "server.properties").read_text() == settings
    ensure_topics(own_kafka.config, [Topic(name="still-there")])
    own_kafka.stop()
    second.start(timeout_s=START_S)
    try:
        assert second.config == own_kafka.config, "clients find it where it was"
    finally:
        second.stop()


@pytest.mark.kafka
def test_the_data_of_a_broker_are_private(own_kafka: EmbeddedKafka) -> None:
    """They are all events; the storage is a copy of one that everybody may read."""
    for folder in (own_kafka.data, own_kafka.data / "logs"):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.kafka
def test_a_broker_whose_port_is_taken_does_not_move(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Its clients would look for it where somebody else listens."""
    port, controller = free_port(), free_port()
    (tmp_path / "server.properties").write_text(listeners(port, controller))
    broker = EmbeddedKafka(cache=cache_dir(os.environ), data=tmp_path)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ConfigError, match=f"port {port}, where this Kafka was reached before"),
    ):
        broker.start()
    assert broker.config.bootstrap.endswith(f":{port}")


@pytest.mark.kafka
def test_a_second_start_touches_no_network(kafka: KafkaConfig) -> None:
    """Trains and firewalls: what was fetched once is enough."""
    refused: list[object] = []
    connect = socket.socket.connect

    def no_network(_: socket.socket, address: object) -> None:
        refused.append(address)
        raise OSError("no network in this test")

    try:
        socket.socket.connect = no_network  # type: ignore[assignment, method-assign]
        jars = fetch_jars(cache_dir(os.environ), SERVER)
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]
    assert refused == []
    assert any(path.name == "kafka_2.13-4.1.0.jar" for path in jars.paths)


@pytest.mark.kafka
def test_a_broker_that_cannot_run_says_why(kafka: KafkaConfig, tmp_path: Path) -> None:
    """The last words of the log are in the error; nobody should have to look for them."""
    (tmp_path / "logs").mkdir()  # not formatted
    broker = EmbeddedKafka(cache=cache_dir(os.environ), data=tmp_path)
    with pytest.raises(BrokerError, match=r"(?s)ended by itself.*meta\.properties"):
        broker.start()
    assert not broker.running
    assert gone(str(tmp_path))


@pytest.mark.kafka
def test_a_broker_given_by_the_environment_is_used_as_it_is(kafka: KafkaConfig) -> None:
    """Who has a Kafka gets no second one."""
    found = find_kafka({"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap})
    assert (found.kind, found.config.bootstrap, found.embedded) == ("env", kafka.bootstrap, None)
    found.stop()


@pytest.mark.slow
def test_a_given_broker_that_does_not_answer_is_an_error_not_a_second_choice() -> None:
    """Starting another one would hide that the configured one is down."""
    with pytest.raises(BrokerError, match="does not answer"):
        find_kafka({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, patience_s=1)


def test_waiting_for_another_download_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Minutes without a word look like a hang."""
    home = tmp_path / f"kafka-{KAFKA_VERSION}"
    home.mkdir()
    (home / "any.json").write_text(json.dumps({"artifacts": ["any"], "jars": []}))
    other = (home / "lock").open("w")
    fcntl.flock(other, fcntl.LOCK_EX)
    waiting = threading.Thread(target=fetch_jars, args=(tmp_path, ["any"]), kwargs={"name": "any"})
    waiting.start()
    while "waiting for it" not in caplog.text:
        assert waiting.is_alive()
        time.sleep(0.02)
    other.close()
    waiting.join()
