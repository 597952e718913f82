"""Models that score one row at a time, as learners and the gate ask for them: whole frames."""

from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidemill.schemas.models.feature_signature import FeatureRow


class RowPredictor(Protocol):
    """Scores one row, as a serving worker does."""

    def score(self, row: FeatureRow) -> float:
        """Return the score of *row*."""

    def contributions(self, row: FeatureRow) -> tuple[dict[str, float], float]:
        """Return what each feature adds to the raw score of *row*, and what is there without."""


class RowByRow:
    """A model without splits that predicts whole frames, and does not learn."""

    def __init__(self, predictor: RowPredictor) -> None:
        self._predictor = predictor

    def predict(self, features: pl.DataFrame) -> NDArray[np.float64]:
        """Return the score of each row of *features*, columns by name."""
        scores = map(self._predictor.score, features.iter_rows(named=True))
        return np.fromiter(scores, dtype=np.float64, count=features.height)

    def contributions(self, row: FeatureRow) -> tuple[dict[str, float], float]:
        """Return what each feature adds to the raw score of *row*, and what is there without."""
        return self._predictor.contributions(row)

    def gains(self) -> dict[str, float] | None:
        """Return None: there are no splits, so nothing is gained by one."""
        return None
