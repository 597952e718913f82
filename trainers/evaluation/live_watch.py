"""The watch on the live model: it finds when the model earns less than the default would.

It judges the decisions that came after the model was trained, as they close, by a confidence
sequence, so it may look after each of them. The values are differences of doubly robust terms,
averaged over runs of decisions, because neighbours share causes and weighted rewards are skewed.
"""

import logging

import numpy as np

from tidemill.features.estimates.intervals import Floats, Interval
from tidemill.features.estimates.off_policy import doubly_robust
from tidemill.features.estimates.sequences import confidence_sequence
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.feature_signature import FeatureSignature
from tidemill.trainers.evaluation.model_policies import (
    FramePredictor,
    action_scores,
    certain,
    model_chances,
)
from tidemill.trainers.evaluation.rewards import Rewards
from tidemill.trainers.rows import LabeledRows

logger = logging.getLogger(__name__)

RUN_ROWS = 50
"""Explored decisions of one value: at least 30 of them are seen before a model is taken back."""


class LiveWatch:
    """Compares one live model with the default, on rows that it has not learned.

    Args:
        loop: whose models score actions.
        version: that of the model.
        model: the model.
        signature: the features it reads.
        seen_until: the version of ``examples`` up to which nothing has to be looked at.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        version: str,
        model: FramePredictor,
        signature: FeatureSignature,
        seen_until: int,
    ) -> None:
        self.version, self.seen_until = version, seen_until
        self._loop, self._model, self._signature = loop, model, signature
        self._rewards = Rewards(loop)
        self._means: list[float] = []
        self._rest = np.empty(0)  # the rows of the run that is not complete

    def take(self, rows: LabeledRows) -> None:
        """Add *rows*, which have logged actions; those that no chance decided say nothing."""
        if rows.logged is None:
            raise ValueError(f"no model of {self._loop.loop} scores actions")
        explored = rows.take(np.flatnonzero(rows.logged.is_explored))
        if not len(explored):
            return
        fresh = self._gains(explored)
        known = np.isfinite(fresh)
        if not known.all():
            odd = int((~known).sum())
            said = "the watch on %s leaves out %d rewards that are no numbers"
            logger.warning(said, self.version, odd)
        gains = np.concatenate([self._rest, fresh[known]])
        runs, rest = divmod(gains.size, RUN_ROWS)
        whole = gains[: runs * RUN_ROWS].reshape(runs, RUN_ROWS)
        self._means += whole.mean(axis=1).tolist()
        self._rest = gains[gains.size - rest :]

    def gain(self) -> Interval:
        """Return what the model earns more than the default in a decision, so far."""
        return confidence_sequence(np.array(self._means), self._loop.gate.confidence)

    def problem(self) -> str | None:
        """Return why the model has to be taken back, or None."""
        gain = self.gain()
        if not gain.high < 0.0:
            return None
        return (
            f"{self.version} earns {-gain.mean:.4f} a decision less than the default on "
            f"{len(self._means) * RUN_ROWS:,} explored decisions since it was trained: between "
            f"{-gain.high:.4f} and {-gain.low:.4f} less with {self._loop.gate.confidence:.0%} "
            "confidence, however often that is looked at"
        )

    def _gains(self, rows: LabeledRows) -> Floats:
        """Return the difference of the terms of model and default in each of *rows*."""
        logged = rows.logged
        if logged is None:
            raise ValueError("these rows have no logged actions")
        reward = self._rewards.of(rows.label, logged.action)
        expected = np.zeros((len(rows), logged.actions))
        if self._signature.reads_action:
            scores = action_scores(self._model, rows.features, self._loop)
            expected = self._rewards.expected(scores)
        chances = model_chances(self._model, self._signature, rows.features, self._loop)
        numbers = np.arange(len(rows))
        predicted = expected[numbers, logged.action]

        def terms(policy: Floats) -> Floats:
            weight = policy[numbers, logged.action] / logged.propensity
            return doubly_robust(reward, weight, predicted, (policy * expected).sum(axis=1)).terms

        return terms(chances) - terms(certain(logged.baseline, logged.actions))
