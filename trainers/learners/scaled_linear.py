"""The scaled logistic or linear regression of River, one row at a time."""

from collections.abc import Mapping

from river import linear_model, optim, preprocessing
from river.utils import VectorDict

from tidemill.schemas.loop.definition import Loop, Online
from tidemill.schemas.models.feature_signature import ACTION, FeatureSignature
from tidemill.schemas.models.river_state import (
    MAX_NAMES,
    LinearState,
    RowMapping,
    Scale,
    Weight,
)


class ScaledLinear:
    """A scaler of the numbers, and a regression of the numbers and flags."""

    def __init__(self, loop: Loop, online: Online) -> None:
        self._online = online
        self._mapping = RowMapping(FeatureSignature.of_loop(loop).fields)
        self._scaler = preprocessing.StandardScaler()
        self._model = _model(online)

    @property
    def actions(self) -> set[str]:
        """The actions that have a weight."""
        prefix = f"{ACTION}="
        names = self._model.weights
        return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}

    def restore(self, state: LinearState) -> None:
        """Continue from *state*."""
        for scale in state.scales:
            self._scaler.counts[scale.name] = scale.count
            self._scaler.means[scale.name] = scale.mean
            self._scaler.vars[scale.name] = scale.variance
        self._model._weights = VectorDict({one.name: one.value for one in state.weights})
        self._model.intercept = state.intercept
        self._model.optimizer.n_iterations = state.iterations

    def state(self, *, learned_until: int, rows: int, loss_sum: float) -> LinearState:
        """Return the whole state as a value.

        Raises:
            ValueError: a number is not finite: the model has diverged.
        """
        online = self._online
        return LinearState(
            learner=online.learner,
            learning_rate=online.learning_rate,
            l2=online.l2,
            learned_until=learned_until,
            rows=rows,
            loss_sum=loss_sum,
            iterations=self._model.optimizer.n_iterations,
            intercept=float(self._model.intercept),
            scales=scales_of(self._scaler),
            weights=tuple(Weight(name, value) for name, value in self._model.weights.items()),
        )

    def learn(self, row: Mapping[str, object], label: float, weight: float) -> float:
        """Learn *label* for *row* with *weight*; return the prediction before that."""
        numbers, flags = self._mapping(row)
        if len(self._model._weights) + len(numbers) + len(flags) > MAX_NAMES:
            flags = [flag for flag in flags if flag in self._model._weights]
        predicted = self._predict(self._x(numbers, flags))
        self._scaler.learn_one(numbers)
        self._model.learn_one(self._x(numbers, flags), label, weight)
        return predicted

    def predict(self, row: Mapping[str, object]) -> float:
        """Return the score of *row* as River computes it."""
        return self._predict(self._x(*self._mapping(row)))

    def _x(self, numbers: dict[str, float], flags: list[str]) -> dict[str, float]:
        x: dict[str, float] = self._scaler.transform_one(numbers)
        for flag in flags:
            x[flag] = 1.0
        return x

    def _predict(self, x: Mapping[str, float]) -> float:
        if self._online.learner == "logistic_regression":
            return float(self._model.predict_proba_one(x)[True])
        return float(self._model.predict_one(x))


def _model(online: Online) -> "linear_model.LogisticRegression | linear_model.LinearRegression":
    optimizer = optim.SGD(online.learning_rate)
    if online.learner == "logistic_regression":
        return linear_model.LogisticRegression(optimizer=optimizer, l2=online.l2)
    return linear_model.LinearRegression(optimizer=optimizer, l2=online.l2)


def scales_of(scaler: preprocessing.StandardScaler) -> tuple[Scale, ...]:
    """Return what *scaler* has learned of each number.

    Raises:
        ValueError: a number is not finite: the model has diverged.
    """
    return tuple(
        Scale(name, count, float(scaler.means[name]), float(scaler.vars[name]))
        for name, count in scaler.counts.items()
    )
