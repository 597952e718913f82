"""How much a model needs each feature: by the gain of its splits, and by permutation.

Permutation importance: the values of one feature are shuffled among rows that the model has not
learned; what the loss grows by is the feature's importance. Where a model reads the action, the
loss is that of the action that was taken, and rows count by their weights in training.
Source: L. Breiman, "Random forests", Machine Learning 45(1), 2001.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np
import polars as pl

from tidemill.errors import ModelError, RequestError
from tidemill.features.lake.lake import Lake
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import DEFAULT
from tidemill.schemas.models.online_models import ONLINE_LEARNERS
from tidemill.schemas.models.posterior import POSTERIOR
from tidemill.trainers.evaluation.evaluation_sets import WINDOW_ROWS, load_model
from tidemill.trainers.evaluation.metrics import Metric, losses
from tidemill.trainers.evaluation.model_policies import AdditiveModel
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.rows import LabeledRows

_SEED = 7  # the same rows give the same figures
LEAST_ROWS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureImportance:
    """What one feature is worth to a model.

    Attributes:
        name: the feature; ``action`` for the action where the model reads it.
        gain: its share of what the splits have gained in training; None for a linear model.
        mean, low, high: what the loss grows by if it is shuffled: mean, least and most of the
            repeats.
    """

    name: str
    gain: float | None
    mean: float
    low: float
    high: float

    @property
    def spread(self) -> tuple[float, float, float]:
        """Mean, least and most."""
        return self.mean, self.low, self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelImportance:
    """What the features are worth to one model, the most important one first.

    Attributes:
        metric: the loss, that of the loop's gate; the squared error of a posterior, whose
            predictions are no probabilities.
        loss: that of the model on the rows as they are.
        rows: how many rows; *first_at* and *last_at* are the times of their decisions.
        repeats: how often each feature was shuffled.
    """

    loop: str
    version: str
    metric: Metric
    loss: float
    rows: int
    first_at: datetime
    last_at: datetime
    repeats: int
    features: Sequence[FeatureImportance]

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        return asdict(self)


def named_model(lake: Lake, loop: Loop, version: str | None) -> ModelVersion:
    """Return the model *version* of *loop*; None for the live one.

    Raises:
        RequestError: there is no such model, or none is live.
    """
    registry = Registry(lake, loop.loop)
    if version is None:
        live = registry.model()
        if live is None:
            raise RequestError(
                f"no model of {loop.loop} is live",
                hint=f"name one with --model; tidemill model list {loop.loop} shows them",
            )
        return live
    for model in registry.models():
        if model.version == version and model.learner != DEFAULT:
            return model
    raise RequestError(
        f"{loop.loop} has no model {version!r}", hint=f"see tidemill model list {loop.loop}"
    )


def importance_of(lake: Lake, loop: Loop, model: ModelVersion, *, repeats: int) -> ModelImportance:
    """Return what each feature is worth to *model*, on at most the newest `WINDOW_ROWS` rows.

    Raises:
        RequestError: there are too few rows that the model has not learned.
        ModelError: the model reads other features than *loop* has, or cannot be loaded.
        LakeError: the lake cannot be read.
    """
    model.check_fit(loop)
    is_online = model.learner in ONLINE_LEARNERS
    since = model.until if is_online else model.later_from
    rows = LabeledRows.of(training_set(lake, loop, since=since), loop)
    if is_online and since is not None:
        rows = rows.slice(int(rows.at.search_sorted(since, side="right")), len(rows))
    rows = rows.slice(max(0, len(rows) - WINDOW_ROWS), len(rows))
    if len(rows) < LEAST_ROWS:
        raise RequestError(
            f"{len(rows)} labelled decisions are later than those {model.version} has learned, "
            f"and {LEAST_ROWS} are needed",
            hint="wait for more labels, or name an earlier model with --model",
        )
    loaded = load_model(model, Registry(lake, loop.loop).payload(model))
    return permuted(loaded, model, loop, rows, repeats=repeats)


def permuted(
    loaded: AdditiveModel,
    model: ModelVersion,
    loop: Loop,
    rows: LabeledRows,
    *,
    repeats: int,
) -> ModelImportance:
    """Return what each feature is worth to the *loaded* model on *rows*, oldest first."""
    random, weights = np.random.default_rng(_SEED), rows.weights()
    metric: Metric = "mse" if model.learner == POSTERIOR else loop.gate.metric

    def loss(features: pl.DataFrame) -> float:
        lost = losses(metric, rows.label, loaded.predict(features))
        return float(np.average(lost, weights=weights))

    names = [field.name for field in model.signature.fields]
    whole, shares = loss(rows.features), _shares(loaded.gains())
    listed = []
    for name in names:
        grown = _growth(loss, rows.features, name, whole, random, repeats)
        gain = None if shares is None else shares[name]
        listed.append(
            FeatureImportance(
                name=name,
                gain=gain,
                mean=float(np.mean(grown)),
                low=min(grown),
                high=max(grown),
            )
        )
    if not np.isfinite(whole):
        raise ModelError(
            f"{model.version} predicts no number for some rows", hint="train another model"
        )
    return ModelImportance(
        loop=loop.loop,
        version=model.version,
        metric=metric,
        loss=whole,
        rows=len(rows),
        first_at=rows.at[0],
        last_at=rows.at[-1],
        repeats=repeats,
        features=sorted(listed, key=lambda each: -each.mean),
    )


def _growth(
    loss: Callable[[pl.DataFrame], float],
    features: pl.DataFrame,
    name: str,
    whole: float,
    random: np.random.Generator,
    repeats: int,
) -> list[float]:
    """Return what the loss grows by in each of *repeats* shuffles of the feature *name*."""
    column = features.get_column(name)
    return [
        loss(features.with_columns(column.gather(random.permutation(len(column))))) - whole
        for _ in range(repeats)
    ]


def _shares(gains: Mapping[str, float] | None) -> dict[str, float] | None:
    if gains is None:
        return None
    total = sum(gains.values())
    return {name: gain / total if total else 0.0 for name, gain in gains.items()}
