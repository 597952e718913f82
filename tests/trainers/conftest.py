"""What the tests of the trainers share: a small loop, and a lake whose examples grow on demand."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.trainers.rig import TrainerProcess

from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Loop

START = datetime(2026, 1, 1, tzinfo=UTC)
MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]
StartTrainer = Callable[..., TrainerProcess]


@pytest.fixture(scope="session")
def make_loop() -> MakeLoop:
    """Make a loop with both learners; keywords replace its parts."""

    def make(**changes: object) -> Loop:
        values: dict[str, object] = {
            "loop": "late-train",
            "decision": {"type": "choice", "actions": ["warn", "quiet"], "default": "quiet"},
            "features": {
                "hour": "int",
                "wind": {"type": "float", "nullable": True},
                "line": "category",
                "tags": "categories",
            },
            "feedback": {"arrived": {"within": "30m", "values": {"delay": "float"}}},
            "label": {"sql": "max(delay) > 5"},
            "policy": {"kind": "threshold", "threshold": 0.4, "above": "warn", "below": "quiet"},
            "models": {
                "batch": {
                    "min_labels": 1000,
                    "retrain": {"new_labels": 1000},
                    "rounds": 20,
                    "params": {"num_leaves": 7, "min_data_in_leaf": 20},
                },
                "online": {"learning_rate": 0.05, "publish_every": 700},
            },
            "gate": {"min_rows": 100},
            "partitions": 2,
        }
        return Loop.model_validate(values | changes)

    return make


@pytest.fixture(scope="session")
def make_rows() -> MakeRows:
    """Make examples whose label follows the features; *signal* 0 makes it a coin's."""

    def make(count: int, *, first: int = 0, seed: int = 1, signal: float = 1.0) -> pl.DataFrame:
        random = np.random.default_rng(seed + first)
        hour = random.integers(0, 24, count)
        wind = random.normal(10.0, 5.0, count)
        line = random.choice(["red", "green", "blue"], count)
        raw = signal * ((hour - 12) / 4 + (wind - 10) / 5 + 2.0 * (line == "red")) - 1.0
        label = random.random(count) < 1 / (1 + np.exp(-raw))
        numbers = np.arange(first, first + count)
        return pl.DataFrame(
            {
                "decision_id": [f"d{number:08}" for number in numbers],
                "at": [START + timedelta(minutes=int(number)) for number in numbers],
                "entity": [None] * count,
                "features": [
                    {
                        "hour": int(h),
                        "wind": None if number % 17 == 0 else float(w),
                        "line": str(one),
                        "tags": ["x", "y"][: number % 3],
                    }
                    for number, h, w, one in zip(numbers, hour, wind, line, strict=True)
                ],
                "action": ["quiet"] * count,
                "score": [None] * count,
                "propensity": [1.0] * count,
                "source": ["default"] * count,
                "model_version": [None] * count,
                "policy_version": [1] * count,
                "loop_version": [1] * count,
                "state": ["labeled"] * count,
                "label": label.astype(float),
                "feedback_offsets": [[int(number)] for number in numbers],
                "first_feedback_at": [START] * count,
                "topic": ["late-train.decisions"] * count,
                "partition": (numbers % 2).tolist(),
                "offset": (numbers // 2).tolist(),
            },
            schema_overrides={
                "entity": pl.String,
                "score": pl.Float64,
                "model_version": pl.String,
                "policy_version": pl.Int32,
                "loop_version": pl.Int32,
                "partition": pl.Int32,
                "offset": pl.Int64,
                "features": pl.Struct(
                    {
                        "hour": pl.Int64,
                        "wind": pl.Float64,
                        "line": pl.String,
                        "tags": pl.List(pl.String),
                    }
                ),
            },
        )

    return make


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake of this test alone."""
    return Lake(LakeConfig(root=str(tmp_path / "lake")))


@pytest.fixture(scope="session")
def grow() -> Grow:
    """Commit rows to the examples as a worker does; return the version."""

    def commit(lake: Lake, rows: pl.DataFrame) -> int:
        examples = lake.table("late-train", EXAMPLES)
        before = examples.progress(["frontier/0"])["frontier/0"]
        return examples.append(
            rows, swaps=[CompareAndSwap("frontier/0", before, (before or 0) + 1)]
        )

    return commit


@pytest.fixture
def start_trainer(lake: Lake, tmp_path: Path) -> Iterator[StartTrainer]:
    """Start trainers as processes on the test's lake; what still runs at the end is killed."""
    started: list[TrainerProcess] = []

    def start(kafka: KafkaConfig, loop: Loop, program: str | None = None) -> TrainerProcess:
        folder = tmp_path / f"trainer-{len(started)}"
        folder.mkdir()
        started.append(TrainerProcess(kafka, lake, loop, folder, program))
        return started[-1]

    yield start
    for trainer in started:
        trainer.kill()


@pytest.fixture(scope="module")
def grown_once(
    make_loop: MakeLoop, make_rows: MakeRows, grow: Grow, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a lake with 3,000 labelled rows in six commits."""
    root = tmp_path_factory.mktemp("grown") / "lake"
    lake = Lake(LakeConfig(root=str(root)))
    lake.create(make_loop())
    for start in range(0, 3_000, 500):
        grow(lake, make_rows(500, first=start))
    return root


@pytest.fixture
def grown(grown_once: Path, tmp_path: Path) -> Lake:
    """A copy of that lake for one test alone."""
    shutil.copytree(grown_once, tmp_path / "lake")
    return Lake(LakeConfig(root=str(tmp_path / "lake")))
