"""The watch on the live model: it finds when the model earns less than the default would.

It judges the decisions that came after the model was trained, as they close, by a confidence
sequence, so it may look after each of them. The values are differences of doubly robust terms,
averaged over runs of decisions, because neighbours share causes and weighted rewards are skewed.
"""

import logging
from collections.abc import Callable

import numpy as np

from tidemill.features.estimates.intervals import Interval
from tidemill.features.estimates.sequences import confidence_sequence
from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.evaluation.action_gate import ActionEvaluation
from tidemill.trainers.rows import LabeledRows

logger = logging.getLogger(__name__)

RUN_ROWS = 50
"""Explored decisions of one value: at least 30 of them are seen before a model is taken back."""


class LiveWatch:
    """Compares one live model with the default, on rows that it has not learned.

    Args:
        loop: whose models score actions.
        version: that of the model.
        evaluate: returns the evaluation of the model on the explored ones of some rows.
        seen_until: the version of ``examples`` up to which nothing has to be looked at.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        version: str,
        evaluate: Callable[[LabeledRows], ActionEvaluation],
        seen_until: int,
    ) -> None:
        self.version, self.seen_until = version, seen_until
        self._loop, self._evaluate = loop, evaluate
        self._means: list[float] = []
        self._rest = np.empty(0)  # the rows of the run that is not complete

    def take(self, rows: LabeledRows) -> None:
        """Add *rows*; those that no chance decided say nothing."""
        found = self._evaluate(rows)
        fresh = found.robust(found.candidate).terms - found.robust(found.default).terms
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
