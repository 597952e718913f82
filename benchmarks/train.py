"""A million-row training set: from the lake to the first tree, in a process of its own."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.processes import Measured, module_command, peak_mb
from benchmarks.workload import COUNTRIES, DEVICES, FLOATS, START, loop
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.loop.definition import Batch
from tidemill.trainers.learners.batch import train
from tidemill.trainers.rows import LabeledRows

Say = Callable[[str], None]
NAME = "bench-train"
FILE_ROWS = 200_000


def measure_training(*, rows: int, say: Say) -> dict[str, float]:
    """Return the figures of the report's `train`."""
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        fill(Path(folder), rows)
        say(f"train: {rows:,} examples are in the lake")
        with Measured(module_command("train", folder)) as trainer:
            found = trainer.result()
    return {name: found[name] for name in ("rows", "first_tree_s", "peak_mb")}


def fill(folder: Path, rows: int) -> None:
    """Put *rows* labelled examples into a lake, in commits of `FILE_ROWS`."""
    lake = Lake(LakeConfig(root=str(folder)))
    lake.create(loop(NAME))
    table = lake.table(NAME, "examples")
    for first in range(0, rows, FILE_ROWS):
        table.append(_examples(first, min(FILE_ROWS, rows - first)), swaps=[])


def _examples(first: int, count: int) -> pl.DataFrame:
    chance, numbers = np.random.default_rng(first), np.arange(first, first + count)
    columns = {
        **{name: chance.random(count) for name in FLOATS},
        "visits": numbers % 97,
        "hour": numbers // 3600 % 24,
        "country": np.array(COUNTRIES)[numbers % 50],
        "device": np.array(DEVICES)[numbers % 5],
        "returning": numbers % 3 == 0,
    }
    at = START + timedelta(seconds=first)
    frame = pl.DataFrame(columns).select(pl.struct(pl.all()).alias("features"))
    return frame.with_columns(
        pl.Series("decision_id", numbers).cast(pl.String),
        pl.datetime_range(
            at, at + timedelta(seconds=count - 1), "1s", time_unit="us", time_zone="UTC"
        ).alias("at"),
        pl.lit(None, pl.String).alias("entity"),
        pl.lit(False).alias("action"),
        pl.lit(0.25).alias("score"),
        pl.lit(1.0).alias("propensity"),
        pl.lit("model").alias("source"),
        pl.lit("lightgbm-1").alias("model_version"),
        pl.lit(1, pl.Int32).alias("policy_version"),
        pl.lit(1, pl.Int32).alias("loop_version"),
        pl.lit("labeled").alias("state"),
        pl.Series("label", chance.integers(0, 2, count).astype(np.float64)),
        pl.lit([0], pl.List(pl.Int64)).alias("feedback_offsets"),
        pl.lit(at).cast(pl.Datetime("us", "UTC")).alias("first_feedback_at"),
        pl.lit(f"{NAME}.decisions").alias("topic"),
        pl.lit(0, pl.Int32).alias("partition"),
        pl.Series("offset", numbers),
    )


def main(folder: str) -> None:
    """Train one tree on all that is in the lake; print seconds, rows and memory."""
    lake, bench = Lake(LakeConfig(root=folder)), loop(NAME)
    started = time.perf_counter()
    rows = LabeledRows.of(training_set(lake, bench), bench)
    made = train(rows, bench, Batch(rounds=1))
    took = time.perf_counter() - started
    print(json.dumps({"rows": made.rows, "first_tree_s": took, "peak_mb": peak_mb(os.getpid())}))


if __name__ == "__main__":
    main(sys.argv[1])
