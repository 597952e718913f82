"""Two workers on two cores against one worker on one, over the same topics.

The topics are filled in one transaction while the two wait, each with its partitions claimed; the
commit of the transaction starts both. The broker may use both cores in either run, so it takes time
from two workers that it does not take from one; `broker_cpu_s_per_million` says how much.
"""

import contextlib
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import Producer

from benchmarks.join import (
    EXAMPLES,
    PARTITIONS,
    check_examples,
    last_examples_at,
    metric,
    run_worker,
    started_worker,
)
from benchmarks.processes import (
    ALL_CORES,
    LOAD,
    MEASURED,
    broker_processes,
    core,
    cpu_s,
    run_on,
)
from benchmarks.workload import Filled, empty, loop, write_events
from tidemill.deploy.local.kafka_settings import free_port
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import publish_loop

Say = Callable[[str], None]
TIMEOUT_S = 600.0
SETTLE_S = 20.0
"""A virtual machine returns freed memory to its host some seconds later, and then the first write
to a page takes much longer. So one worker must not inherit pages from two."""


class Gate:
    """A transaction: what is sent in it appears on all topics at once, when it is opened."""

    def __init__(self, kafka: KafkaConfig) -> None:
        settings = {
            "transactional.id": f"bench-{uuid.uuid4().hex[:8]}",
            "transaction.timeout.ms": 900_000,
            "queue.buffering.max.messages": 200_000,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 20,
        }
        self._producer = Producer({**kafka.client(), **settings})

    def __enter__(self) -> Self:
        self._producer.init_transactions(60)
        self._producer.begin_transaction()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._producer.abort_transaction(60)

    def send(self, topic: str, key: str, value: bytes, partition: int) -> None:
        """Take one record; wait while the buffer is full."""
        while True:
            try:
                self._producer.produce(topic, value, key, partition)
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def flush(self) -> None:
        """Wait until the broker has everything."""
        self._producer.flush(TIMEOUT_S)

    def open(self) -> None:
        """Let readers see everything.

        Raises:
            KafkaException: some of it did not reach the broker.
        """
        self._producer.commit_transaction(TIMEOUT_S)


def measure_pair(kafka: KafkaConfig, decisions: int, say: Say, *, rounds: int) -> dict[str, float]:
    """Return the figures of the report's `two_workers`: of the middle one of some *rounds*.

    A ratio of two runs that follow each other is off by as much as the machine's minutes differ.
    """
    found = sorted((_round(kafka, decisions, say) for _ in range(rounds)), key=_times_faster)
    return found[rounds // 2] | {
        "least_times_faster": _times_faster(found[0]),
        "most_times_faster": _times_faster(found[-1]),
    }


def _times_faster(figures: dict[str, float]) -> float:
    return figures["two_events_per_second"] / figures["one_events_per_second"]


def _round(kafka: KafkaConfig, decisions: int, say: Say) -> dict[str, float]:
    brokers = broker_processes()
    run_on(brokers, ALL_CORES)
    try:
        with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
            two, filled = _run_two(kafka, decisions, Path(folder), say)
        time.sleep(SETTLE_S)
        before_s = cpu_s(brokers)
        with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
            run = run_worker(kafka, filled, Path(folder), timeout_s=TIMEOUT_S)
        one_broker_s = cpu_s(brokers) - before_s
    finally:
        run_on(brokers, core(LOAD))
    empty(kafka, filled)
    millions = filled.events / 1e6
    one = {
        "one_events_per_second": run.events / run.seconds,
        "one_cpu_s_per_million": run.usage.cpu_s / millions,
        "one_broker_cpu_s_per_million": one_broker_s / millions,
    }
    say(f"two workers: {_times_faster(two | one):.2f} times as fast as one")
    return {
        name: value
        for name, value in (two | one).items()
        if brokers or "broker" not in name  # what a broker elsewhere uses is not known
    }


def _run_two(
    kafka: KafkaConfig, decisions: int, folder: Path, say: Say
) -> tuple[dict[str, float], Filled]:
    bench = loop(f"bench-pair-{uuid.uuid4().hex[:8]}")
    publish_loop(kafka, bench)
    brokers = broker_processes()
    ports = [free_port(), free_port()]
    with contextlib.ExitStack() as stack:
        gate = stack.enter_context(Gate(kafka))
        clicks = write_events(kafka, bench, decisions, gate.send, gate.flush)
        filled = Filled(loop=bench, decisions=decisions, clicks=clicks)
        say(f"two workers: {filled.events:,} events wait for them")
        workers = [
            stack.enter_context(started_worker(kafka, bench, folder, port, cores=core(index)))
            for port, index in zip(ports, (MEASURED, LOAD), strict=True)
        ]
        workers[0].until(lambda: _are_sharing(bench, ports), timeout_s=120)
        used_s = [worker.usage().cpu_s for worker in workers]
        broker_s, started = cpu_s(brokers), time.time()
        gate.open()
        workers[0].until(
            lambda: sum(metric(port, *EXAMPLES) for port in ports) >= decisions,
            timeout_s=TIMEOUT_S,
            every_s=0.25,
        )
        broker_s = cpu_s(brokers) - broker_s
        spent_s = [
            worker.usage().cpu_s - used for worker, used in zip(workers, used_s, strict=True)
        ]
    check_examples(folder, filled)
    millions = filled.events / 1e6
    figures = {
        "two_events_per_second": filled.events / (last_examples_at(folder, bench) - started),
        "two_cpu_s_per_million": sum(spent_s) / millions,
        "two_busier_cpu_s_per_million": max(spent_s) / millions,
        "two_broker_cpu_s_per_million": broker_s / millions,
    }
    return figures, filled


def _are_sharing(bench: Loop, ports: list[int]) -> bool:
    """Return whether each worker owns half of the partitions."""
    return all(metric(port, PARTITIONS) == bench.partitions / len(ports) for port in ports)
