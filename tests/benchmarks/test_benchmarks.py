"""The benchmarks run, small, and write the figures under the names that others read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from benchmarks.answers import Answer, compare
from benchmarks.delay import delays
from benchmarks.figures import Figures, flat, missed, write
from benchmarks.peers import Progress, costs
from benchmarks.processes import Usage

from tidemill.kafka import KafkaConfig
from tidemill.streams.join.rules import Spans

ROOT = Path(__file__).resolve().parents[2]
FOOTPRINT = ("cores", "memory_mb", "threads", "files")  # the broker is given: not its own
SERVED = (
    *("ready_s", "memory_mb", "loaded_mb", "trial_mb"),
    *("http_per_second", "http_p99_ms", "http_p99_ms_while_models_arrive"),
)
KEYS = {
    "join": {"events_per_second", "cpu_s_per_million", "peak_mb", "naive_cpu_s_per_million"},
    "two_workers": {
        "one_events_per_second",
        "two_events_per_second",
        "one_cpu_s_per_million",
        "two_cpu_s_per_million",
        "two_busier_cpu_s_per_million",
        "least_times_faster",
        "most_times_faster",
    },
    "close_to_example_s": {
        *("p50", "p99", "own_p50", "own_p99"),
        *("events_per_second", "cpu_s_per_million"),
    },
    "decide": {"in_process_us", "batch_per_second", "http_per_second", "http_p99_ms"},
    "items": {"scores_us", "decision_us"},
    "feedback": {"per_second", "p99_ms", "cpu_us"},
    "train": {"rows", "first_tree_s", "peak_mb"},
    "backfill": {
        "decisions",
        "one_rows_per_second",
        "one_cpu_s_per_million",
        "two_rows_per_second",
        "two_cpu_s_per_million",
    },
    "flat": {"3000.events_per_second", "3000.cpu_s_per_million", "3000.peak_mb"},
    "pending": {
        *(f"{phase}_events_per_second" for phase in ("filling", "rolling", "closing")),
        *(f"{phase}_cpu_s_per_million" for phase in ("filling", "rolling", "closing")),
        *("open_decisions", "open_feedback", "away_rows", "open_mb"),
        "peak_mb",
    },
}
KEYS["fleet"] = {
    *("loops", "start_s", "fresh_s.p50", "fresh_s.max"),
    *(f"{phase}.{name}" for phase in ("idle", "live") for name in FOOTPRINT),
    *("live.events_per_second", "live.examples"),
    *("busy.alone_events_per_second", "busy.beside_events_per_second"),
}
KEYS["models"] = {
    "models",
    *(f"{size}.{name}" for size in ("one", "many") for name in SERVED),
    *(f"in_process.{name}_us" for name in ("warm", "one", "random")),
    *(f"published.{name}_s" for name in ("p50", "p99", "first")),
}
SIZES = (
    "--decisions 3000 --naive-events 1000 --calls 2000 --rows 5000 --seconds 1 "
    "--pair-decisions 9000 --pair-rounds 1 --feedback-rate 200 --live-rate 900 --live-seconds 16 "
    "--flat-events 3000 --raw-decisions 3000 --pending-decisions 90000 "
    "--pending-memory 5MB --models 3 --loops 3 --fleet-seconds 40 --busy-decisions 3000"
)


@pytest.mark.soak
@pytest.mark.kafka
def test_every_figure_of_the_report_comes_from_a_real_run(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """A benchmark nobody runs measures a program that is gone; the join checks its rows itself."""
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *KEYS, *SIZES.split(), "--report", str(report)],
        cwd=ROOT,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {part: flat(found) for part, found in json.loads(report.read_text()).items()}
    assert {part: set(found) for part, found in figures.items()} == KEYS
    assert all(value > 0 for found in figures.values() for value in found.values())
    assert figures["train"]["rows"] == 5000


def test_the_delay_counts_from_the_later_log_and_to_the_reader() -> None:
    """Times are microseconds: close 10 after a decision, buckets of 5; the second log is slower."""
    spans = Spans(
        within=np.array([8]), early=np.array([0]), wait=8, ahead=0, grace=2, memory=10, bucket=5
    )
    log = {"partition": [0] * 4, "at": [3, 14, 12, 15], "ingested_at": [100, 140, 150, 160]}
    slower = {**log, "ingested_at": [100, 145, 155, 170]}
    seen = times({"partition": [0, 0], "at": [3, 9], "readable_at": [180, 200]})
    logs = {"decisions": times(log), "feedback": times(slower)}
    whole, own = delays(seen, logs, spans), delays(seen, logs, spans, whole=False)
    assert whole.tolist() == [10e-6]  # bucket [0, 5) closes at 15; nothing closes [5, 10)
    assert own.tolist() == [35e-6]  # 14 is past 3 + 10


def times(columns: dict[str, list[int]]) -> pl.DataFrame:
    """Return a frame whose numbers, but for the partition, are times."""
    moments = pl.exclude("partition").cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame(columns).with_columns(moments)


def test_a_promise_that_is_missed_is_told() -> None:
    """A slower release must not look like any other."""
    good: dict[str, Figures] = {
        "join": {
            "events_per_second": 300_000.0,
            "cpu_s_per_million": 3.4,
            "naive_cpu_s_per_million": 100.0,
            "peak_mb": 600.0,
        },
        "peers": {
            "kafka_streams": {"cpu_s_per_million": 30.0},
            "quix": {"cpu_s_per_million": 80.0},
        },
        "decide": {
            "in_process_us": 10.0,
            "batch_per_second": 160_000.0,
            "http_per_second": 20_000.0,
            "http_p99_ms": 4.0,
        },
    }
    assert missed(good) == []
    slow: Figures = {**good["join"], "cpu_s_per_million": 5.1}
    assert missed({**good, "join": slow}) == [
        ("join", "cpu_s_per_million"),
        ("join", "times_less_cpu_than_naive"),
        ("peers", "times_less_cpu_than_kafka_streams"),
        ("peers", "times_less_cpu_than_quix"),
    ]
    assert missed({"decide": {**good["decide"], "http_per_second": 14_999.0}}) == [
        ("decide", "http_per_second")
    ]


def test_parts_that_were_not_run_stay_in_the_report(tmp_path: Path) -> None:
    """The long parts are run by name, and seldom."""
    path = tmp_path / "report.json"
    write(path, {"join": {"peak_mb": 1.0}, "flat": {"peak_mb": 2.0}}, ("join", "flat"))
    write(path, {"join": {"peak_mb": 3.0}}, ("join", "flat"))
    assert json.loads(path.read_text()) == {"join": {"peak_mb": 3.0}, "flat": {"peak_mb": 2.0}}


def test_wrong_doubled_and_missing_rows_are_told_apart() -> None:
    """Decision 1 has a click and 0 and 2 have none; 4 is a mark behind the workload."""
    numbers = np.array([1, 1, 1, 2, 3, 4])
    labels = np.array([0.0, 1.0, 1.0, 0.0, np.nan, 1.0])
    assert compare(numbers, labels, 4) == Answer(rows=5, wrong=2, doubled=1, missing=2)


def test_what_a_peer_costs_once_it_is_warm_is_told_too() -> None:
    """Half of a million events made the first 100 rows for 6 CPU s, the other half cost 2."""
    seen = [
        Progress(rows=rows, at_s=at_s, usage=Usage(cpu_s, 100.0))
        for rows, at_s, cpu_s in ((0, 10.0, 1.0), (100, 14.0, 7.0), (200, 15.0, 9.0))
    ]
    assert costs(seen, 1_000_000) == {
        "events_per_second": 200_000.0,
        "cpu_s_per_million": 8.0,
        "second_half_cpu_s_per_million": 4.0,
        "peak_mb": 100.0,
    }
