"""The benchmarks run, small, and write the figures under the names that others read."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.kafka import KafkaConfig

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "join": {"events_per_second", "cpu_s_per_million", "peak_mb", "naive_cpu_s_per_million"},
    "decide": {"in_process_us", "http_per_second", "http_p99_ms"},
    "train": {"rows", "first_tree_s", "peak_mb"},
}
SMALL = ("--decisions", "3000", "--naive-events", "1000", "--calls", "2000", "--rows", "5000")


@pytest.mark.kafka
def test_every_figure_of_the_report_comes_from_a_real_run(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """A benchmark nobody runs measures a program that is gone; the join checks its rows itself."""
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *SMALL, "--seconds", "1", "--report", str(report)],
        cwd=ROOT,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(report.read_text())
    assert {part: set(found) for part, found in figures.items()} == KEYS
    assert all(value > 0 for found in figures.values() for value in found.values())
    assert figures["train"]["rows"] == 5000


def test_a_promise_that_is_missed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slower release must not look like any other."""
    monkeypatch.syspath_prepend(ROOT)
    missed = importlib.import_module("benchmarks.__main__").missed
    good: dict[str, dict[str, float]] = {
        "join": {"cpu_s_per_million": 4.0, "naive_cpu_s_per_million": 100.0, "peak_mb": 600.0},
        "decide": {"in_process_us": 10.0, "http_per_second": 20_000.0, "http_p99_ms": 4.0},
    }
    assert missed(good) == []
    slow = {**good, "join": {**good["join"], "cpu_s_per_million": 5.1}}
    assert missed(slow) == [
        ("join", "cpu_s_per_million"),
        ("join", "times_less_cpu_than_naive"),
    ]
    assert missed({"decide": {**good["decide"], "http_per_second": 14_999.0}}) == [
        ("decide", "http_per_second")
    ]
