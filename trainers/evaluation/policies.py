"""What models do as policies, without their exploration: the action in each row of a frame."""

from typing import Protocol

import numpy as np
import polars as pl

from tidemill.features.estimates.intervals import Floats
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import (
    ACTION,
    FeatureSignature,
    action_text,
    scored_actions,
)
from tidemill.trainers.rows import Integers


class FramePredictor(Protocol):
    """A model that scores whole frames."""

    def predict(self, features: pl.DataFrame) -> Floats:
        """Return the score of each row."""


def action_scores(model: FramePredictor, features: pl.DataFrame, loop: Loop) -> Floats:
    """Return what *model* predicts for each action in each row, shape (n, actions)."""
    columns = [
        model.predict(features.with_columns(pl.lit(action).alias(ACTION)))
        for action in scored_actions(loop)
    ]
    return np.column_stack(columns)


def choices(scores: Floats, loop: Loop) -> Integers:
    """Return the number of the action that the policy of *loop* takes without exploration.

    Under a threshold *above* is taken if it adds that much to the label; else the best action is,
    and of equal ones the first.
    """
    policy, actions = loop.policy, scored_actions(loop)
    if policy.kind != "threshold":
        return np.asarray(np.argmax(scores, axis=1))
    above, below = (actions.index(action_text(side)) for side in (policy.above, policy.below))
    adds = scores[:, above] - scores[:, below]
    return np.where(adds >= policy.threshold, above, below)


def model_choices(
    model: FramePredictor, signature: FeatureSignature, features: pl.DataFrame, loop: Loop
) -> Integers:
    """Return the number of the action that a *model* takes; one without actions has a threshold."""
    if signature.reads_action:
        return choices(action_scores(model, features, loop), loop)
    policy, actions = loop.policy, scored_actions(loop)
    above, below = (actions.index(action_text(side)) for side in (policy.above, policy.below))
    return np.where(model.predict(features) >= policy.threshold, above, below)
