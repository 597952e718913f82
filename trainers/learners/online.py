"""The online learner: a scaled linear model of River that learns each example once, as it closes.

It predicts each row before it learns it (prequential evaluation). A `LinearState` holds its whole
state and restores it bit for bit. A learner that was killed is the same one again after it has
restored its last state and learned the commits since.

Source of the evaluation: J. Gama, R. Sebastiao, P. P. Rodrigues, "On evaluating stream learning
algorithms", Machine Learning 90(3), 2013.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl
from river import linear_model, optim, preprocessing
from river.utils import VectorDict

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import Loop, Online
from tidemill.schemas.models.feature_signature import ACTION, FeatureSignature
from tidemill.schemas.models.river_state import (
    MAX_NAMES,
    LinearState,
    RowMapping,
    Scale,
    Weight,
)
from tidemill.trainers.learners.batch import weighting
from tidemill.trainers.rows import feature_columns, learnable, scored_action, training_weights

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
    """A scaled logistic or linear regression that continues from a state.

    Args:
        loop: whose features and label it learns.
        online: which learner, with which rates.
        state: where to continue; None for a fresh learner. A state of another learner or other
            rates than those of *online* is ignored.
    """

    def __init__(self, loop: Loop, online: Online, state: LinearState | None = None) -> None:
        self.signature = FeatureSignature.of_loop(loop)
        self._loop, self._online = loop, online
        self._mapping = RowMapping(self.signature.fields)
        self._scaler = preprocessing.StandardScaler()
        self._model = _model(online)
        self.learned_until, self.rows, self.loss_sum = -1, 0, 0.0
        self.until: datetime | None = None  # the newest decision learned
        if state is not None and continues(online, state):
            self._restore(state)

    def _restore(self, state: LinearState) -> None:
        self.learned_until, self.rows = state.learned_until, state.rows
        self.loss_sum = state.loss_sum
        for scale in state.scales:
            self._scaler.counts[scale.name] = scale.count
            self._scaler.means[scale.name] = scale.mean
            self._scaler.vars[scale.name] = scale.variance
        self._model._weights = VectorDict({one.name: one.value for one in state.weights})
        self._model.intercept = state.intercept
        self._model.optimizer.n_iterations = state.iterations

    def restart(self) -> None:
        """Forget everything learned, but not which commits were learned."""
        self._scaler, self._model = preprocessing.StandardScaler(), _model(self._online)
        self.rows, self.loss_sum = 0, 0.0

    def state(self) -> LinearState:
        """Return the whole state of the learner as a value.

        Raises:
            ModelError: it has diverged: a number is not finite.
        """
        scaler, online = self._scaler, self._online
        try:
            return LinearState(
                learner=online.learner,
                learning_rate=online.learning_rate,
                l2=online.l2,
                learned_until=self.learned_until,
                rows=self.rows,
                loss_sum=self.loss_sum,
                iterations=self._model.optimizer.n_iterations,
                intercept=float(self._model.intercept),
                scales=tuple(
                    Scale(name, count, float(scaler.means[name]), float(scaler.vars[name]))
                    for name, count in scaler.counts.items()
                ),
                weights=tuple(Weight(name, value) for name, value in self._model.weights.items()),
            )
        except ValueError as error:
            raise ModelError(
                f"the online learner of {self._loop.loop} has diverged: {error}",
                hint="lower `models.online.learning_rate` in the loop file",
            ) from error

    def fitted_signature(self) -> FeatureSignature:
        """Return the signature; the vocabulary of its action has the actions learned so far."""
        if not self.signature.reads_action:
            return self.signature
        prefix = f"{ACTION}="
        words = (
            name.removeprefix(prefix) for name in self._model.weights if name.startswith(prefix)
        )
        *others, action = self.signature.fields
        return FeatureSignature((*others, replace(action, vocabulary=tuple(sorted(words)))))

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
        numbers, flags = self._mapping(row)
        if len(self._model._weights) + len(numbers) + len(flags) > MAX_NAMES:
            flags = [flag for flag in flags if flag in self._model._weights]
        before = self._scaler.transform_one(numbers)
        for flag in flags:
            before[flag] = 1.0
        predicted = self._predict(before)
        self.loss_sum += self._loss(label, predicted)
        self._scaler.learn_one(numbers)
        x = self._scaler.transform_one(numbers)
        for flag in flags:
            x[flag] = 1.0
        self._model.learn_one(x, label, weight)
        return predicted

    def _predict(self, x: Mapping[str, float]) -> float:
        if self._online.learner == "logistic_regression":
            return float(self._model.predict_proba_one(x)[True])
        return float(self._model.predict_one(x))

    def _loss(self, label: float, predicted: float) -> float:
        if self._online.learner != "logistic_regression":
            off = label - predicted
            return off * off  # `** 2` raises where this is infinite
        chance = min(max(predicted, _TINY), 1.0 - _TINY)
        return -math.log(chance) if label > 0.5 else -math.log1p(-chance)

    def predict_one(self, row: Mapping[str, object]) -> float:
        """Return the score of one row, as River computes it, and learn nothing."""
        numbers, flags = self._mapping(row)
        x = self._scaler.transform_one(numbers)
        for flag in flags:
            x[flag] = 1.0
        return self._predict(x)


def settings_of(loop: Loop, online: Online) -> dict[str, bool | int | float | str]:
    """Return the settings that identify a learner; with another rate it learns from the start."""
    return {"learning_rate": online.learning_rate, "l2": online.l2} | weighting(loop)


def continues(online: Online, state: LinearState) -> bool:
    """Say whether *state* has the learner and the rates of *online*."""
    asked = (online.learner, online.learning_rate, online.l2)
    return asked == (state.learner, state.learning_rate, state.l2)


def feature_rows(examples: pl.DataFrame, loop: Loop) -> Iterable[Mapping[str, object]]:
    """Return the features of each example as a mapping, with the action that is scored."""
    columns = [*feature_columns(loop), *scored_action(loop)]
    return examples.select(columns).iter_rows(named=True)


def _model(online: Online) -> "linear_model.LogisticRegression | linear_model.LinearRegression":
    optimizer = optim.SGD(online.learning_rate)
    if online.learner == "logistic_regression":
        return linear_model.LogisticRegression(optimizer=optimizer, l2=online.l2)
    return linear_model.LinearRegression(optimizer=optimizer, l2=online.l2)
