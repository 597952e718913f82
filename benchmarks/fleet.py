"""A fleet of small loops in one worker: what they cost idle, and at one event a second each.

All loops have one partition. The worker runs on one core, the broker and the load on another. The
last figure is the throughput of one loop at full speed beside the idle ones, over that alone.
"""

import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import psutil

from benchmarks.delay import delays
from benchmarks.join import EXAMPLES, PARTITIONS, metric, run_worker, started_worker
from benchmarks.processes import broker_processes, cpu_s
from benchmarks.workload import clicked, decision, fill, loop
from tidemill.deploy.local.kafka_settings import free_port
from tidemill.errors import BrokerError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig, Topic, Writer, ensure_topics, write_all
from tidemill.schemas import topics
from tidemill.schemas.avro.wire import SINGLE_OBJECT, canonical_json
from tidemill.schemas.events.schemas import DecisionEncoder, FeedbackEncoder, event_schemas
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import SHARED_TOPICS, event_topics, key_of
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.streams.join.rules import JoinRules

Say = Callable[[str], None]
WITHIN, GRACE = timedelta(seconds=10), timedelta(seconds=1)
START_S, SETTLE_S = 900.0, 10.0
TOPICS_AT_ONCE = 200
SAMPLE = 20  # loops whose commits are read for the freshness of examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a process and the broker take over a while."""

    cpu: float  # cores
    broker_cpu: float
    memory_mb: float
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int, act: Callable[[], object]) -> "Footprint":
        """Return what the process *pid* takes while *act* runs."""
        process, brokers = psutil.Process(pid), broker_processes()
        before = cpu_s([process]), cpu_s(brokers), time.monotonic()
        act()
        took_s = time.monotonic() - before[2]
        return cls(
            cpu=(cpu_s([process]) - before[0]) / took_s,
            broker_cpu=(cpu_s(brokers) - before[1]) / took_s,
            memory_mb=process.memory_info().rss / 1e6,
            threads=process.num_threads(),
            files=process.num_fds(),
        )

    def figures(self) -> dict[str, float]:
        """Return the figures of the report."""
        return {
            "cores": self.cpu,
            **({"broker_cores": self.broker_cpu} if broker_processes() else {}),
            "memory_mb": self.memory_mb,
            "threads": self.threads,
            "files": self.files,
        }


def measure_fleet(
    kafka: KafkaConfig, *, loops: int, seconds: float, decisions: int, say: Say
) -> dict[str, object]:
    """Return the figures of the report's `fleet`, of so many *loops*.

    Args:
        kafka: the broker.
        loops: how many are published.
        seconds: how long they get one event a second each.
        decisions: of the loop at full speed; 0 leaves it out.
        say: is told how far it is.
    """
    fleet = publish_fleet(kafka, loops)
    say(f"fleet: {loops} loops are published")
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as home:
        folder, port, begun = Path(home), free_port(), time.monotonic()
        with started_worker(kafka, fleet[0], folder, port, others=fleet[1:]) as worker:
            worker.until(lambda: metric(port, PARTITIONS) >= loops, timeout_s=START_S)
            started_s, pid = time.monotonic() - begun, worker.process.pid
            say(f"fleet: all partitions are owned after {started_s:.1f} s")
            time.sleep(SETTLE_S)
            idle = Footprint.of(pid, lambda: time.sleep(30.0))
            say(f"fleet: idle, {idle}")
            wrote = [0]
            live = Footprint.of(pid, lambda: wrote.append(one_a_second(kafka, fleet, seconds)))
            time.sleep(2 * (WITHIN + GRACE).total_seconds())
            say(f"fleet: {sum(wrote) / seconds:,.0f} events/s, {live}")
            examples = metric(port, *EXAMPLES)
        fresh = freshness(Lake(LakeConfig(root=home)), fleet[:: max(1, loops // SAMPLE)])
    figures: dict[str, object] = {
        "loops": loops,
        "start_s": started_s,
        "idle": idle.figures(),
        "live": {**live.figures(), "events_per_second": sum(wrote) / seconds, "examples": examples},
        "fresh_s": {name: float(np.quantile(fresh, q)) for name, q in (("p50", 0.5), ("max", 1.0))},
    }
    return figures | ({"busy": _busy(kafka, fleet, decisions, say)} if decisions else {})


def publish_fleet(kafka: KafkaConfig, count: int) -> list[Loop]:
    """Publish *count* loops of one partition, with their topics and schemas, in few requests."""
    run = uuid.uuid4().hex[:6]
    fleet = [
        loop(f"fleet-{run}-{number}", within=WITHIN, grace=GRACE, partitions=1)
        for number in range(count)
    ]
    ensure_topics(kafka, SHARED_TOPICS)
    wanted = [topic for each in fleet for topic in event_topics(each)]
    for first in range(0, len(wanted), TOPICS_AT_ONCE):
        portion: Sequence[Topic] = wanted[first : first + TOPICS_AT_ONCE]
        ensure_topics(kafka, portion, timeout_s=120)
    store, schemas = MemorySchemaStore(), []
    for each in fleet:
        for subject, schema in event_schemas(each).items():
            prefix = store.register(subject, schema)[len(SINGLE_OBJECT) :].hex()
            schemas.append((f"{subject}/{prefix}".encode(), canonical_json(schema).encode()))
    write_all(kafka, topics.SCHEMAS, schemas)
    write_all(kafka, topics.LOOPS, [(key_of(each), each.canonical.encode()) for each in fleet])
    return fleet


def one_a_second(kafka: KafkaConfig, fleet: Sequence[Loop], seconds: float) -> int:
    """Write one event a second to each loop, spread over the second; return how many.

    Two decisions are followed by a click on the first of them.
    """
    store, chance, writer = MemorySchemaStore(), random.Random(7), Writer(kafka, linger_ms=20)
    encoders = [(DecisionEncoder(each, store), FeedbackEncoder(each, store)) for each in fleet]
    start, count = time.monotonic(), int(seconds * len(fleet))
    for number in range(count):
        time.sleep(max(0.0, start + number / len(fleet) - time.monotonic()))
        turn, which = divmod(number, len(fleet))
        (decide, click), at = encoders[which], datetime.now(UTC)
        event = decision(turn, at, chance)
        if turn % 3 < 2:
            topic, key = topics.decisions(fleet[which].loop), str(event["id"])
            value = decide.encode(event)
        else:
            topic = topics.feedback(fleet[which].loop)
            key = str(decision(turn - 2, at, chance)["id"])
            value = click.encode("click", clicked(at, f"click-{turn}", key))
        writer.write(topic, key=key.encode(), value=value)
    undelivered = writer.flush(60)
    if undelivered or writer.dropped or writer.failed:
        raise BrokerError(f"{undelivered} events are not there", hint="take fewer loops")
    writer.close()
    return count


def freshness(lake: Lake, fleet: Sequence[Loop]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the seconds from the close of the bucket of each example to its commit."""
    found = []
    for each in fleet:
        table, parts = lake.table(each.loop, "examples"), []
        log = Path(lake.root) / each.loop / "examples" / "_delta_log"
        for commit in table.commits_since(0):
            written_s = os.stat(log / f"{commit.version:020d}.json").st_mtime
            rows = table.rows(commit).select("partition", "at")
            moment = pl.lit(int(written_s * 1e6)).cast(pl.Datetime("us", "UTC"))
            parts.append(rows.with_columns(moment.alias("readable_at")))
        if not sum(part.height for part in parts):
            raise RuntimeError(f"{each.loop} has no example: give it more seconds")
        columns = ["partition", "offset", "at", "ingested_at"]
        logs = {
            name: lake.table(each.loop, name).read(columns).sort("partition", "offset")
            for name in ("decisions", "feedback")
        }
        found.append(delays(pl.concat(parts), logs, JoinRules.of(each).spans()))
    return np.concatenate(found)


def _busy(kafka: KafkaConfig, fleet: Sequence[Loop], decisions: int, say: Say) -> dict[str, float]:
    """Return the throughput of one loop alone, and beside the idle ones of *fleet*."""
    found = {}
    for name, others in (("alone", ()), ("beside", fleet)):
        filled = fill(kafka, f"busy-{name}", decisions)
        with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as home:
            run = run_worker(kafka, filled, Path(home), others=others, timeout_s=START_S)
        found[f"{name}_events_per_second"] = run.events / run.seconds
        say(f"fleet: {run.events / run.seconds:,.0f} events/s {name}")
    return found
