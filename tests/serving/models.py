"""Loops and models that the tests of the serving package start from."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import lightgbm as lgb
import numpy as np

from tidemill.schemas.loop.definition import FieldType, Loop
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField
from tidemill.schemas.models.manifest import (
    INLINE_BYTES,
    ModelManifest,
    chunk_count,
    chunk_key,
    chunked,
    payload_digest,
    sign,
)
from tidemill.schemas.models.river_state import LinearState, Scale, Weight
from tidemill.schemas.models.signing import SigningKey

Item = tuple[bytes, bytes | None]
COUNTRIES = tuple(f"c{number:02}" for number in range(40))
DEFINITION: dict[str, object] = {
    "loop": "banner",
    "decision": {"type": "choice", "actions": ["show", "hide"], "default": "hide"},
    "features": {
        "country": "category",
        "visits": "int",
        "amount": "float",
        "member": "bool",
        "seen": {"type": "timestamp", "nullable": True},
        "tags": {"type": "categories", "nullable": True},
        "age": {"type": "float", "nullable": True, "default": 30.0},
    },
    "feedback": {
        "clicked": {"within": "30m", "values": {"seconds": "float", "page": "category"}},
        "left": {"within": "30m"},
    },
    "label": {"sql": "max(seconds) > 3"},
    "policy": {"kind": "threshold", "threshold": 0.5, "above": "show", "below": "hide"},
    "budget_ms": 2_000,
}
FEATURES: dict[str, object] = {"country": "c01", "visits": 3, "amount": 1.5, "member": True}
VALUES: tuple[object, ...] = (*FEATURES.values(), None, None, 30.0)
"""`FEATURES` as they are once they are checked."""
NULLABLE = {"seen", "tags", "age"}
SIGNATURE = FeatureSignature(
    (
        SignatureField("country", FieldType.CATEGORY, COUNTRIES),
        SignatureField("visits", FieldType.INT),
        SignatureField("amount", FieldType.FLOAT),
        SignatureField("member", FieldType.BOOL),
        SignatureField("seen", FieldType.TIMESTAMP),
        SignatureField("tags", FieldType.CATEGORIES, ("new", "old")),
        SignatureField("age", FieldType.FLOAT),
    )
)


def banner(**changes: object) -> Loop:
    """Return a loop with a feature of every type, with *changes* to its parts."""
    return Loop.model_validate({**DEFINITION, **changes})


def rows(count: int, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return encoded rows of `SIGNATURE`, some values missing."""
    random = np.random.default_rng(seed)
    made = random.normal(size=(count, len(SIGNATURE.columns)))
    made[:, 0] = random.integers(0, len(COUNTRIES), count)
    made[random.random(made.shape) < 0.1] = np.nan
    return made


@cache
def booster(rounds: int = 20, objective: str = "binary") -> lgb.Booster:
    """Return a small model with numerical and categorical splits and missing values."""
    data = rows(3_000)
    known = np.nan_to_num(data)
    label = (known[:, 1] + known[:, 2] ** 2 + (known[:, 0] % 3 == 0) > 1.2).astype(float)
    settings = {"objective": objective, "num_leaves": 15, "verbose": -1, "num_threads": 1}
    settings |= {"deterministic": True, "min_data_per_group": 5, "max_cat_to_onehot": 1}
    dataset = lgb.Dataset(
        data, label, feature_name=SIGNATURE.columns, categorical_feature=SIGNATURE.categorical
    )
    return lgb.train(settings, dataset, rounds)


def text(rounds: int = 20) -> str:
    """Return the model as LightGBM writes it."""
    written: str = booster(rounds).model_to_string()
    return written


def river_state() -> bytes:
    """Return the payload of a small online model."""
    return LinearState(
        learner="logistic_regression",
        learning_rate=0.01,
        l2=0.0,
        learned_until=3,
        rows=100,
        loss_sum=1.0,
        iterations=100,
        intercept=0.5,
        scales=(Scale("visits", 100, 2.0, 4.0),),
        weights=(Weight("country=c01", 2.0), Weight("visits", 0.25)),
    ).to_bytes()


def manifest(payload: bytes, number: int = 1, **changes: object) -> ModelManifest:
    """Return what a trainer would say of *payload*, with *changes* to it."""
    made = ModelManifest(
        loop="banner",
        loop_version=1,
        version=f"lightgbm-{number}",
        number=number,
        sequence=number,
        learner="lightgbm",
        label_type="bool",
        digest=payload_digest(payload),
        payload_bytes=len(payload),
        chunks=0 if len(payload) <= INLINE_BYTES else chunk_count(len(payload)),
        features=SIGNATURE.to_json(),
        features_digest=SIGNATURE.digest,
        policy_version=1,
        snapshot=1,
        trained_on_rows=3_000,
        base_rate=0.3,
        metrics={"log_loss": 0.4},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the tests' own names


def records(key: SigningKey, payload: bytes, said: ModelManifest | None = None) -> list[Item]:
    """Return the records that publish *payload*."""
    said = said or manifest(payload)
    if said.chunks == 0:
        return [(said.key, sign(said, key, payload=payload))]
    pieces: Sequence[bytes] = chunked(payload)
    chunks: list[Item] = [
        (chunk_key(said.loop, said.digest, place), piece) for place, piece in enumerate(pieces)
    ]
    return [*chunks, (said.key, sign(said, key))]
