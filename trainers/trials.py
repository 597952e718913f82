"""Trials: the later rows a candidate is judged by, and what everyone predicts for them.

A batch model is judged by the rows that were held out, an online learner by what its states would
have served (`prequential.py`). The live model is asked for the same rows: a batch model anew, an
online one by those predictions, because it has learned the rows since. It knows no gate and no
topic.
"""

from dataclasses import dataclass

import polars as pl

from tidemill.errors import ModelError
from tidemill.features.datasets import training_set
from tidemill.features.lake import Lake
from tidemill.features.layouts import EXAMPLES
from tidemill.schemas.loop import Loop
from tidemill.trainers.batch import LIGHTGBM, LightGBM, Trained
from tidemill.trainers.evaluate import Candidate, Floats
from tidemill.trainers.gate import Trial
from tidemill.trainers.online import FrozenLinear
from tidemill.trainers.prequential import Predictions
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.rows import Rows

WINDOW_ROWS = 50_000  # an online model is judged by at most so many of the newest rows


@dataclass(frozen=True, slots=True)
class Window:
    """The rows an online learner is judged by: its predictions, and the base rate known before."""

    predictions: pl.DataFrame
    base_rate: float


def load_model(model: ModelVersion, payload: bytes) -> LightGBM | FrozenLinear:
    """Return what predicts as *model* does.

    Raises:
        ModelError: the payload or the signature cannot be read.
    """
    if model.learner == LIGHTGBM:
        return LightGBM(payload, model.signature)
    return FrozenLinear(payload, model.signature)


class Trials:
    """Set up trials against what is live.

    Args:
        loop: whose models.
        lake: where the rows are.
        registry: where the models are.
        predictions: of the online learner; None if the loop has none.
    """

    def __init__(
        self, loop: Loop, lake: Lake, registry: Registry, predictions: Predictions | None
    ) -> None:
        self._loop, self._lake, self._registry = loop, lake, registry
        self._predictions = predictions

    def of_batch(self, trained: Trained, later: Rows, version: str) -> Trial:
        """Return the trial of a batch model by the rows held out from it."""
        live, note = self._live()
        own = LightGBM.of(trained).predict(later.features)
        label, its = later.label, None
        if live is not None and live.learner == LIGHTGBM:
            its = self._predict(live, later.features)
        elif live is not None:
            known = self._joined(later)
            place, its = (
                known.get_column("place").to_numpy(),
                known.get_column("predicted").to_numpy(),
            )
            own, label = own[place], label[place]
        return Trial(
            label=label,
            candidate=Candidate(trained.learner, version, own),
            base_rate=trained.base_rate,
            live=_candidate(live, its),
            live_note=note,
        )

    def of_online(self, learner: str, window: Window, version: str, snapshot: int) -> Trial:
        """Return the trial of an online learner by what it would have served."""
        live, note = self._live()
        rows = window.predictions
        its: Floats | None = None
        continued = ""
        if live is not None and live.learner == LIGHTGBM and rows.height:
            features = self._features(rows, snapshot)
            its = self._predict(live, features)
        elif live is not None and live.learner == learner:
            continued = live.version
        return Trial(
            label=rows.get_column("label").to_numpy(),
            candidate=Candidate(learner, version, rows.get_column("predicted").to_numpy()),
            base_rate=window.base_rate,
            live=_candidate(live, its),
            live_note=note,
            continues=continued,
        )

    def window(self, snapshot: int) -> Window:
        """Return the newest predictions the online learner would have served, and their base rate.

        Where a batch model is live only rows that are later than those it learned from count.
        """
        if self._predictions is None:
            raise ValueError(f"{self._loop.loop} has no online learner")
        live, _ = self._live()
        since = live.later_from if live is not None and live.learner == LIGHTGBM else None
        found = self._predictions.newest(WINDOW_ROWS, since)
        known = pl.col("label").is_not_null()
        if found.height:
            known &= pl.col("at") < found.get_column("at")[0]
        examples = self._lake.table(self._loop.loop, EXAMPLES).scan(snapshot)
        rate = examples.filter(known).select(pl.col("label").mean()).collect().item()
        return Window(found, float(rate or 0.0))

    def _live(self) -> tuple[ModelVersion | None, str]:
        """Return the live model if it reads this loop's features, else a note that it does not."""
        live = self._registry.live()
        if live is None:
            return None, "nothing was live"
        try:
            live.signature.check(self._loop)
        except ModelError:
            return None, f"the live {live.version} reads other features and could not compete"
        return live, ""

    def _predict(self, model: ModelVersion, features: pl.DataFrame) -> Floats:
        return load_model(model, self._registry.payload(model)).predict(features)

    def _joined(self, later: Rows) -> pl.DataFrame:
        """Return place in *later* and online prediction, of the rows that have one, in order."""
        places = pl.DataFrame({"decision_id": later.ids}).with_row_index("place")
        if self._predictions is None:
            return places.clear().with_columns(pl.lit(0.0).alias("predicted"))
        saved = self._predictions.read(since=later.at[0] if len(later) else None)
        return places.join(saved, on="decision_id", how="inner").sort("place")

    def _features(self, predictions: pl.DataFrame, snapshot: int) -> pl.DataFrame:
        """Return the features of the predicted decisions, row for row."""
        since = predictions.get_column("at")[0]
        training = training_set(self._lake, self._loop, version=snapshot, since=since)
        rows = Rows.of(training, self._loop)
        found = rows.features.with_columns(rows.ids.alias(" id"))
        wanted = predictions.select(pl.col("decision_id").alias(" id"))
        return wanted.join(found, on=" id", how="left", maintain_order="left").drop(" id")


def _candidate(model: ModelVersion | None, predicted: Floats | None) -> Candidate | None:
    if model is None or predicted is None:
        return None
    return Candidate(model.learner, model.version, predicted)
