"""What the lake's tests share: a loop, rows of it, and a lake on each kind of storage."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from tidemill.features.lake.lake import Lake, LakeConfig, Table
from tidemill.features.lake.layouts import layouts
from tidemill.features.lake.memory_tables import MemoryLake, MemoryTable
from tidemill.schemas.loop.definition import Loop

START = datetime(2024, 3, 1, 12, tzinfo=UTC)

Rows = Callable[..., pl.DataFrame]


@pytest.fixture(scope="session")
def loop() -> Loop:
    """A loop with every type of feature and two kinds of feedback."""
    return Loop.model_validate(
        {
            "loop": "home-page",
            "decision": {"type": "bool", "default": False},
            "features": {
                "price": "float",
                "visits": {"type": "int", "nullable": True},
                "member": "bool",
                "country": "category",
                "tags": "categories",
                "seen": "timestamp",
            },
            "feedback": {
                "clicked": {"within": "10m", "early": "5s"},
                "bought": {"within": "1h", "values": {"amount": "float"}},
            },
            "label": {"sql": "count(*) > 0"},
            "policy": {"kind": "threshold", "above": True, "below": False},
            "partitions": 2,
        }
    )


@pytest.fixture(scope="session")
def grown(loop: Loop) -> Loop:
    """The next version of the loop: one more feature, one more value."""
    dumped = loop.model_dump(mode="json")
    dumped["version"] = 2
    dumped["features"]["age"] = {"type": "int", "nullable": True}
    dumped["feedback"]["bought"]["values"]["coupon"] = {"type": "category", "nullable": True}
    return Loop.model_validate(dumped)


S3 = pytest.param("s3", marks=pytest.mark.slow)


@pytest.fixture(params=["local", S3])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake on each kind of storage in turn."""
    if request.param == "local":
        return Lake(LakeConfig(root=str(tmp_path / "the lake")))
    config: LakeConfig = request.getfixturevalue("s3")
    return Lake(config)


@pytest.fixture(params=["memory", "local", S3])
def any_lake(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryLake | Lake:
    """An empty lake on each kind of storage in turn, this process's memory among them."""
    if request.param == "memory":
        return MemoryLake()
    if request.param == "local":
        return Lake(LakeConfig(root=str(tmp_path / "the lake")))
    config: LakeConfig = request.getfixturevalue("s3")
    return Lake(config)


@pytest.fixture
def any_table(any_lake: MemoryLake | Lake, loop: Loop) -> MemoryTable | Table:
    """The empty table of decisions, of any kind."""
    any_lake.create(loop)
    return any_lake.table(loop.loop, "decisions")


@pytest.fixture
def table(lake: Lake, loop: Loop) -> Table:
    """The empty table of decisions."""
    lake.create(loop)
    return lake.table(loop.loop, "decisions")


@pytest.fixture
def rows(loop: Loop) -> Rows:
    """Make rows of any table: ``rows("decisions", 1, offset=10, verdict=["late"])``."""

    def make(
        name: str,
        count: int,
        *,
        offset: int = 0,
        partition: int = 0,
        start: datetime = START,
        step: timedelta = timedelta(seconds=1),
        of: Loop | None = None,
        **columns: object,
    ) -> pl.DataFrame:
        schema = layouts(of or loop)[name]
        at = [start + step * number for number in range(count)]
        offsets = range(offset, offset + count)
        features = {
            "price": 9.5,
            "member": True,
            "country": "NL",
            "tags": ["a", "b"],
            "seen": start,
        }
        every: dict[str, object] = {
            "id": [f"{partition}-{number}" for number in offsets],
            "decision_id": [f"{partition}-{number}" for number in offsets],
            "at": at,
            "action": [True] * count,
            "features": [features] * count,
            "kind": ["clicked"] * count,
            "topic": ["home-page." + name] * count,
            "partition": [partition] * count,
            "offset": list(offsets),
            "ingested_at": at,
            "state": ["no_feedback"] * count,
            "label": [0.0] * count,
            "feedback_offsets": [[]] * count,
            **columns,
        }
        return pl.DataFrame(
            {key: every.get(key, [None] * count) for key in schema if key != "event_date"},
            schema_overrides=schema,
        ).cast({key: kind for key, kind in schema.items() if key != "event_date"})

    return make
