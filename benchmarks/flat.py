"""Whether the cost of an event is the same for 20 million events as for one: several sizes."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.join import run_worker
from benchmarks.workload import empty, fill
from tidemill.kafka import KafkaConfig

Say = Callable[[str], None]
TIMEOUT_S = 3600.0


def measure_flat(kafka: KafkaConfig, sizes: Sequence[int], say: Say) -> dict[str, dict[str, float]]:
    """Return the figures of the report's `flat`, by the number of events of the run."""
    found = {}
    for events in sizes:
        filled = fill(kafka, "flat", events * 2 // 3)
        say(f"flat: {filled.events:,} events are there")
        with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
            run = run_worker(kafka, filled, Path(folder), timeout_s=TIMEOUT_S)
        empty(kafka, filled)
        found[str(events)] = {
            "events_per_second": run.events / run.seconds,
            "cpu_s_per_million": run.usage.cpu_s / run.events * 1e6,
            "peak_mb": run.usage.peak_mb,
        }
    return found
