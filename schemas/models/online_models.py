"""The predictor of each online learner, for the worker that serves it and the trainer alike."""

from typing import Protocol

from tidemill.errors import ModelError
from tidemill.schemas.models.factor_machine import (
    FACTORIZATION_MACHINE,
    FactorMachine,
    FactorPredictor,
)
from tidemill.schemas.models.feature_signature import FeatureRow, FeatureSignature
from tidemill.schemas.models.river_state import LEARNERS, LinearPredictor, LinearState
from tidemill.schemas.models.tree_forest import TREE_LEARNERS, TreeForest, TreePredictor

ONLINE_LEARNERS = (*LEARNERS, *TREE_LEARNERS, FACTORIZATION_MACHINE)


class OnlinePredictor(Protocol):
    """Scores one row, as the worker does."""

    def score(self, row: FeatureRow) -> float:
        """Return the score of *row*."""

    def contributions(self, row: FeatureRow) -> tuple[dict[str, float], float]:
        """Return what each feature adds, and what is there without."""


def online_predictor(learner: str, payload: bytes, signature: FeatureSignature) -> OnlinePredictor:
    """Return the predictor in the *payload* of an online *learner*.

    Raises:
        ModelError: the payload cannot be read.
    """
    if learner in TREE_LEARNERS:
        forest = TreeForest.from_bytes(payload)
        if forest.learner != learner:
            raise ModelError(
                f"the trees of {forest.learner} are published as {learner}",
                hint="train it again: tidemill train LOOP --once",
            )
        return TreePredictor(forest, signature)
    if learner == FACTORIZATION_MACHINE:
        return FactorPredictor(FactorMachine.from_bytes(payload), signature)
    return LinearPredictor(LinearState.from_bytes(payload), signature)
