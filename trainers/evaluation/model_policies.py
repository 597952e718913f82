"""What models do as policies, without epsilon: the chance of each action in each row of a frame.

The score of an action that a model has not learned is nan. As in a worker it is never the best one,
and has the mean score in a ranking.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl

from tidemill.features.estimates.intervals import Floats
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import (
    ACTION,
    FeatureRow,
    FeatureSignature,
    action_text,
    scored_actions,
)
from tidemill.schemas.models.fit import learned_actions
from tidemill.trainers.evaluation.action_gate import JudgedPolicy
from tidemill.trainers.rows import Integers, LoggedActions


@dataclass(frozen=True, slots=True)
class ScoredPolicy:
    """A model as a policy: the chance with which it takes each action, shape (n, actions)."""

    version: str
    chances: Floats


class FramePredictor(Protocol):
    """A model that scores whole frames."""

    def predict(self, features: pl.DataFrame) -> Floats:
        """Return the score of each row."""


class AdditiveModel(FramePredictor, Protocol):
    """A model whose raw score is a sum of what its features add."""

    def contributions(self, row: FeatureRow) -> tuple[dict[str, float], float]:
        """Return what each feature adds to the raw score of *row*, and what is there without."""

    def gains(self) -> dict[str, float] | None:
        """Return what the splits by each feature have gained in training; None without splits."""


def action_scores(
    model: FramePredictor,
    features: pl.DataFrame,
    loop: Loop,
    learned: Sequence[str] | None = None,
) -> Floats:
    """Return what *model* predicts for each action in each row, shape (n, actions).

    Args:
        model: the model.
        features: the rows.
        loop: whose actions are scored.
        learned: the actions that the model has learned; None for all.
    """
    columns = [
        model.predict(features.with_columns(pl.lit(action).alias(ACTION)))
        if learned is None or action in learned
        else np.full(features.height, np.nan)
        for action in scored_actions(loop)
    ]
    return np.column_stack(columns)


def filled(scores: Floats) -> Floats:
    """Return *scores* with the mean of the learned actions for each that is not learned.

    >>> filled(np.array([[1.0, np.nan, 3.0]])).tolist()
    [[1.0, 2.0, 3.0]]
    """
    unknown = np.isnan(scores)
    count = (~unknown).sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        mean = np.where(unknown, 0.0, scores).sum(axis=1, keepdims=True) / count
    return np.where(unknown, mean, scores)


def judged(policy: ScoredPolicy, logged: LoggedActions, expected: Floats) -> JudgedPolicy:
    """Return *policy* in rows that were logged.

    *expected* is the reward of each action, shape (n, actions).
    """
    taken = policy.chances[np.arange(logged.action.size), logged.action]
    with np.errstate(invalid="ignore"):  # the gate refuses predictions that are not finite
        value = (policy.chances * expected).sum(axis=1)
    return JudgedPolicy(policy.version, taken / logged.propensity, value)


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
    policy = loop.policy
    if policy.kind == "threshold" or loop.decision.type == "ranking":
        scores = filled(scores)
    else:
        scores = np.where(np.isnan(scores), -np.inf, scores)
    if policy.kind == "softmax":
        weight = np.exp((scores - scores.max(axis=1, keepdims=True)) / policy.temperature)
        return np.asarray(weight / weight.sum(axis=1, keepdims=True))
    if policy.kind == "threshold":
        above, below = _sides(loop)
        return _by_threshold(scores[:, above] - scores[:, below], loop)
    return certain(np.argmax(scores, axis=1), scores.shape[1])


def model_chances(
    model: FramePredictor, signature: FeatureSignature, features: pl.DataFrame, loop: Loop
) -> Floats:
    """Return the chances of a *model*'s actions; one that reads no action has a threshold."""
    if signature.reads_action:
        learned = learned_actions(signature, loop)
        return chances(action_scores(model, features, loop, learned), loop)
    return _by_threshold(model.predict(features), loop)


def _by_threshold(scores: Floats, loop: Loop) -> Floats:
    """Return the chances where *above* is taken if the score is at least the threshold."""
    above, below = _sides(loop)
    choice = np.where(scores >= loop.policy.threshold, above, below)
    return certain(choice, len(scored_actions(loop)))


def _sides(loop: Loop) -> tuple[int, int]:
    """Return the numbers of the actions *above* and *below*."""
    actions = scored_actions(loop)
    policy = loop.policy
    return actions.index(action_text(policy.above)), actions.index(action_text(policy.below))
