"""Decisions with logging to Kafka: in process, and over HTTP with 32 connections on one core."""

import json
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.httpload import generate
from benchmarks.model import publish_model
from benchmarks.processes import ALL_CORES, Measured, module_command
from benchmarks.workload import features, loop
from tidemill.deploy.local.kafka_settings import free_port
from tidemill.deploy.local.supervisor import answers, tidemill_command
from tidemill.kafka import KafkaConfig
from tidemill.schemas.models.signing import TRUSTED_KEYS, TrustedKeys
from tidemill.schemas.published import publish_loop
from tidemill.serving.client.calls import Asked
from tidemill.serving.client.client import Client
from tidemill.serving.client.embedded import open_transport

Say = Callable[[str], None]
DIFFERENT = 1_000
BATCH = 100
ROUND = 20_000  # decisions between two waits for the broker: a fifth of what the buffer holds


def measure_decisions(
    kafka: KafkaConfig, *, decisions: int, seconds: float, say: Say
) -> dict[str, float]:
    """Return the figures of the report's `decide`."""
    bench = loop(f"bench-decide-{uuid.uuid4().hex[:8]}")
    publish_loop(kafka, bench)
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        keys = publish_model(kafka, bench, Path(folder))
        arguments = (kafka.bootstrap, bench.loop, str(keys), str(decisions))
        with Measured(module_command("decide", *arguments), cores=ALL_CORES) as embedded:
            inside = embedded.result()
        say(
            f"decide: {inside['us']:.1f} us in process (rounds of {inside['least_us']:.1f} to "
            f"{inside['most_us']:.1f}), {inside['until_safe_us']:.1f} until safe, "
            f"{inside['cpu_us']:.1f} of CPU with the client's own thread; batches of {BATCH}: "
            f"{inside['batch_per_second']:,.0f} a second"
        )
        figures = _over_http(kafka, bench.loop, keys, seconds)
    more = {"in_process_us": inside["us"], "batch_per_second": inside["batch_per_second"]}
    return {**more, **figures}


def _over_http(kafka: KafkaConfig, name: str, keys: Path, seconds: float) -> dict[str, float]:
    port = free_port()
    environment = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, TRUSTED_KEYS: str(keys)}
    with Measured(tidemill_command("serve", name, "--port", str(port)), environment) as server:
        server.until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), timeout_s=60)
        chance = random.Random(5)
        requests = [decision_request(name, features(n, chance)) for n in range(DIFFERENT)]
        found = generate(port, requests, expected=b'"source":"model"', seconds=seconds)
    return {"http_per_second": found.per_second, "http_p99_ms": found.p99_ms}


def decision_request(name: str, asked: dict[str, object]) -> bytes:
    """Return the HTTP request for a decision of the loop *name*."""
    body = msgspec.json.encode({"features": asked, "entity": "user-17"})
    head = (
        f"POST /v1/loops/{name}/decisions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def main(bootstrap: str, name: str, keys: Path, decisions: int) -> None:
    """Decide in this process; print the microseconds of a call, and until Kafka has all of it.

    The middle of many short rounds counts, so that what else a machine does for a second does not.
    """
    door = open_transport(
        KafkaConfig(bootstrap),
        loops=(name,),
        definitions=(),
        trusted=TrustedKeys.load(keys),
        name="bench",
        ready_s=30.0,
    )
    chance = random.Random(5)
    asked = [features(number, chance) for number in range(DIFFERENT)]
    with Client.through(door) as client:
        decide = client.loop(name).get_decision
        deadline = time.monotonic() + 30
        while decide(asked[0]).source != "model":
            if time.monotonic() > deadline:
                raise RuntimeError(f"the model does not serve: {door.worker.troubles()}")
            time.sleep(0.05)
        for number in range(ROUND):  # the broker has just started, and compiles what it runs often
            decide(asked[number % DIFFERENT])
        door.worker.log.flush(30)
        started, used, left = time.perf_counter(), time.process_time(), 0
        rounds = []
        for first in range(0, decisions, ROUND):
            before, end = time.perf_counter(), min(first + ROUND, decisions)
            for number in range(first, end):
                decide(asked[number % DIFFERENT], entity="user-17")
            rounds.append((time.perf_counter() - before) / (end - first))
            left += door.worker.log.flush(60)
        safe, used = time.perf_counter() - started, time.process_time() - used
        batch_s = _of_batches(client, name, asked, door.worker.log.flush)
        if left or door.worker.log.dropped or door.worker.log.failed:
            raise RuntimeError(f"events are missing: {door.worker.troubles()}, {left} left")
    seconds = {"us": median(rounds), "least_us": min(rounds), "most_us": max(rounds)}
    seconds |= {"until_safe_us": safe / decisions, "cpu_us": used / decisions}
    micros = {name: found * 1e6 for name, found in seconds.items()}
    print(json.dumps({**micros, "batch_per_second": 1 / batch_s}))


def _of_batches(
    client: Client, name: str, features: list[dict[str, object]], flush: Callable[[float], int]
) -> float:
    """Return the seconds of one decision of a batch, with logging: the middle of 20 rounds."""
    asked: list[Asked] = [{"features": one, "entity": "user-17"} for one in features]
    batches = [asked[first : first + BATCH] for first in range(0, len(asked), BATCH)]
    decide, rounds = client.loop(name).get_decisions, []
    for _ in range(20):
        before = time.perf_counter()
        for number in range(ROUND // BATCH):
            decide(batches[number % len(batches)])
        rounds.append((time.perf_counter() - before) / ROUND)
        flush(60)
    return median(rounds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
