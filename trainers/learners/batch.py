"""The batch learner: LightGBM on one snapshot; the same inputs give the same model digest.

Features of type category go to LightGBM as categories. `Trained` holds the model and everything it
depends on.
"""

import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from typing import Self

import lightgbm
import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidemill.errors import LoopError, ModelError
from tidemill.schemas.loop.definition import Batch, Loop
from tidemill.schemas.loop.lightgbm_params import check_params
from tidemill.schemas.models.feature_signature import FeatureRow, FeatureSignature
from tidemill.schemas.models.manifest import payload_digest
from tidemill.trainers.item_rows import MAX_WEIGHT
from tidemill.trainers.rows import LabeledRows

LIGHTGBM = "lightgbm"
MANY = 1_500  # rows of the rarer label
THREADS = 1  # on a busy machine two threads took ten times as long as one; `params` may set more


@dataclass(frozen=True, slots=True)
class Cost:
    """What training a model took: seconds of wall clock, and CPU seconds of all cores."""

    wall_s: float
    cpu_s: float

    def plus(self, other: "Cost") -> "Cost":
        """Return the sum of both."""
        return Cost(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)


class Stopwatch:
    """Measures wall clock and CPU seconds from its creation on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Cost:
        """Return the cost so far."""
        return Cost(time.perf_counter() - self._wall, time.process_time() - self._cpu)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained model and everything it depends on.

    *state* is what its learner continues from, if that is not the payload.
    """

    learner: str
    payload: bytes
    signature: FeatureSignature
    snapshot: int
    rows: int
    base_rate: float
    seed: int
    params: Mapping[str, bool | int | float | str]
    software: Mapping[str, str]
    cost: Cost
    state: bytes | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the payload in hex."""
        return payload_digest(self.payload)


class LightGBM:
    """A trained booster that predicts whole frames; `serving` predicts single rows.

    Raises:
        ModelError: LightGBM cannot read the text. Pass only text that was trained here or
            verified: malformed text can crash the process.
    """

    def __init__(self, payload: bytes, signature: FeatureSignature) -> None:
        try:
            self._booster = lightgbm.Booster(model_str=payload.decode())
        except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
            raise ModelError(
                f"LightGBM cannot read the model: {error}",
                hint="train it again: tidemill train LOOP --once",
            ) from error
        self._signature = signature

    @classmethod
    def of(cls, trained: Trained) -> Self:
        """Return the booster of a model just trained."""
        return cls(trained.payload, trained.signature)

    def predict(self, features: pl.DataFrame) -> NDArray[np.float64]:
        """Return the score of each row of *features*, columns by name."""
        matrix = self._signature.encode_frame(features)
        if not len(matrix):
            return np.empty(0)
        return np.asarray(self._booster.predict(matrix, num_threads=THREADS), dtype=np.float64)

    def contributions(self, row: FeatureRow) -> tuple[dict[str, float], float]:
        """Return what each feature adds to the raw score of *row*, and the expected raw score.

        They are SHAP values: their sum is the sum of the trees, of a bool label the log-odds.
        Source: S. M. Lundberg et al., "From local explanations to global understanding with
        explainable AI for trees", Nature Machine Intelligence 2, 2020.
        """
        matrix = np.array([self._signature.encode_row(row)])
        (values,) = self._booster.predict(matrix, pred_contrib=True, num_threads=THREADS)
        return self._by_feature(values[:-1]), float(values[-1])

    def gains(self) -> dict[str, float] | None:
        """Return how much the splits by each feature have lowered the loss in training."""
        return self._by_feature(self._booster.feature_importance("gain"))

    def _by_feature(self, columns: NDArray[np.float64]) -> dict[str, float]:
        """Return the sum of the *columns* of each feature: a list of categories has several."""
        left = iter(columns)
        return {
            item.name: float(sum(islice(left, len(item.columns))))
            for item in self._signature.fields
        }


def check_rows(rows: LabeledRows, loop: Loop) -> None:
    """Return if there is something to learn from.

    Raises:
        ModelError: there are no rows.
    """
    if not len(rows):
        raise ModelError(
            f"no rows of {loop.loop} are old enough to learn from",
            hint="wait for more labels, or lower `models.batch.holdout` in the loop file",
        )


def train(rows: LabeledRows, loop: Loop, batch: Batch) -> Trained:
    """Train on *rows* with the settings of *batch* and return the model.

    Raises:
        ModelError: there are no rows, or LightGBM refuses the parameters of the loop.
    """
    check_rows(rows, loop)
    watch = Stopwatch()
    signature = FeatureSignature.of_loop(loop).fit(rows.features)
    try:
        params = parameters(loop, batch, rows.label)
        payload = _boost(rows, signature, params, batch.rounds)
    except (lightgbm.basic.LightGBMError, LoopError) as error:
        why = error.what if isinstance(error, LoopError) else error
        raise ModelError(
            f"LightGBM refuses to train {loop.loop}: {why}",
            hint="edit `models.batch.params` in the loop file",
        ) from error
    return Trained(
        learner=LIGHTGBM,
        payload=payload,
        signature=signature,
        snapshot=rows.snapshot,
        rows=len(rows),
        base_rate=rows.mean_label,
        seed=batch.seed,
        params=params | {"rounds": batch.rounds} | weighting(loop),
        software=software("lightgbm", "numpy", "polars"),
        cost=watch.read(),
    )


def parameters(
    loop: Loop, batch: Batch, label: NDArray[np.float64]
) -> dict[str, bool | int | float | str]:
    """Return LightGBM's parameters: defaults, the loop's, and those that make runs repeatable.

    Raises:
        LoopError: the loop was published with a parameter that is not allowed.
    """
    check_params(batch.params)
    return {
        "num_threads": THREADS,
        **(defaults(label) if loop.label.type == "bool" else {}),
        **batch.params,
        "objective": "binary" if loop.label.type == "bool" else "regression",
        "seed": batch.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


def weighting(loop: Loop) -> dict[str, bool | int | float | str]:
    """Return how rows are weighted, for the model's record; nothing if all count alike."""
    return {"max_weight": MAX_WEIGHT} if loop.depends_on == "action" else {}


def defaults(label: NDArray[np.float64]) -> dict[str, int | float]:
    """Return the parameters for a label of 0 and 1 that has few rows of one of them.

    LightGBM's own defaults overfit those: with 120 positives in 4,000 rows they end with a log loss
    of 0.195 where the base rate has 0.134, and these with 0.125. They keep ten rows of the rarer
    label in each leaf. From `MANY` rows of it on, LightGBM's own are as good.
    """
    positives = float(np.sum(label))
    rarer = min(positives, label.size - positives)
    if rarer >= MANY:
        return {}
    return {
        "num_leaves": max(3, int(rarer) // 50),
        "min_data_in_leaf": max(20, math.ceil(10 * label.size / max(rarer, 1.0))),
        "learning_rate": 0.03,
        "lambda_l2": 10.0,
        "cat_l2": 50.0,
    }


def software(*packages: str) -> dict[str, str]:
    """Return the versions of Python, tidemill and *packages*."""
    found = {name: version(name) for name in ("tidemill", *packages)}
    return {"python": platform.python_version()} | found


def _boost(
    rows: LabeledRows,
    signature: FeatureSignature,
    params: Mapping[str, bool | int | float | str],
    rounds: int,
) -> bytes:
    encoded = signature.encode_columns(rows.features)
    data = lightgbm.Dataset(
        encoded.to_arrow(),
        label=rows.label,
        weight=rows.weights(),
        categorical_feature=signature.categorical,
        params=dict(params),
    )
    booster = lightgbm.train(dict(params), data, num_boost_round=rounds)
    text: str = booster.model_to_string()
    return text.encode()
