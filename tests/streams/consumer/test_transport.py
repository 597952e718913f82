"""Batches through a real broker: no gap, no overlap; and what Faust is assumed to do inside."""

import asyncio
import inspect
import random
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import faust
import pytest
from confluent_kafka import Consumer as PlainConsumer
from confluent_kafka import TopicPartition
from faust.tables.recovery import Recovery
from faust.transport.conductor import Conductor
from faust.transport.consumer import Consumer, Fetcher, ThreadDelegateConsumer
from faust.transport.drivers import aiokafka as driver
from faust.transport.drivers import by_name
from faust.types import TP
from tests.streams.rig import until

from tidemill.kafka import KafkaConfig, Topic, Writer, ensure_topics
from tidemill.streams.consumer.fetch_thread import BatchThread
from tidemill.streams.consumer.transport import BatchConsumer, BatchTransport

APP = Path(__file__).with_name("transport_app.py")

OVERRIDDEN: list[tuple[type, Callable[..., object], list[str]]] = [
    (BatchConsumer, driver.Consumer._to_message, ["self", "tp", "record"]),
    (BatchConsumer, Consumer._new_offset, ["self", "tp"]),
    (BatchConsumer, Consumer._add_gap, ["self", "tp", "offset_from", "offset_to"]),
    (BatchConsumer, Consumer._wait_next_records, ["self", "timeout"]),
    (BatchConsumer, ThreadDelegateConsumer._getmany, ["self", "active_partitions", "timeout"]),
    (BatchConsumer, Consumer.verify_all_partitions_active, ["self"]),
    (BatchConsumer, driver.Consumer._new_consumer_thread, ["self"]),
    (BatchConsumer, Consumer.getmany, ["self", "timeout"]),
    (BatchConsumer, driver.Consumer.seek_to_committed, ["self"]),
    (BatchThread, driver.AIOKafkaConsumerThread._create_worker_consumer, ["self", "transport"]),
    (BatchThread, driver.AIOKafkaConsumerThread._commit, ["self", "offsets"]),
    (BatchThread, driver.AIOKafkaConsumerThread._seek_wait, ["self", "consumer", "partitions"]),
    (BatchThread, driver.AIOKafkaConsumerThread.position, ["self", "tp"]),
]


class Stored:
    """The batches that the app has stored in its database."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def query(self, sql: str) -> list[tuple[int, ...]]:
        """Return rows; none before the app has made its table."""
        if not self._path.exists():
            return []
        try:
            with sqlite3.connect(self._path, timeout=30) as database:
                return database.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []

    def records(self) -> int:
        """Return how many records the stored batches have."""
        rows = self.query("select coalesce(sum(records), 0) from batches")
        return rows[0][0] if rows else 0

    def has_more_than(self, records: int) -> bool:
        """Return whether more than *records* are stored."""
        return self.records() > records


class Processes:
    """Processes of the app, to be killed."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self._arguments = arguments
        self._cwd = cwd
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        """Start one more."""
        with (self._cwd / "app.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, str(APP), *self._arguments],
                cwd=self._cwd,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.running.append(process)
        return process

    def end(self) -> None:
        """End all by force."""
        for process in self.running:
            process.kill()
            process.wait()


def handles_sigterm(process_id: int) -> bool:
    """Whether a process has come so far in its start that it listens to SIGTERM."""
    status = Path(f"/proc/{process_id}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def fill(kafka: KafkaConfig, topics: list[str], records: int) -> None:
    """Write so many records in all."""
    writer = Writer(kafka)
    for number in range(records):
        while not writer.write(topics[number % 2], key=str(number).encode(), value=b"x" * 100):
            writer.flush(1)
    assert writer.flush(60) == 0
    writer.close()


def consumer_at(read_to: int | None, end: int | None, records_end: int) -> BatchConsumer:
    """Return a consumer whose thread has handed out everything before *read_to*.

    The records among it end before *records_end*; the rest are control batches.
    """
    passed_and_end = None if read_to is None else (read_to, end)
    consumer = BatchConsumer.__new__(BatchConsumer)
    consumer._thread = SimpleNamespace(
        passed_and_end=lambda _place: passed_and_end, records_end=lambda _place: records_end
    )
    return consumer


@pytest.mark.parametrize(
    ("passed", "end", "fetched", "handed_out", "received", "is_received"),
    [
        (10, 10, 10, 10, 10, True),
        (10, 12, 10, 10, 10, False),  # there is more
        (10, 10, 10, 7, 7, False),  # handed out by the thread, not yet to an agent
        (10, 10, 10, 10, 7, False),  # on its way to who receives it
        (10, 10, 9, 9, 9, True),  # behind it are control batches only, which nobody receives
        (10, 10, 9, 7, 7, False),
        (10, 10, 10, 10, None, False),  # another worker's
        (None, None, 0, 0, 0, False),  # Kafka has not answered yet
    ],
)
def test_a_log_is_received_once_nothing_of_it_is_on_its_way(
    passed: int | None,
    end: int | None,
    fetched: int,
    handed_out: int,
    received: int | None,
    is_received: bool,
) -> None:
    """Records on their way that miss a commit cycle wait for another interval."""
    consumer = consumer_at(passed, end, fetched)
    consumer._delivered = consumer._expected = {TP("t", 0): handed_out}
    position = replace(consumer.position_of(TP("t", 0)), received=received)
    assert position.is_received == is_received


def test_a_log_whose_records_are_all_deleted_is_received() -> None:
    """A rare stream may have outlived its topic's retention; the others do not wait for it."""
    consumer = consumer_at(read_to=50, end=50, records_end=0)
    consumer._delivered, consumer._expected = {TP("t", 0): 0}, {TP("t", 0): 50}
    assert replace(consumer.position_of(TP("t", 0)), received=0).is_received


@pytest.mark.parametrize(
    ("expected", "ends"),
    [(10, {TP("t", 0): (12, 12)}), (7, {}), (None, {})],
)
def test_a_log_is_not_at_its_end_while_records_are_under_way(
    expected: int | None, ends: dict[TP, tuple[int, int]]
) -> None:
    """Time would advance without them, and they would be late."""
    consumer = consumer_at(read_to=12, end=12, records_end=10)
    consumer._expected = {} if expected is None else {TP("t", 0): expected}
    consumer._delivered = {}

    async def highwaters(*places: TP) -> dict[TP, int]:
        return dict.fromkeys(places, 12)

    async def positions(places: list[TP]) -> dict[TP, int]:
        return dict.fromkeys(places, 12)

    consumer.highwaters, consumer._thread.positions = highwaters, positions
    assert asyncio.run(consumer.ends([TP("t", 0)])) == ends


@pytest.mark.kafka
def test_batches_tile_the_log_whoever_is_killed(kafka: KafkaConfig, tmp_path: Path) -> None:
    """A gap or an overlap here would lose or double events, whatever the packages above do."""
    topics = [f"{uuid.uuid4().hex}-{side}" for side in ("a", "b")]
    ensure_topics(kafka, [Topic(name=name, partitions=4) for name in topics])
    group, database = uuid.uuid4().hex, tmp_path / "stored.db"
    processes = Processes(kafka.bootstrap, group, str(database), ",".join(topics), cwd=tmp_path)
    stored = Stored(database)
    draw = random.Random(5)
    try:
        processes.start()
        for number in range(1, 4):
            before = stored.records()
            fill(kafka, topics, 60_000)
            until(partial(stored.has_more_than, before), "the app reads")
            if number == 2:
                processes.start()
            victim = draw.choice(processes.running)
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            processes.running.remove(victim)
            processes.start()
        until(lambda: stored.records() >= 180_000, "everything is read")
        last = processes.running[-1]
        until(partial(handles_sigterm, last.pid), "the app has started")
        last.terminate()
        assert last.wait(120) == 0, "it ends in good order"
    finally:
        processes.end()
    assert stored.records() == 180_000
    gaps = stored.query(
        "select count(*) from (select start, coalesce(lag(next) over "
        "(partition by topic, part order by start), 0) as expected from batches) "
        "where start <> expected"
    )
    assert gaps == [(0,)]
    assert stored.query("select max(records) > 1 from batches") == [(1,)], "they are batches"


@pytest.mark.kafka
def test_the_group_commits_positions_so_that_lag_ends_at_zero(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Operators' tools read only the group's offsets; a constant lag of one would mislead."""
    topics = [f"{uuid.uuid4().hex}-{side}" for side in ("a", "b")]
    ensure_topics(kafka, [Topic(name=name, partitions=2) for name in topics])
    fill(kafka, topics, 1000)
    group, database = uuid.uuid4().hex, tmp_path / "stored.db"
    processes = Processes(kafka.bootstrap, group, str(database), ",".join(topics), cwd=tmp_path)
    reader = PlainConsumer({"bootstrap.servers": kafka.bootstrap, "group.id": group})
    places = [TopicPartition(topic, number) for topic in topics for number in range(2)]

    def lag() -> int:
        committed = reader.committed(places, timeout=120)
        ends = [reader.get_watermark_offsets(place, timeout=120)[1] for place in places]
        return sum(end - max(done.offset, 0) for end, done in zip(ends, committed, strict=True))

    try:
        processes.start()
        until(lambda: lag() == 0, "lag is 0")
    finally:
        processes.end()
        reader.close()


def test_the_versions_whose_private_names_are_overridden() -> None:
    """Before an upgrade, read what changed in these names, then pin the new versions."""
    assert version("faust-streaming") == "0.15.3"
    assert version("aiokafka") == "0.14.0"


@pytest.mark.parametrize(("ours", "theirs", "parameters"), OVERRIDDEN)
def test_private_names_still_have_the_shape_that_is_overridden(
    ours: type, theirs: Callable[..., object], parameters: list[str]
) -> None:
    """An override of a name that is gone would silently never be called."""
    assert list(inspect.signature(theirs).parameters) == parameters
    assert getattr(ours, theirs.__name__) is not theirs


def test_the_scheme_batch_finds_the_transport() -> None:
    """The entry point is what connects a broker address to all of this."""
    assert by_name("batch") is BatchTransport
    assert BatchTransport.Consumer is BatchConsumer


def calls(function: Callable[..., object], *names: str) -> bool:
    """Whether *function* names these in this order."""
    text = inspect.getsource(function)
    places = [text.find(name) for name in names]
    return -1 not in places and places == sorted(places)


def test_faust_still_does_things_in_the_order_this_relies_on() -> None:
    """Claim before seek, seek before fetch, commit after the streams have stopped."""
    assert calls(
        Recovery._resume_streams, "on_rebalance_complete.send", "perform_seek", "resume_flow"
    )
    assert calls(Consumer.perform_seek, "seek_to_committed", "read_offset.update")
    assert calls(
        faust.App._on_partitions_revoked,
        "stop_flow",
        "flow_control.clear",
        "_consumer_wait_empty",
        "on_partitions_revoked.send",
    )
    assert calls(faust.App.on_stop, "_stop_consumer", "on_before_shutdown.send")
    assert calls(Consumer._filter_committable_offsets, "_new_offset", "_should_commit")
    assert calls(Consumer._drain_messages, "getmany(timeout", "callback(message)")
    assert calls(Fetcher._fetcher.fun, "_drain_messages")


def test_the_attributes_that_are_used_are_there() -> None:
    """Attributes that Faust sets in constructors have no signature to compare."""
    source = inspect.getsource(Consumer)
    names = ("_acked", "_acked_index", "_committed_offset", "_buffered_partitions", "flow_active")
    for name in names:
        assert f"self.{name}" in source
    assert callable(Consumer._get_active_partitions)
    for name in ("call_thread", "_ensure_consumer", "assignment"):
        assert callable(getattr(driver.AIOKafkaConsumerThread, name))
    for name in ("credentials_to_aiokafka_auth", "server_list", "ensure_aiokafka_TP"):
        assert callable(getattr(driver, name))
    assert "self._assignor" in inspect.getsource(driver.AIOKafkaConsumerThread)
    assert isinstance(Conductor.__iter__, type(calls))
    assert "_crashed" in inspect.getsource(faust.App.crash)
