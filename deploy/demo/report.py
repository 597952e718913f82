"""The demo's figures, computed from the lake, the registry of models and the worker's metrics.

The attributes of `Report` are the keys of ``demo-report.json``.
"""

import math
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import polars as pl
from prometheus_client.parser import text_string_to_metric_families

from tidemill.features.estimates.intervals import Floats
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.sql.datasets import training_set
from tidemill.monitor.ledger import Account
from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.evaluation.metrics import losses, roc_auc
from tidemill.trainers.learners.batch import LIGHTGBM, LightGBM
from tidemill.trainers.learners.prequential import Predictions
from tidemill.trainers.registry import ModelVersion, Registry

ZONE = "America/New_York"  # months are those of the departures' local time
CLOSE_TO_EXAMPLE = "tidemill_close_to_example_seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """The decisions of one month that have a label.

    Attributes:
        month: for example "2013-03".
        decisions_by_model: how many a model decided, with or without a label.
        log_loss: of the scores that were logged; None if no model decided.
        base_log_loss: on the same rows, of the best constant score, which is known only afterwards:
            their share of positives.
        auc: area under the ROC curve of the logged scores.
        online_log_loss: of the online learner's prediction before it learned each row.
        batch_log_loss: on the same rows, of the newest batch model that was made before them.
    """

    month: str
    decisions_by_model: int
    log_loss: float | None = None
    base_log_loss: float | None = None
    auc: float | None = None
    online_log_loss: float | None = None
    batch_log_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of one run of the demo."""

    kafka: Mapping[str, object]
    decisions: int
    feedback: int
    examples: Mapping[str, int]
    ledger_balanced: bool
    duplicates: int
    models: Sequence[Mapping[str, object]]
    months: Sequence[Month]
    events_per_second: float
    decision_ms: Mapping[str, float | None]
    close_to_example_s: Mapping[str, float | None]
    publish_to_swap_s: float | None
    wall_s: float
    loop: str = ""
    sources: Mapping[str, int] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether nothing was lost or doubled, and some model decided if one was promoted."""
        promoted = any(model["promoted"] for model in self.models)
        decided = sum(month.decisions_by_model for month in self.months)
        return self.ledger_balanced and not self.duplicates and (decided > 0 or not promoted)

    def to_json(self) -> dict[str, object]:
        """Return it as plain values for JSON; a float that is not finite becomes None."""
        return {name: _finite(value) for name, value in asdict(self).items()}


def _finite(value: object) -> object:
    match value:
        case float():
            return round(value, 6) if math.isfinite(value) else None
        case Mapping():
            return {str(key): _finite(part) for key, part in value.items()}
        case list() | tuple():
            return [_finite(part) for part in value]
    return value


def ends_of(accounts: Sequence[Account], log: str) -> dict[str, int]:
    """Return how the records of *log* ended, over all partitions; ``open`` only if any are."""
    total: Counter[str] = Counter()
    for account in accounts:
        if account.log == log:
            total.update(account.ends)
            total["open"] += account.open
    return {name: count for name, count in total.items() if count or name != "open"}


def duplicates(lake: Lake, loop: Loop) -> int:
    """Return how many examples there are beyond one for each decision."""
    ids = lake.table(loop.loop, EXAMPLES).read(("decision_id",))["decision_id"]
    return ids.len() - ids.n_unique()


def models(registry: Registry) -> list[dict[str, object]]:
    """Return every version, oldest first, with the gate's reason."""
    return [
        {
            "version": model.version,
            "trained_on_rows": model.trained_on_rows,
            "promoted": model.promoted,
            "reason": model.reason,
            "metrics": dict(model.metrics),
            "until": model.until.isoformat() if model.until else None,
        }
        for model in registry.models()
    ]


def months(lake: Lake, loop: Loop, registry: Registry) -> list[Month]:
    """Return the months of the loop's decisions, oldest first."""
    wanted = ("decision_id", "at", "score", "source", "label")
    rows = lake.table(loop.loop, EXAMPLES).read(wanted).with_columns(month=_month("at"))
    both = _online_and_batch(lake, loop, registry)
    return [
        _month_of(name, rows.filter(pl.col("month") == name), both.filter(pl.col("month") == name))
        for name in rows["month"].unique().sort()
    ]


def _month(column: str) -> pl.Expr:
    return pl.col(column).dt.convert_time_zone(ZONE).dt.strftime("%Y-%m")


def _month_of(name: str, rows: pl.DataFrame, both: pl.DataFrame) -> Month:
    by_model = rows.filter((pl.col("source") == "model") & pl.col("score").is_not_null())
    judged = by_model.filter(pl.col("label").is_not_null())
    label, score = judged["label"].to_numpy(), judged["score"].to_numpy()
    known = label.size > 0
    return Month(
        month=name,
        decisions_by_model=by_model.height,
        log_loss=_loss(label, score),
        base_log_loss=_loss(label, np.full(label.size, label.mean())) if known else None,
        auc=roc_auc(label, score) if known else None,
        online_log_loss=_loss(both["label"].to_numpy(), both["online"].to_numpy()),
        batch_log_loss=_loss(both["label"].to_numpy(), both["batch"].to_numpy()),
    )


def _loss(label: Floats, predicted: Floats) -> float | None:
    return float(losses("log_loss", label, predicted).mean()) if label.size else None


def _online_and_batch(lake: Lake, loop: Loop, registry: Registry) -> pl.DataFrame:
    """Return month, label and both predictions of each row that has an online and a batch one."""
    empty = pl.DataFrame(
        schema={"month": pl.String, "label": pl.Float64, "online": pl.Float64, "batch": pl.Float64}
    )
    online = loop.models.online
    if online is None:
        return empty
    batch = _batch_predictions(lake, loop, registry)
    if batch is None:
        return empty
    learned = Predictions(lake, loop.loop, online).read()
    return batch.join(
        learned.select("decision_id", online="predicted"), on="decision_id", how="inner"
    ).select(_month("at").alias("month"), "label", "online", "batch")


def _batch_predictions(lake: Lake, loop: Loop, registry: Registry) -> pl.DataFrame | None:
    """Return the prediction of each row by the newest batch model trained on earlier rows."""
    made = [m for m in registry.models() if m.learner == LIGHTGBM and m.until is not None]
    if not made:
        return None
    rows = pl.DataFrame(pl.from_arrow(training_set(lake, loop).table))
    parts = []
    for model, following in zip(made, [*made[1:], None], strict=True):
        later = pl.col("at") > model.until
        if following is not None:
            later &= pl.col("at") <= following.until
        chosen = rows.filter(later)
        if not chosen.is_empty():
            parts.append(_predicted(registry, model, chosen))
    return pl.concat(parts) if parts else None


def _predicted(registry: Registry, model: ModelVersion, rows: pl.DataFrame) -> pl.DataFrame:
    predictor = LightGBM(registry.payload(model), model.signature)
    predicted = pl.Series("batch", predictor.predict(rows))
    return rows.select("decision_id", "at", "label").with_columns(predicted)


def quantiles_ms(seconds: Sequence[float]) -> dict[str, float | None]:
    """Return p50 and p99 of *seconds* in milliseconds."""
    if not len(seconds):
        return {"p50": None, "p99": None}
    p50, p99 = np.quantile(np.asarray(seconds), [0.5, 0.99]) * 1000
    return {"p50": float(p50), "p99": float(p99)}


def close_to_example(metrics_url: str) -> dict[str, float | None]:
    """Return p50 and p99 in seconds from the streams worker's histogram; None where it is empty."""
    with urllib.request.urlopen(metrics_url, timeout=5.0) as answer:
        text = answer.read().decode()
    counts: Counter[float] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{CLOSE_TO_EXAMPLE}_bucket":
                counts[float(sample.labels["le"])] += int(sample.value)
    return {"p50": bucket_quantile(counts, 0.5), "p99": bucket_quantile(counts, 0.99)}


def bucket_quantile(counts: Mapping[float, int], share: float) -> float | None:
    """Return a quantile from cumulative *counts* by upper bound, with straight lines between.

    >>> bucket_quantile({1.0: 10, 2.0: 20, math.inf: 20}, 0.75)
    1.5
    """
    total = counts.get(math.inf, 0)
    if not total:
        return None
    below, low = 0, 0.0
    for bound in sorted(counts):
        if counts[bound] >= share * total:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (share * total - below) / (counts[bound] - below)
        below, low = counts[bound], bound
    return low
