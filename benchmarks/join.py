"""The join of 1 M decisions and 0.5 M feedback in a 60 s window, by a real streams worker.

It measures the process `tidemill worker` on one core from its start to its last examples, with raw
tables, commits, labels and examples; the broker has another core. For comparison a naive join, one
event at a time, reads the same topics (`naive.py`).
"""

import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.answers import compare
from benchmarks.processes import Measured, Usage, module_command
from benchmarks.workload import Filled
from tidemill.deploy.local.kafka_settings import free_port
from tidemill.deploy.local.supervisor import tidemill_command
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Loop

Say = Callable[[str], None]
PARTITIONS = "tidemill_stream_partitions"
EXAMPLES = ("tidemill_lake_rows_total", 'table="examples"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the worker."""

    events: int
    seconds: float  # from the claim of the partitions to the last examples
    start_cpu_s: float  # before the claim; not counted for either of the two that are compared
    usage: Usage


def measure_join(
    kafka: KafkaConfig, filled: Filled, *, naive_events: int, say: Say
) -> dict[str, float]:
    """Return the figures of the report's `join`."""
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        run = run_worker(kafka, filled, Path(folder))
    millions = run.events / 1e6
    say(
        f"join: {run.usage.cpu_s:.2f} CPU s in {run.seconds:.2f} s, all rows exact; "
        f"{run.start_cpu_s:.2f} CPU s to start"
    )
    arguments = (kafka.bootstrap, filled.loop.loop, str(naive_events))
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
    kafka: KafkaConfig,
    filled: Filled,
    folder: Path,
    *,
    others: Sequence[Loop] = (),
    timeout_s: float = 600,
) -> Run:
    """Run a worker until every decision has its example, and check them; *others* are idle.

    Raises:
        RuntimeError: it failed, or the lake does not hold what was sent.
    """
    port = free_port()
    owned = filled.loop.partitions + sum(each.partitions for each in others)
    with started_worker(kafka, filled.loop, folder, port, others=others) as worker:
        worker.until(lambda: metric(port, PARTITIONS) >= owned, timeout_s=timeout_s, every_s=0.02)
        start, started = worker.usage(), time.time()
        worker.until(
            lambda: metric(port, *EXAMPLES) >= filled.decisions,
            timeout_s=timeout_s,
            every_s=0.25,
        )
        usage = replace(worker.usage(), cpu_s=worker.usage().cpu_s - start.cpu_s)
    check_examples(folder, filled)
    seconds = last_examples_at(folder, filled.loop) - started
    return Run(events=filled.events, seconds=seconds, start_cpu_s=start.cpu_s, usage=usage)


def last_examples_at(folder: Path, loop: Loop) -> float:
    """Return when the newest examples of a lake could be read, in seconds since 1970.

    A worker that ends commits how far it has read once more; there is no row in that.
    """
    commits = (folder / loop.loop / "examples" / "_delta_log").glob("*.json")
    return max(commit.stat().st_mtime for commit in commits if '"add"' in commit.read_text())


def started_worker(
    kafka: KafkaConfig,
    loop: Loop,
    folder: Path,
    port: int,
    *,
    others: Sequence[Loop] = (),
    cores: set[int] | None = None,
) -> Measured:
    """Return a worker for *loop* and *others*, its lake in *folder*, its metrics on *port*."""
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "TIDEMILL_LAKE": str(folder),
        "TIDEMILL_GROUP": folder.name,  # workers of one lake share its loops
    }
    names = [each.loop for each in (loop, *others)]
    command = tidemill_command("worker", *names, "--metrics-port", str(port))
    return Measured(command, environment, cores=cores)


def check_examples(folder: Path, filled: Filled) -> None:
    """Compare the examples of a lake with the one right answer.

    Raises:
        RuntimeError: they are not the same.
    """
    examples = Lake(LakeConfig(root=str(folder))).table(filled.loop.loop, "examples")
    frame = examples.read(["decision_id", "label"])
    numbers = frame["decision_id"].str.slice(8).str.to_integer(base=16).to_numpy()
    answer = compare(numbers, frame["label"].to_numpy(), filled.decisions)
    if (answer.wrong, answer.doubled, answer.missing) != (0, 0, 0):
        raise RuntimeError(
            f"{filled.loop.loop}: the examples are not what they should be: {answer}"
        )


def metric(port: int, name: str, label: str = "") -> float:
    """Return the sum of a worker's metric, 0 while it is not there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except (urllib.error.URLError, OSError):
        return 0.0
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and label in line
    )
