"""The join of 1 M decisions and 0.5 M feedback in a 60 s window, by a real streams worker.

Measured is the process `tidemill worker` from its start to its last examples: raw tables, commits,
labels and examples included, on one core; the broker has another. Beside it a naive join, one
event at a time, reads the same topics (`naive.py`).
"""

import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from benchmarks.processes import Measured, Usage, module_command
from benchmarks.workload import loop, produce
from tidemill.deploy.kafka_settings import free_port
from tidemill.deploy.processes import tidemill_command
from tidemill.features.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the worker."""

    events: int
    seconds: float  # from holding the partitions to the last examples
    start_cpu_s: float  # before that; counted for neither of the two that are compared
    usage: Usage


def measure_join(
    kafka: KafkaConfig, *, decisions: int, naive_events: int, say: Say
) -> dict[str, float]:
    """Return the figures of the report's `join`."""
    bench = loop(f"bench-join-{uuid.uuid4().hex[:8]}")
    clicks = produce(kafka, bench, decisions)
    say(f"join: {decisions:,} decisions and {clicks:,} feedback are on the topics")
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        run = run_worker(kafka, bench.loop, Path(folder), decisions, clicks)
    millions = run.events / 1e6
    say(
        f"join: {run.usage.cpu_s:.2f} CPU s in {run.seconds:.2f} s, all rows exact; "
        f"{run.start_cpu_s:.2f} CPU s to start"
    )
    arguments = (kafka.bootstrap, bench.loop, str(naive_events))
    with Measured(module_command("naive", *arguments)) as naive:
        cost = naive.result()
    say(f"join: the naive one did {cost['events']:,.0f} events, scaled to a million")
    return {
        "events_per_second": run.events / run.seconds,
        "cpu_s_per_million": run.usage.cpu_s / millions,
        "peak_mb": run.usage.peak_mb,
        "naive_cpu_s_per_million": cost["cpu_s"] / cost["events"] * 1e6,
    }


def run_worker(
    kafka: KafkaConfig, name: str, folder: Path, decisions: int, clicks: int, timeout_s: float = 600
) -> Run:
    """Run a worker until every decision has its example, and check them.

    Raises:
        RuntimeError: it failed, or the lake does not hold what was sent.
    """
    port = free_port()
    environment = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "TIDEMILL_LAKE": str(folder)}
    command = tidemill_command("worker", name, "--metrics-port", str(port))
    with Measured(command, environment) as worker:
        started = worker.until(
            lambda: _metric(port, "tidemill_stream_partitions") > 0, timeout_s=60, every_s=0.02
        )
        start = worker.usage()
        ended = worker.until(
            lambda: _metric(port, "tidemill_lake_rows_total", 'table="examples"') >= decisions,
            timeout_s=timeout_s,
            every_s=0.25,
        )
        usage = replace(worker.usage(), cpu_s=worker.usage().cpu_s - start.cpu_s)
    _check(folder, name, decisions, clicks)
    return Run(
        events=decisions + clicks, seconds=ended - started, start_cpu_s=start.cpu_s, usage=usage
    )


def _check(folder: Path, name: str, decisions: int, clicks: int) -> None:
    examples = Lake(LakeConfig(root=str(folder))).table(name, "examples")
    frame = examples.read(["decision_id", "label"])
    found = (
        frame.height,
        frame["decision_id"].n_unique(),
        frame.filter(pl.col("label") == 1).height,
    )
    if found != (decisions, decisions, clicks):
        raise RuntimeError(f"{name}: rows, ids and labels are {found}, not {decisions}, {clicks}")


def _metric(port: int, name: str, label: str = "") -> float:
    """Return the sum of a metric, 0 while it is not there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except (urllib.error.URLError, OSError):
        return 0.0
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and label in line
    )
