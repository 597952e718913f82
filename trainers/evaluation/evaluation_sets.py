"""Evaluation sets: later rows, and what the candidate and the live model predict for them.

A batch model is judged by the rows held out from it, an online learner by the predictions its
earlier states would have served (`prequential.py`). The live model is compared on the same rows: a
live batch model predicts them again; for a live online model the served predictions count, because
it has learned the rows meanwhile.
"""

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidemill.features.estimates.intervals import Floats
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.sql.datasets import training_set
from tidemill.features.sql.judgements import comparable_rows
from tidemill.features.sql.revisions import has_revisions, newest_rows
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import FeatureSignature
from tidemill.schemas.models.fit import misfit
from tidemill.schemas.models.online_models import online_predictor
from tidemill.schemas.models.posterior import POSTERIOR, Posterior, PosteriorPredictor
from tidemill.trainers.evaluation.gate import Evaluation
from tidemill.trainers.evaluation.metrics import Candidate
from tidemill.trainers.evaluation.model_policies import AdditiveModel
from tidemill.trainers.learners.batch import LIGHTGBM, LightGBM, Trained
from tidemill.trainers.learners.online import settings_of
from tidemill.trainers.learners.prequential import Predictions
from tidemill.trainers.learners.row_by_row import RowByRow
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.rows import LabeledRows, is_learnable

RowNumbers = NDArray[np.integer]
WINDOW_ROWS = 50_000  # an online model is judged by the newest rows, so many at most


@dataclass(frozen=True, slots=True)
class EvaluationWindow:
    """The rows an online learner is judged by: its predictions, and the base rate before them."""

    predictions: pl.DataFrame
    base_rate: float


def load_model(model: ModelVersion, payload: bytes) -> AdditiveModel:
    """Return the model with its *payload*, ready to predict frames.

    Raises:
        ModelError: the payload or the signature cannot be read.
    """
    return predictor_of(model.learner, payload, model.signature)


def predictor_of(learner: str, payload: bytes, signature: FeatureSignature) -> AdditiveModel:
    """Return what a *learner* has made, ready to predict frames.

    Raises:
        ModelError: the payload or the signature cannot be read.
    """
    match learner:
        case "lightgbm":
            return LightGBM(payload, signature)
        case "posterior":
            return RowByRow(PosteriorPredictor(Posterior.from_bytes(payload), signature))
        case _:
            return RowByRow(online_predictor(learner, payload, signature))


class EvaluationSets:
    """Makes the evaluation sets of candidates against the live model.

    Args:
        loop: whose models.
        lake: where the rows are.
        registry: where the models are.
        predictions: those of the online learner; None if the loop has none.
    """

    def __init__(
        self, loop: Loop, lake: Lake, registry: Registry, predictions: Predictions | None
    ) -> None:
        self._loop, self._lake, self._registry = loop, lake, registry
        self._predictions = predictions

    def of_batch(self, trained: Trained, later: LabeledRows, version: str) -> Evaluation:
        """Return the evaluation of a batch model on the rows held out from it."""
        live, note = self.live()
        model = predictor_of(trained.learner, trained.payload, trained.signature)
        own, label, its = model.predict(later.features), later.label, None
        ids = later.ids
        if live is not None:
            indices, its = self._predicted_by(live, later)
            own, label, ids = own[indices], label[indices], ids[indices]
        return Evaluation(
            label=label,
            candidate=Candidate(trained.learner, version, own),
            base_rate=trained.base_rate,
            baseline=self._baselines(ids, later.at[0] if len(later) else None),
            live=_candidate(live, its),
            live_note=note,
            more_rows=self._held_out(),
        )

    def of_online(
        self, learner: str, window: EvaluationWindow, version: str, snapshot: int
    ) -> Evaluation:
        """Return the evaluation of an online learner by the predictions it would have served."""
        live, note = self.live()
        own = window.predictions.get_column("predicted").to_numpy()
        ids, times = (window.predictions.get_column(name) for name in ("decision_id", "at"))
        label, its, continued = window.predictions.get_column("label").to_numpy(), None, ""
        if live is not None and self.is_learning(live):
            continued, live = live.version, None
        elif live is not None and label.size:
            rows = self.rows(window.predictions, snapshot)
            indices, its = self._predicted_by(live, rows)
            own, label, ids = own[indices], label[indices], ids[indices]
        return Evaluation(
            label=label,
            candidate=Candidate(learner, version, own),
            base_rate=window.base_rate,
            baseline=self._baselines(ids, times[0] if len(times) else None),
            live=_candidate(live, its),
            live_note=note,
            continues=continued,
            more_rows="each state predicts the rows that follow it, and they judge the next state",
        )

    def window(self, snapshot: int) -> EvaluationWindow:
        """Return the newest predictions the online learner would have served, and their base rate.

        Rows that the live model may have learned from are left out.
        """
        if self._predictions is None:
            raise ValueError(f"{self._loop.loop} has no online learner")
        live, _ = self.live()
        since = None if live is None or self.is_learning(live) else self.unseen_from(live)
        found = self._predictions.newest(WINDOW_ROWS, since)
        known = is_learnable()
        if found.height:
            known &= pl.col("at") < found.get_column("at")[0]
        table = self._lake.table(self._loop.loop, EXAMPLES)
        examples = table.scan(snapshot)
        if has_revisions(table, self._loop, snapshot):
            examples = newest_rows(examples)
        known &= comparable_rows(self._lake, self._loop).expr()
        rate = examples.filter(known).select(pl.col("label").mean()).collect().item()
        return EvaluationWindow(found, float(rate or 0.0))

    def _baselines(self, ids: pl.Series, since: datetime | None) -> pl.Series | None:
        """Return what the requests of *ids* would have got without the loop, from *since* on.

        None if no request brought a baseline: then that is the default for all of them.
        """
        examples = self._lake.table(self._loop.loop, EXAMPLES)
        if since is None or "baseline" not in examples.schema:
            return None
        wanted = pl.col("baseline").is_not_null() & (pl.col("at") >= since)
        wanted &= pl.col("event_date") >= since.date()
        known = examples.read(["decision_id", "baseline"], wanted).unique("decision_id")
        if not known.height:
            return None
        found = pl.DataFrame({"decision_id": ids}).join(
            known, on="decision_id", how="left", maintain_order="left"
        )
        return found.get_column("baseline").fill_null(pl.lit(self._loop.decision.default))

    def _held_out(self) -> str:
        batch, wanted = self._loop.models.batch, self._loop.gate.min_rows
        if batch is None:
            return ""
        return (
            f"{batch.holdout:.0%} of the labels are held out, so it takes about "
            f"{math.ceil(wanted / batch.holdout):,}"
        )

    def live(self) -> tuple[ModelVersion | None, str]:
        """Return the live model, or None and the reason why no live model can be compared."""
        live = self._registry.model()
        if live is None:
            is_back = self._registry.live() is not None
            return None, "the default decided" if is_back else "nothing was live"
        why = misfit(
            self._loop,
            live.signature,
            learner=live.learner,
            label_type=live.label_type,
            label_digest=live.label_digest,
        )
        return (None, f"the live {live.version} {why} and could not compete") if why else (live, "")

    def is_learning(self, live: ModelVersion) -> bool:
        """Say whether *live* is an earlier state of the learner that is learning now."""
        online = self._loop.models.online
        return online is not None and (live.learner, live.params) == (
            online.learner,
            settings_of(self._loop, online),
        )

    def unseen_from(self, live: ModelVersion) -> datetime | None:
        """Return the decision time from which on *live* has learned no row; None if unknown."""
        return live.later_from if live.learner in (LIGHTGBM, POSTERIOR) else live.until

    def _predicted_by(self, live: ModelVersion, rows: LabeledRows) -> tuple[RowNumbers, Floats]:
        """Return the indices of the *rows* that can judge the live model, and its predictions."""
        if self.is_learning(live):
            known = self.served(rows)
            return known.get_column("index").to_numpy(), known.get_column("predicted").to_numpy()
        unseen = self.unseen_from(live)
        start = 0 if unseen is None else rows.since(unseen)
        model = load_model(live, self._registry.payload(live))
        return np.arange(start, len(rows)), model.predict(rows.features[start:])

    def served(self, rows: LabeledRows) -> pl.DataFrame:
        """Return index and prediction of the *rows* that the online learner has served."""
        indexed = pl.DataFrame({"decision_id": rows.ids}).with_row_index("index")
        if self._predictions is None:
            nothing = pl.lit(None, dtype=pl.List(pl.Float64)).alias("scores")
            return indexed.clear().with_columns(pl.lit(0.0).alias("predicted"), nothing)
        saved = self._predictions.read(since=rows.at[0] if len(rows) else None)
        return indexed.join(saved, on="decision_id", how="inner").sort("index")

    def rows(self, predictions: pl.DataFrame, snapshot: int) -> LabeledRows:
        """Return the decisions of *predictions* with their features, in the same order."""
        found = self._labelled(predictions, snapshot)
        features = found.features.with_columns(found.ids.alias(" id"))
        wanted = predictions.select(pl.col("decision_id").alias(" id"))
        joined = wanted.join(features, on=" id", how="left", maintain_order="left").drop(" id")
        return LabeledRows(
            features=joined,
            label=predictions.get_column("label").to_numpy(),
            at=predictions.get_column("at"),
            ids=predictions.get_column("decision_id"),
            snapshot=snapshot,
        )

    def labelled(
        self, predictions: pl.DataFrame, snapshot: int
    ) -> tuple[LabeledRows, pl.DataFrame]:
        """Return the rows of *predictions* that have a label, and their predictions, in order."""
        found = self._labelled(predictions, snapshot)
        numbers = pl.DataFrame({"decision_id": found.ids}).with_row_index("number")
        known = predictions.join(numbers, on="decision_id", how="inner", maintain_order="left")
        return found.take(known.get_column("number").to_numpy()), known

    def _labelled(self, predictions: pl.DataFrame, snapshot: int) -> LabeledRows:
        since = predictions.get_column("at")[0] if predictions.height else None
        training = training_set(self._lake, self._loop, version=snapshot, since=since)
        return LabeledRows.of(training, self._loop)


def _candidate(model: ModelVersion | None, predicted: Floats | None) -> Candidate | None:
    if model is None or predicted is None:
        return None
    return Candidate(model.learner, model.version, predicted)
