"""A loop on a real broker, a producer in plain fastavro, and workers that may be killed."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import duckdb
import fastavro
import polars as pl
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its list of names
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from tidemill.features.audit.differences import differences
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.sql.views import schema_name, views
from tidemill.kafka import KafkaConfig
from tidemill.monitor.ledger import Account, ledger
from tidemill.schemas import topics
from tidemill.schemas.events.schemas import decision_schema, feedback_schema
from tidemill.schemas.logs import Log, topic_of
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import joined_topics, publish_loop
from tidemill.streams.runtime.close_requests import request_close

START = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
WORKER = """
import logging, os, sys
from tidemill.streams.runtime.worker import StreamsWorkerConfig, run_worker
logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
sys.exit(run_worker(StreamsWorkerConfig.from_env(os.environ, sys.argv[1:])))
"""


def new_loop(**changes: object) -> Loop:
    """Return a loop with a new name: clicks within a minute, four partitions."""
    return Loop.model_validate(
        {
            "loop": f"t-{uuid.uuid4().hex[:10]}".replace("-0", "-a"),
            "decision": {"type": "bool", "default": False},
            "features": {"hour": "int", "price": "float", "page": "category"},
            "feedback": {"click": {"within": "60s", "values": {"amount": "float"}}},
            "label": {"sql": "max(amount) > 0.5", "type": "bool"},
            "grace": "10s",
            "idle_after": "2s",
            "policy": {"kind": "threshold", "above": True, "below": False},
            "partitions": 4,
        }
        | changes
    )


def until(true: Callable[[], object], what: str, timeout_s: float = 300.0) -> None:
    """Return as soon as *true* holds; fail after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def _end_of(reader: Consumer, partition: TopicPartition) -> int:
    """Return the end of *partition*; a broker that is not its leader yet is asked again."""
    for _ in range(1_000):
        try:
            _low, high = reader.get_watermark_offsets(partition, timeout=120)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION:
                raise
            time.sleep(0.05)
        else:
            return int(high)
    raise AssertionError(f"{partition} has no leader")


class PlainProducer:
    """Events by fastavro and confluent-kafka alone, from the schemas, as any service would."""

    def __init__(self, kafka: KafkaConfig, loop: Loop) -> None:
        self.loop = loop
        self._producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "partitioner": "murmur2_random",
                "message.max.bytes": 8_000_000,
                "linger.ms": 20,
                "compression.type": "lz4",
            }
        )
        schemas = {"": dict(decision_schema(loop))} | {
            kind: dict(feedback_schema(loop, kind)) for kind in loop.feedback
        }
        self._schemas = {kind: fastavro.parse_schema(schema) for kind, schema in schemas.items()}
        self._prefixes = {
            kind: b"\xc3\x01"
            + bytes.fromhex(
                fastavro.schema.fingerprint(
                    fastavro.schema.to_parsing_canonical_form(schema), "CRC-64-AVRO"
                )
            )
            for kind, schema in schemas.items()
        }

    def payload(self, kind: str, event: Mapping[str, object]) -> bytes:
        """Return an event as bytes: the empty *kind* is a decision."""
        out = BytesIO()
        fastavro.schemaless_writer(out, self._schemas[kind], event)
        return self._prefixes[kind] + out.getvalue()

    def decision(self, key: str, at: datetime, **features: object) -> bytes:
        """Return the bytes of a decision."""
        event = {
            "id": key,
            "at": at,
            "entity": None,
            "action": False,
            "score": 0.25,
            "propensity": None,
            "source": "default",
            "model_version": None,
            "policy_version": 1,
            "loop_version": self.loop.version,
            "features": {"hour": 3, "price": 1.5, "page": "home"} | features,
        }
        return self.payload("", event)

    def click(
        self,
        key: str,
        at: datetime,
        *,
        id: str | None = None,
        amount: float = 1.0,
        kind: str = "click",
    ) -> bytes:
        """Return the bytes of a click, or another *kind* of feedback, on the decision *key*."""
        event = {"id": id or f"f-{key}", "decision_id": key, "at": at, "values": {"amount": amount}}
        return self.payload(kind, event)

    def decide(self, key: str, at: datetime, **features: object) -> None:
        """Send a decision."""
        self.send(topics.decisions(self.loop.loop), key, self.decision(key, at, **features))

    def feed(
        self,
        key: str,
        at: datetime,
        *,
        id: str | None = None,
        amount: float = 1.0,
        kind: str = "click",
    ) -> None:
        """Send a click, or another *kind* of feedback."""
        value = self.click(key, at, id=id, amount=amount, kind=kind)
        topic = topic_of(self.loop.loop, self.loop.feedback[kind].log)
        self.send(topic, self.feedback_key(key), value)

    def feedback_key(self, decision_id: str) -> str:
        """Return the key of feedback on a decision."""
        return decision_id

    def send(
        self,
        topic: str,
        key: str,
        value: bytes | None,
        partition: int = -1,
        timestamp_ms: int = 0,  # now
    ) -> None:
        """Send any bytes."""
        while True:
            try:
                self._producer.produce(
                    topic, value, key.encode(), partition, timestamp=timestamp_ms
                )
                return
            except BufferError:
                self._producer.poll(0.1)

    def flush(self) -> None:
        """Return when everything sent is acknowledged."""
        assert self._producer.flush(60) == 0


@dataclass(frozen=True)
class WrittenDeadLetter:
    """A dead letter as any Kafka tool reads it: its headers as text, its key and its value."""

    fields: Mapping[str, str]
    key: bytes | None
    value: bytes | None

    @property
    def offset(self) -> int:
        """The offset of the record that could not be read."""
        return int(self.fields["offset"])


@dataclass
class Rig:
    """One loop with its topics and its lake."""

    kafka: KafkaConfig
    loop: Loop
    folder: Path
    ports: dict[int, int] = field(default_factory=dict)  # of /metrics, by process id
    program: Sequence[str] = ("-c", WORKER)  # what Python is told to run as a worker

    @property
    def lake(self) -> Lake:
        """The lake workers write to."""
        return Lake(LakeConfig(root=str(self.folder / "lake")))

    def producer(self) -> PlainProducer:
        """Return a producer of events of the loop."""
        return PlainProducer(self.kafka, self.loop)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a worker."""
        return {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap,
            "TIDEMILL_LAKE": str(self.folder / "lake"),
            "TIDEMILL_SESSION_TIMEOUT_S": "6",
            **more,
        }

    def start(self, **more: str) -> subprocess.Popen[bytes]:
        """Start a worker process and wait until it answers; its log is worker.log."""
        process = self._started(**more)
        until(lambda: self.answers(process), "the worker answers")
        return process

    def ended(self, timeout_s: float = 300.0, **more: str) -> int:
        """Start a worker that ends by itself; return its exit code."""
        process = self._started(**more)
        try:
            return process.wait(timeout_s)
        finally:
            end(process)

    def _started(self, **more: str) -> subprocess.Popen[bytes]:
        port = free_port()
        with (self.folder / "worker.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, *self.program, self.loop.loop],
                env=self.environment(TIDEMILL_METRICS_PORT=str(port), **more),
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        self.ports[process.pid] = port
        return process

    def answers(self, worker: subprocess.Popen[bytes]) -> bool:
        """Return whether *worker* has started; fail if it has ended instead."""
        assert worker.poll() is None, self.log()[-3000:]
        try:
            address = f"http://127.0.0.1:{self.ports[worker.pid]}/metrics"
            urllib.request.urlopen(address, timeout=60).close()
        except OSError:
            return False
        return True

    def taken(self, worker: subprocess.Popen[bytes]) -> int:
        """Return how many records *worker* has counted as read."""
        return int(self.metric(worker, "tidemill_stream_records_total"))

    def metric(self, worker: subprocess.Popen[bytes], name: str) -> float:
        """Return the sum of a metric of *worker*; 0 if it does not answer."""
        try:
            address = f"http://127.0.0.1:{self.ports[worker.pid]}/metrics"
            with urllib.request.urlopen(address, timeout=60) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    @contextmanager
    def worker(self, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker while the block lasts."""
        process = self.start(**more)
        try:
            yield process
        finally:
            end(process)

    def log(self) -> str:
        """Return the log of all workers so far."""
        return (self.folder / "worker.log").read_text()

    def rows(self, table: str) -> int:
        """Return the number of rows in a table; 0 before there is one."""
        if not self.lake.has_table(self.loop.loop, table):
            return 0
        return self.lake.table(self.loop.loop, table).read(["offset"]).height

    def ends(self) -> dict[tuple[Log, int], int]:
        """Return the end of each log, asked of the broker."""
        reader = Consumer({"bootstrap.servers": self.kafka.bootstrap, "group.id": "ends"})
        found = {
            (log, number): _end_of(reader, TopicPartition(topic, number))
            for log, topic in joined_topics(self.loop).items()
            for number in range(self.loop.partitions)
        }
        reader.close()
        return found

    def accounts(self) -> list[Account]:
        """Return the ledger, with what is still unread."""
        return ledger(self.lake, self.loop, ends=self.ends())

    def is_done(self) -> bool:
        """Return whether everything is read and nothing is open."""
        if not self.lake.has_table(self.loop.loop, "examples"):
            return False
        return all(account.unread == 0 and account.open == 0 for account in self.accounts())

    def is_read(self) -> bool:
        """Return whether everything is read and committed."""
        if not self.lake.has_table(self.loop.loop, "examples"):
            return False
        return all(account.unread == 0 for account in self.accounts())

    def examples(self) -> pl.DataFrame:
        """Return all examples, by decision id."""
        return self.lake.table(self.loop.loop, "examples").read().sort("decision_id")

    def dead_letters(self) -> list[WrittenDeadLetter]:
        """Return the dead letters of this loop, by offset, without the records of replays."""
        found = []
        reader = Consumer(
            {
                "bootstrap.servers": self.kafka.bootstrap,
                "group.id": "letters",
                "enable.partition.eof": True,
            }
        )
        reader.assign([TopicPartition(topics.DEAD_LETTERS, 0, OFFSET_BEGINNING)])
        while True:
            message = reader.poll(10)
            assert message is not None
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF
                break
            fields = {name: str(value, "utf-8") for name, value in _headers(message)}
            if fields.get("topic", "").startswith(f"{self.loop.loop}.") and "reason" in fields:
                found.append(WrittenDeadLetter(fields, message.key(), message.value()))
        reader.close()
        return sorted(found, key=lambda letter: letter.offset)

    def close(self, at: datetime) -> None:
        """End the logs up to *at*."""
        request_close(self.kafka, self.loop.loop, at)


def _headers(message: Message) -> list[tuple[str, bytes]]:
    found = message.headers() or []
    pairs = found.items() if isinstance(found, dict) else found
    return [(name, fields) for name, fields in pairs if isinstance(fields, bytes)]


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def raise_limit(kafka: KafkaConfig, topic: str) -> None:
    """Allow *topic* messages of 8 MB."""
    entry = ConfigEntry("max.message.bytes", "8000000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result()


def assert_exact(rig: Rig, *, idle: bool = False) -> None:
    """The lake holds each record once, every end is accounted for, and the oracle agrees.

    *idle* says that logs were moved on by the clock while they were still being written.
    """
    for account in rig.accounts():
        assert account.is_balanced, account
        assert account.unread == 0, account
    with duckdb.connect() as connection:
        views(rig.lake, [rig.loop], connection)
        name = f'"{schema_name(rig.loop.loop)}"'
        wrong = differences(connection, rig.loop, name, idle=idle)
    assert wrong.is_empty(), wrong.head(10).to_dicts()


def path_with(folder: Path) -> str:
    """Return the search path of child processes with *folder* in front."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def end(process: subprocess.Popen[bytes]) -> int:
    """End a worker in good order and return its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
    try:
        return process.wait(120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def new_rig(kafka: KafkaConfig, folder: Path, **changes: object) -> Rig:
    """Publish a new loop and return its rig."""
    loop = new_loop(**changes)
    publish_loop(kafka, loop)
    return Rig(kafka, loop, folder)


def send_traffic(
    producer: PlainProducer, numbers: Sequence[int], seed: int, per_second: float = 500.0
) -> datetime:
    """Send a decision for each of *numbers* and feedback for two thirds; return the last time.

    Some come out of order, twice, late, early or for nobody.
    """
    draw = random.Random(seed)
    last = START
    for number in numbers:
        at = START + timedelta(seconds=number / per_second)
        jitter = timedelta(seconds=draw.uniform(-5, 5))
        last = max(last, at + jitter)
        key = f"d{number}"
        chance = draw.random()
        if chance < 0.01:
            jitter -= timedelta(seconds=30)  # late
        producer.decide(key, at + jitter, hour=number % 24)
        if 0.01 < chance < 0.02:
            producer.decide(key, at + jitter, hour=23)  # twice
        if draw.random() < 0.66:
            delay = timedelta(seconds=draw.uniform(-2, 70))
            click_at = min(at + delay, last)
            kind = draw.choice(list(producer.loop.feedback))
            producer.feed(key, click_at, amount=draw.random(), kind=kind)
            if draw.random() < 0.02:
                producer.feed(key, click_at, amount=0.0, kind=kind)
        if draw.random() < 0.01:
            producer.feed(f"nobody{number}", at)
    producer.flush()
    return last
