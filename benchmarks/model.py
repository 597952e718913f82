"""The model of the decision benchmarks: 100 trees of 31 leaves over sixteen features, published."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.workload import FLOATS, features
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Batch, Loop
from tidemill.schemas.models.manifest import INLINE_BYTES, ModelManifest, chunk_count
from tidemill.schemas.models.signing import SigningKey, TrustedKeys, init_keys
from tidemill.trainers.learners.batch import Trained, train
from tidemill.trainers.publisher import KafkaModelTopic, Publisher
from tidemill.trainers.rows import LabeledRows

TRAINED_ON = 50_000


def training_rows(rows: int) -> LabeledRows:
    """Return *rows* labelled rows that a model can learn something from."""
    chance = random.Random(11)
    frame = pl.DataFrame([features(number, chance) for number in range(rows)])
    noise = np.random.default_rng(3).normal(size=rows)
    drive = frame.select(sum(pl.col(name) for name in FLOATS[:5])).to_series().to_numpy()
    start = datetime(2025, 1, 1, tzinfo=UTC)
    return LabeledRows(
        features=frame,
        label=(drive + noise > 2.5).astype(np.float64),
        at=pl.Series([start + timedelta(seconds=number) for number in range(rows)]),
        ids=pl.Series([f"row-{number}" for number in range(rows)]),
        snapshot=0,
    )


def publish_model(kafka: KafkaConfig, bench: Loop, folder: Path) -> Path:
    """Train a model for *bench*, put it on the model topic, return the file of trusted keys."""
    private, public = init_keys(folder)
    trained = train(training_rows(TRAINED_ON), bench, Batch(rounds=100, params={"num_leaves": 31}))
    publisher = Publisher(KafkaModelTopic(kafka), bench.loop, SigningKey.load(private))
    publisher.publish(announcement(bench, trained), trained.payload)
    TrustedKeys.load(public)
    return public


def announcement(bench: Loop, trained: Trained) -> ModelManifest:
    """Return the manifest of *trained* as the first model of *bench*."""
    size = len(trained.payload)
    return ModelManifest(
        loop=bench.loop,
        loop_version=bench.version,
        version="lightgbm-1",
        number=1,
        sequence=1,
        learner=trained.learner,
        label_type=bench.label.type,
        digest=trained.digest,
        payload_bytes=size,
        chunks=0 if size <= INLINE_BYTES else chunk_count(size),
        features=trained.signature.to_json(),
        features_digest=trained.signature.digest,
        policy_version=bench.policy.version,
        snapshot=0,
        trained_on_rows=trained.rows,
        base_rate=trained.base_rate,
        metrics={},
        created_at=datetime(2025, 1, 2, tzinfo=UTC),
    )
