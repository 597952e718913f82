"""What models do as policies, without epsilon: the chance of each action in each row of a frame."""

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


def certain(choice: Integers, actions: int) -> Floats:
    """Return the chances of a policy that takes *choice*, shape (n, actions).

    >>> certain(np.array([1]), 3).tolist()
    [[0.0, 1.0, 0.0]]
    """
    return np.asarray(np.eye(actions)[choice])


def chances(scores: Floats, loop: Loop) -> Floats:
    """Return the chance with which the policy of *loop* takes each action, shape (n, actions).

    Under a threshold *above* is taken if it adds that much to the label. Softmax draws. Else the
    best action is taken, and of equal ones the first.
    """
    policy, actions = loop.policy, scored_actions(loop)
    if policy.kind == "softmax":
        weight = np.exp((scores - scores.max(axis=1, keepdims=True)) / policy.temperature)
        return np.asarray(weight / weight.sum(axis=1, keepdims=True))
    if policy.kind == "threshold":
        above, below = (actions.index(action_text(side)) for side in (policy.above, policy.below))
        adds = scores[:, above] - scores[:, below]
        return certain(np.where(adds >= policy.threshold, above, below), len(actions))
    return certain(np.argmax(scores, axis=1), len(actions))


def model_chances(
    model: FramePredictor, signature: FeatureSignature, features: pl.DataFrame, loop: Loop
) -> Floats:
    """Return the chances of a *model*'s actions; one that reads no action has a threshold."""
    if signature.reads_action:
        return chances(action_scores(model, features, loop), loop)
    policy, actions = loop.policy, scored_actions(loop)
    above, below = (actions.index(action_text(side)) for side in (policy.above, policy.below))
    is_above = model.predict(features) >= policy.threshold
    return certain(np.where(is_above, above, below), len(actions))
