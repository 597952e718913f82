"""Feedback over HTTP, answered when Kafka has it: how long that takes at a steady rate."""

import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.httpload import generate
from benchmarks.processes import Measured
from benchmarks.workload import loop
from tidemill.deploy.local.kafka_settings import free_port
from tidemill.deploy.local.supervisor import answers, tidemill_command
from tidemill.kafka import KafkaConfig
from tidemill.schemas.published import publish_loop
from tidemill.serving.journal import JOURNAL

Say = Callable[[str], None]
CONNECTIONS = 256  # more than wait for an answer at a time, so that none delays the next request
DIFFERENT = 1_000


def measure_feedback(
    kafka: KafkaConfig, *, per_second: float, seconds: float, say: Say
) -> dict[str, float]:
    """Return the figures of the report's `feedback`."""
    bench = loop(f"bench-feedback-{uuid.uuid4().hex[:8]}")
    publish_loop(kafka, bench)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        env = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, JOURNAL: str(Path(folder) / "journal")}
        command = tidemill_command("serve", bench.loop, "--port", str(port))
        with Measured(command, env) as server:
            server.until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), timeout_s=60)
            before, since_s = server.usage().cpu_s, time.perf_counter()
            found = generate(
                port,
                [_request(bench.loop, number) for number in range(DIFFERENT)],
                expected=b"HTTP/1.1 202 ",
                connections=CONNECTIONS,
                seconds=seconds,
                per_second=per_second,
            )
            share = (server.usage().cpu_s - before) / (time.perf_counter() - since_s)
    say(
        f"feedback: p99 {found.p99_ms:.1f} ms at {found.per_second:,.0f} a second, "
        f"{share:.0%} of the server's core"
    )
    figures = {"per_second": found.per_second, "p99_ms": found.p99_ms}
    return figures | {"cpu_us": share / found.per_second * 1e6}


def _request(name: str, number: int) -> bytes:
    sent = {"decision_id": f"decision-{number}", "kind": "click", "values": {"amount": 1.5}}
    body = msgspec.json.encode(sent)
    head = (
        f"POST /v1/loops/{name}/feedback HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
