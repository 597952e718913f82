"""`tidemill up`: one command, all processes, and nothing left behind."""

import os
import random
import signal
import socket
import subprocess
import threading
import time
import uuid
from contextlib import ExitStack, closing, suppress
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tests.schemas.loops import MINIMAL

from tidemill import Client
from tidemill.deploy.local.folder_lock import FolderLock
from tidemill.deploy.local.kafka import EmbeddedKafka, RunningKafka
from tidemill.deploy.local.supervisor import answers, tidemill_command
from tidemill.deploy.local.up import UpConfig, look_after_kafka, run_up
from tidemill.errors import ConfigError
from tidemill.kafka import KafkaConfig
from tidemill.kafka.outage import is_away


def free_ports() -> int:
    """Return the first of four free ports in a row, below those that clients get by chance."""
    while True:
        first = random.randrange(10_000, 30_000)
        with ExitStack() as opened, suppress(OSError):
            for port in range(first, first + 4):
                opened.enter_context(closing(socket.create_server(("127.0.0.1", port))))
            return first


@pytest.mark.kafka
def test_up_serves_the_loop_of_a_file_and_leaves_nothing_behind(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """It is what a new user types after `tidemill init`."""
    name, port = f"up-{uuid.uuid4().hex[:8]}", free_ports()
    file = tmp_path / "loop.yaml"
    file.write_text(MINIMAL.replace("banner", name))
    url = f"http://127.0.0.1:{port}"
    command = tidemill_command("up", str(file), "--port", str(port), "--folder", str(tmp_path))
    env = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap}
    with (tmp_path / "up.out").open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 300
        while "runs until Ctrl-C" not in (tmp_path / "up.out").read_text():
            assert process.poll() is None, (tmp_path / "up.out").read_text()
            assert time.monotonic() < deadline, (tmp_path / "up.out").read_text()
            time.sleep(0.1)
        decision = (
            Client(url, budget_ms=5_000).loop(name).get_decision({"country": "CH", "visits": 1})
        )
        assert (decision.action, decision.source) == (False, "default")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    assert not answers(f"{url}/healthz")
    assert (tmp_path / "logs" / "train.log").exists()


@pytest.mark.kafka
def test_a_kafka_that_hangs_is_started_again(own_kafka: EmbeddedKafka) -> None:
    """Every other process waits for it, however long."""
    stop = threading.Event()
    kafka = RunningKafka(kind="embedded", config=own_kafka.config, start_s=0.0, embedded=own_kafka)
    out = Console(file=StringIO())
    watch = threading.Thread(target=look_after_kafka, args=(kafka, out, stop), kwargs={"hung_s": 3})
    own_kafka.suspend()
    watch.start()
    try:
        deadline = time.monotonic() + 300
        while is_away(own_kafka.config):
            assert time.monotonic() < deadline
    finally:
        stop.set()
        watch.join()


def test_a_second_up_in_one_folder_is_refused(tmp_path: Path) -> None:
    """It would start a second Kafka over the data of the first."""
    config = UpConfig(folder=tmp_path / "up")
    with (
        FolderLock(tmp_path / "up", use="used", hint="none"),
        pytest.raises(ConfigError, match="of process") as caught,
    ):
        run_up(config, Console(file=StringIO()))
    assert "--folder" in caught.value.hint
