"""All processes of a loop through outages of their broker: none ends, none lies, none loses."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.schemas.loops import minimal

from tidemill import Client
from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.deploy.local.stack import Ports, Stack
from tidemill.deploy.local.supervisor import Supervisor, tidemill_command
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import ensure_topics
from tidemill.monitor.ledger import is_balanced, ledger
from tidemill.schemas.published import SHARED_TOPICS, publish_loop
from tidemill.testing.kafka import START_S

LOOP = minimal(loop="outage", partitions=2)


def until(claim: Callable[[], bool], what: str, *, timeout_s: float = 300.0) -> None:
    """Return once *claim* holds, and fail if it never does."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


def get(url: str) -> tuple[int, str]:
    """Return the status and body of a page; status 0 without an answer."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


@dataclass
class Running:
    """All processes of a loop and a `lag --watch`, over a broker that the test may break."""

    broker: EmbeddedKafka
    stack: Stack
    supervisor: Supervisor
    watch: "subprocess.Popen[bytes]"
    watched: Path
    decided: int = 0
    told: int = 0
    texts: list[str] = field(default_factory=list)

    @property
    def server(self) -> str:
        """The address of the serving worker."""
        return self.stack.server_urls[0]

    def decide(self, count: int, *, feedback: bool = True) -> None:
        """Have *count* decisions made by the serving worker, each with its feedback or none."""
        client = Client(self.server, budget_ms=60_000).loop(LOOP.loop)
        for _ in range(count):
            decision = client.get_decision({"country": "CH", "visits": 1})
            assert decision.source == "default", decision
            self.decided += 1
            if feedback:
                client.log_feedback(decision.id, "clicked", seconds=1.0, page="home")
                self.told += 1

    def break_and_mend(self, fault: str, hold_s: float) -> None:
        """Freeze or kill the broker for *hold_s* at least, and look at what is told meanwhile."""
        began = time.monotonic()
        self.broker.suspend() if fault == "frozen" else self.broker.kill()
        self.decide(20, feedback=False)
        until(lambda: "wait for Kafka" in get(f"{self.server}/healthz")[1], "serve tells")
        until(lambda: self._lag_gauges() == 0, "gauges of the lag go")
        until(lambda: get(self._monitor("healthz"))[0] == 503, "the monitor tells")
        age = [line for line in self._metrics() if 'age_seconds{reading="lag"}' in line]
        assert age, "how old the last reading is stays visible"
        until(lambda: "problem" in self._last_watched(), "lag --watch tells")
        time.sleep(max(0.0, hold_s - (time.monotonic() - began)))  # the fault itself
        if fault == "frozen":
            self.broker.resume()
        else:
            self.broker.start(timeout_s=START_S)
        until(lambda: '"trouble":[]' in get(f"{self.server}/healthz")[1], "serve is well")
        until(lambda: get(self._monitor("healthz"))[0] == 200, "the monitor is well")
        until(lambda: self._lag_gauges() > 0, "gauges of the lag are back")
        until(lambda: "problem" not in self._last_watched(), "lag --watch is well")
        self.decide(20)
        until(self.is_read, "all that was sent is in the lake")
        assert set(self.supervisor.restarts.values()) == {0}, self.texts
        assert self.watch.poll() is None

    def _monitor(self, page: str) -> str:
        return f"http://127.0.0.1:{self.stack.ports.monitor}/{page}"

    def _metrics(self) -> list[str]:
        return get(self._monitor("metrics"))[1].splitlines()

    def _lag_gauges(self) -> int:
        return sum(line.startswith("tidemill_lag_") for line in self._metrics())

    def _last_watched(self) -> str:
        lines = self.watched.read_text().splitlines()
        return lines[-1] if lines else ""

    def is_read(self) -> bool:
        """Return whether all that was sent is in the lake."""
        lake = Lake(LakeConfig(root=self.stack.lake))
        if not lake.newest_number(LOOP.loop):
            return False  # the worker has not made all tables yet
        accounts = ledger(lake, LOOP)
        read = [sum(each.read for each in accounts if each.log == log) for log in LOOP.logs]
        assert is_balanced(accounts), accounts
        return read == [self.decided, self.told]


@pytest.fixture
def running(own_kafka: EmbeddedKafka, tmp_path: Path) -> Iterator[Running]:
    """The processes, ready, on free ports."""
    ensure_topics(own_kafka.config, SHARED_TOPICS)
    publish_loop(own_kafka.config, LOOP)
    stack = Stack(
        kafka=own_kafka.config,
        lake=str(tmp_path / "lake"),
        folder=tmp_path,
        ports=Ports.free(1),
        loops=[LOOP.loop],
    )
    texts: list[str] = []
    watched = tmp_path / "watched.jsonl"
    command = tidemill_command("lag", "--watch", "--json", "--every", "0.5")
    env = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": own_kafka.config.bootstrap}
    with ExitStack() as open_:
        supervisor = Supervisor(stack.programs(), logs=stack.logs, say=texts.append, stop_s=60.0)
        open_.enter_context(supervisor)
        output = open_.enter_context(watched.open("wb"))
        watch = subprocess.Popen(command, env=env, stdout=output)
        open_.callback(watch.wait)
        open_.callback(watch.kill)
        supervisor.wait_ready(START_S)
        yield Running(own_kafka, stack, supervisor, watch, watched, texts=texts)


@pytest.mark.kafka
@pytest.mark.slow
def test_a_frozen_broker_ends_nothing_and_is_told(running: Running) -> None:
    """One short round; the soak has ten long ones."""
    running.decide(20)
    running.break_and_mend("frozen", hold_s=0.0)


@pytest.mark.soak
def test_ten_minutes_of_outages_end_nothing(running: Running) -> None:
    """Frozen and killed brokers in turn, 60 s each."""
    running.decide(20)
    for number in range(10):
        running.break_and_mend(("frozen", "killed")[number % 2], hold_s=60.0)


@pytest.mark.kafka
@pytest.mark.slow
def test_every_process_stops_in_time_without_its_broker(running: Running) -> None:
    """It took the worker 37 s and the monitor 33 s; supervisors kill after ten."""
    running.decide(20)
    until(running.is_read, "all of them are at work")
    running.broker.suspend()
    running.decide(20, feedback=False)
    until(lambda: "wait for Kafka" in get(f"{running.server}/healthz")[1], "serve tells")
    pids = [pid for pid in running.supervisor.pids.values() if pid]
    assert len(pids) == 4
    began = time.monotonic()
    running.supervisor.stop()
    took_s = time.monotonic() - began
    assert took_s < 12.0, f"{took_s:.1f} s"
