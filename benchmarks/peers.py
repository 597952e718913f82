"""Other stream processors over the same topics: their cost, and their errors.

Each joins all events of the topics, in one process on one core, into a topic of its own. It is
measured from outside: from the assignment of its partitions to its last row.
"""

import contextlib
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from confluent_kafka import Consumer, ConsumerGroupState, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks import kafkastreams, quix
from benchmarks.answers import Label, read_answer
from benchmarks.processes import Measured, Usage
from benchmarks.workload import Filled
from tidemill.kafka import KafkaConfig, Topic, ensure_topics

Say = Callable[[str], None]
Figures = dict[str, float]
START_S = 120.0
QUIET_S = 10.0  # after so long without a new row there will be none


class _Labelled(msgspec.Struct):
    label: bool


_read_json = msgspec.json.Decoder(_Labelled).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a peer at some moment."""

    rows: int
    at_s: float
    usage: Usage


def measure_peers(kafka: KafkaConfig, filled: Filled, say: Say) -> dict[str, Figures]:
    """Return the figures of the report's `peers`, by the name of the peer."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as home:
        folder = Path(home)
        jars = kafkastreams.compiled(folder)
        for name, guarantee in (
            ("kafka_streams", "at_least_once"),
            ("kafka_streams_exactly_once", "exactly_once_v2"),
        ):
            group, examples = _names(kafka, filled, name)
            command = kafkastreams.command(
                jars, kafka, filled, folder, group=group, examples=examples, guarantee=guarantee
            )
            found[name] = _measure(kafka, filled, command, group, examples, _last_byte)
            say(f"peers: {_told(name, found[name])}")
        group, examples = _names(kafka, filled, "quix")
        command = quix.command(kafka, filled, folder, group=group, examples=examples)
        found["quix"] = _measure(
            kafka, filled, command, group, examples, lambda value: _read_json(value).label
        )
        say(f"peers: {_told('quix', found['quix'])}")
    return found


def _last_byte(value: bytes) -> bool:
    return value[-1] == 1


def _told(name: str, figures: Figures) -> str:
    return (
        f"{name}: {figures['cpu_s_per_million']:.1f} CPU s per million, "
        f"{figures['rows']:,.0f} rows, {figures['wrong_rows']:,.0f} wrong, "
        f"{figures['doubled_rows']:,.0f} doubled, {figures['missing_rows']:,.0f} missing"
    )


def _names(kafka: KafkaConfig, filled: Filled, peer: str) -> tuple[str, str]:
    """Return a new consumer group and a new topic for the rows of *peer*."""
    group = f"{peer.replace('_', '-')}-{uuid.uuid4().hex[:8]}"
    ensure_topics(kafka, [Topic(name=f"{group}.examples", partitions=filled.loop.partitions)])
    return group, f"{group}.examples"


def _measure(
    kafka: KafkaConfig, filled: Filled, command: list[str], group: str, examples: str, label: Label
) -> Figures:
    rows = _Rows(kafka, examples, filled.loop.partitions)
    with Measured(command) as peer:
        admin = AdminClient(kafka.client())
        peer.until(lambda: _is_assigned(admin, group), timeout_s=START_S)
        started = Progress(rows=0, at_s=time.perf_counter(), usage=peer.usage())
        seen = [started]

        def is_quiet() -> bool:
            count, now_s = rows.count(), time.perf_counter()
            if count > seen[-1].rows:
                seen.append(Progress(rows=count, at_s=now_s, usage=peer.usage()))
            return count > 0 and now_s - seen[-1].at_s > QUIET_S

        peer.until(is_quiet, timeout_s=3600, every_s=0.25)
    rows.close()
    answer = read_answer(kafka, examples, filled.decisions, label)
    return {
        **costs(seen, filled.events),
        "rows": answer.rows,
        "wrong_rows": answer.wrong,
        "doubled_rows": answer.doubled,
        "missing_rows": answer.missing,
    }


def costs(seen: list[Progress], events: int) -> Figures:
    """Return the cost of a run from its first to its last row, and of its second half alone.

    The second half tells what remains of the cost once a just-in-time compiler has warmed up.
    """
    started, ended = seen[0], seen[-1]
    middle = next(point for point in seen if point.rows >= ended.rows / 2)
    millions = events / 1e6
    rest = (ended.rows - middle.rows) / max(ended.rows, 1)
    late_s = ended.usage.cpu_s - middle.usage.cpu_s
    return {
        "events_per_second": events / (ended.at_s - started.at_s),
        "cpu_s_per_million": (ended.usage.cpu_s - started.usage.cpu_s) / millions,
        "second_half_cpu_s_per_million": late_s / (millions * rest) if rest else 0.0,
        "peak_mb": ended.usage.peak_mb,
    }


def _is_assigned(admin: AdminClient, group: str) -> bool:
    """Return whether the members of *group* have partitions assigned."""
    described = admin.describe_consumer_groups([group])[group].result()
    held = [
        member.assignment and member.assignment.topic_partitions for member in described.members
    ]
    return described.state == ConsumerGroupState.STABLE and all(held)


class _Rows:
    """Counts the records of a topic, control batches included."""

    def __init__(self, kafka: KafkaConfig, topic: str, partitions: int) -> None:
        self._consumer = Consumer(kafka.client(group_id="bench-rows"))
        self._tps = [TopicPartition(topic, number) for number in range(partitions)]
        self._count = 0

    def count(self) -> int:
        with contextlib.suppress(KafkaException):  # a new topic may not be known everywhere yet
            ends = [self._consumer.get_watermark_offsets(tp)[1] for tp in self._tps]
            self._count = sum(ends)
        return self._count

    def close(self) -> None:
        self._consumer.close()
