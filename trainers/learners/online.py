"""The online learner: a model of River that learns each example once, as it closes.

It predicts each row before it learns it (prequential evaluation). A `LinearState` or a
`LearnerState` holds its whole state and restores it bit for bit. A learner that was killed is the
same one again after it has restored its last state and learned the commits since.

Source of the evaluation: J. Gama, R. Sebastiao, P. P. Rodrigues, "On evaluating stream learning
algorithms", Machine Learning 90(3), 2013.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import Loop, Online
from tidemill.schemas.loop.validation import ONLINE_SETTINGS
from tidemill.schemas.models.feature_signature import FeatureSignature
from tidemill.schemas.models.river_state import LEARNERS, LinearState
from tidemill.trainers.learners.batch import weighting
from tidemill.trainers.learners.river_models import (
    LearnerState,
    RiverMachine,
    RiverTrees,
    river_model,
)
from tidemill.trainers.learners.scaled_linear import ScaledLinear
from tidemill.trainers.rows import feature_columns, learnable, scored_action, training_weights

OnlineState = LinearState | LearnerState
_TINY = 1e-15


@dataclass(frozen=True, slots=True)
class Learned:
    """The examples of one commit, as they were learned.

    *predictions* has one row for each example, in the order they were learned: ``decision_id``,
    ``at``, ``label``, and ``prequential``, the prediction before the label was learned. *rows* are
    their features, with the action that was scored.
    """

    version: int
    predictions: pl.DataFrame
    rows: list[Mapping[str, object]]


class OnlineLearner:
    """A model of River that continues from a state.

    Args:
        loop: whose features and label it learns.
        online: which learner, with which settings.
        state: where to continue; None for a fresh learner. A state of another learner or other
            settings than those of *online* is ignored.
    """

    def __init__(self, loop: Loop, online: Online, state: OnlineState | None = None) -> None:
        self.signature = FeatureSignature.of_loop(loop)
        self._loop, self._online = loop, online
        self._model = _fresh(loop, online)
        self.learned_until, self.rows, self.loss_sum = -1, 0, 0.0
        self.until: datetime | None = None  # the newest decision learned
        if state is not None and continues(online, state):
            self._restore(state)

    def _restore(self, state: OnlineState) -> None:
        self.learned_until, self.rows = state.learned_until, state.rows
        self.loss_sum = state.loss_sum
        if isinstance(self._model, ScaledLinear) and isinstance(state, LinearState):
            self._model.restore(state)
        elif not isinstance(self._model, ScaledLinear) and isinstance(state, LearnerState):
            self._model.load(state.model)
            self._model.actions = set(state.actions)

    def restart(self) -> None:
        """Forget everything learned, but not which commits were learned."""
        self._model = _fresh(self._loop, self._online)
        self.rows, self.loss_sum = 0, 0.0

    def state(self) -> OnlineState:
        """Return the whole state of the learner as a value.

        Raises:
            ModelError: it has diverged: a number is not finite; or it is too large.
        """
        counts = {"learned_until": self.learned_until, "rows": self.rows}
        if not isinstance(self._model, ScaledLinear):
            return LearnerState(
                learner=self._online.learner,
                settings=own_settings(self._online),
                loss_sum=self.loss_sum,
                actions=sorted(self._model.actions),
                model=self._model.dump(),
                **counts,
            )
        try:
            return self._model.state(loss_sum=self.loss_sum, **counts)
        except ValueError as error:
            raise self._diverged(error) from error

    def payload(self) -> bytes:
        """Return what is published: the state of a linear model, else the predictor alone.

        Raises:
            ModelError: it has diverged: a number is not finite.
        """
        if isinstance(self._model, ScaledLinear):
            return self.state().to_bytes()
        try:
            return self._model.payload()
        except ValueError as error:
            raise self._diverged(error) from error

    def saved(self) -> bytes | None:
        """Return the state, to be kept beside the payload; None if the payload is the state.

        Raises:
            ModelError: it is too large.
        """
        return None if isinstance(self._model, ScaledLinear) else self.state().to_bytes()

    def _diverged(self, error: ValueError) -> ModelError:
        return ModelError(
            f"the online learner of {self._loop.loop} has diverged: {error}",
            hint="lower `models.online.learning_rate` in the loop file",
        )

    def fitted_signature(self) -> FeatureSignature:
        """Return the signature; the vocabulary of its action has the actions learned so far."""
        if not self.signature.reads_action:
            return self.signature
        *others, action = self.signature.fields
        words = tuple(sorted(self._model.actions))
        return FeatureSignature((*others, replace(action, vocabulary=words)))

    def learn(self, version: int, examples: pl.DataFrame) -> Learned:
        """Predict and learn each labelled row of one commit, in the order of its log.

        Args:
            version: that of the commit; a commit that was learned already is skipped.
            examples: the rows the commit added, with the columns of the table ``examples``.
        """
        by_position = [] if self._loop.decision.items is None else ["position"]
        labelled = learnable(examples, self._loop).sort("partition", "offset", *by_position)
        if version <= self.learned_until:
            labelled = labelled.clear()
        labels: list[float] = labelled.get_column("label").to_list()
        rows = list(feature_rows(labelled, self._loop))
        weights: list[float] = training_weights(labelled, self._loop).tolist()
        predicted = [self._learn_one(*each) for each in zip(rows, labels, weights, strict=True)]
        self.learned_until = max(version, self.learned_until)
        self.rows += len(labels)
        predictions = labelled.select(
            "decision_id", "at", "label", pl.Series("prequential", predicted, dtype=pl.Float64)
        )
        newest = predictions.get_column("at").max()
        if isinstance(newest, datetime):
            self.until = newest if self.until is None else max(newest, self.until)
        return Learned(version, predictions, rows)

    def _learn_one(self, row: Mapping[str, object], label: float, weight: float) -> float:
        """Learn *label* for *row* with *weight*; return the prediction before that."""
        predicted = self._model.learn(row, label, weight)
        self.loss_sum += self._loss(label, predicted)
        return predicted

    def _loss(self, label: float, predicted: float) -> float:
        if self._loop.label.type == "float":
            off = label - predicted
            return off * off  # `** 2` raises where this is infinite
        chance = min(max(predicted, _TINY), 1.0 - _TINY)
        return -math.log(chance) if label > 0.5 else -math.log1p(-chance)

    def predict_one(self, row: Mapping[str, object]) -> float:
        """Return the score of one row, as River computes it, and learn nothing."""
        return self._model.predict(row)


def own_settings(online: Online) -> dict[str, bool | int | float | str]:
    """Return the settings of the learner of *online*; one that is null is left out."""
    named = {name: getattr(online, name) for name in ONLINE_SETTINGS[online.learner]}
    return {name: value for name, value in named.items() if value is not None}


def settings_of(loop: Loop, online: Online) -> dict[str, bool | int | float | str]:
    """Return what identifies a learner; with another setting it learns from the start."""
    return own_settings(online) | weighting(loop)


def continues(online: Online, state: OnlineState) -> bool:
    """Say whether *state* has the learner and the settings of *online*."""
    if isinstance(state, LinearState):
        asked = (online.learner, online.learning_rate, online.l2)
        return asked == (state.learner, state.learning_rate, state.l2)
    return (state.learner, state.settings) == (online.learner, own_settings(online))


def read_state(learner: str, payload: bytes, saved: bytes | None) -> OnlineState | None:
    """Return the state of a version of *learner*; None if it was not kept.

    Args:
        learner: which learner.
        payload: what was published.
        saved: what `OnlineLearner.saved` returned.

    Raises:
        ModelError: it cannot be read.
    """
    if learner in LEARNERS:
        return LinearState.from_bytes(payload)
    return None if saved is None else LearnerState.from_bytes(saved)


def feature_rows(examples: pl.DataFrame, loop: Loop) -> Iterable[Mapping[str, object]]:
    """Return the features of each example as a mapping, with the action that is scored."""
    columns = [*feature_columns(loop), *scored_action(loop)]
    return examples.select(columns).iter_rows(named=True)


def _fresh(loop: Loop, online: Online) -> ScaledLinear | RiverTrees | RiverMachine:
    if online.learner in LEARNERS:
        return ScaledLinear(loop, online)
    return river_model(loop, online)
