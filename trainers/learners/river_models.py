"""River's trees, forests and factorization machines as learners of a loop, with their state.

Leaves predict constants (the shares of the labels, or their mean), so that what is published needs
no statistics: River's `leaf_prediction` is ``mc`` or ``mean``. All else that the loop file does not
set is River's default. The check of a tree's memory is off: it measures Python's objects, whose
size differs after a restart; `MAX_STATE_BYTES` limits a learner instead.
"""

import sys
from collections.abc import Mapping
from typing import Any, Self

import msgspec
from river import facto, forest, optim, preprocessing, tree

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import Loop, Online
from tidemill.schemas.models.factor_machine import FACTORIZATION_MACHINE
from tidemill.schemas.models.feature_signature import ACTION, FeatureSignature
from tidemill.schemas.models.hashed_rows import HashedRows
from tidemill.trainers.learners.river_export import export_machine, export_trees
from tidemill.trainers.learners.river_objects import dump, load
from tidemill.trainers.learners.river_trees import (
    AdaptiveTreeClassifier,
    ClassSplitter,
    RiverObject,
)

_UNKNOWN = 0.5  # the chance that a classifier without a row predicts


class LearnerState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole state of a learner, to go on learning bit for bit; MessagePack."""

    learner: str
    settings: dict[str, bool | int | float | str]
    learned_until: int
    rows: int
    loss_sum: float
    actions: list[str]
    model: bytes

    def to_bytes(self) -> bytes:
        """Return the state; `from_bytes` restores it bit for bit."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ModelError: it is no such state.
        """
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except msgspec.DecodeError as error:
            raise ModelError(
                f"the state of an online learner cannot be read: {error}",
                hint="train it again: tidemill train LOOP --once",
            ) from error


class RiverTrees:
    """A tree or a forest of River."""

    def __init__(self, loop: Loop, online: Online) -> None:
        self._loop, self._online = loop, online
        fields = FeatureSignature.of_loop(loop).fields
        self._rows = HashedRows(fields, online.hash_buckets)
        words = [item.name for item in fields if item.type == "category"]
        is_bool = loop.label.type == "bool"
        self._model = _classifier(online) if is_bool else _regressor(online, words)
        self._is_bool = is_bool
        self.actions: set[str] = set()

    def learn(self, row: Mapping[str, object], label: float, weight: float) -> float:
        """Learn *label* for *row* with *weight*; return the prediction before that."""
        x = self._x(row)
        before = self._predict(x)
        if row.get(ACTION) is not None:
            self.actions.add(str(row[ACTION]))
        target = label > 0.5 if self._is_bool else label
        if self._online.learner == "adaptive_random_forest":
            self._model.learn_one(x, target)
        else:
            self._model.learn_one(x, target, w=weight)
        return before

    def predict(self, row: Mapping[str, object]) -> float:
        """Return the score of *row* as River computes it."""
        return self._predict(self._x(row))

    def _x(self, row: Mapping[str, object]) -> dict[str, float]:
        return {**self._rows.numbers(row), **self._rows.buckets(row)}

    def _predict(self, x: dict[str, float]) -> float:
        if not self._is_bool:
            return float(self._model.predict_one(x))
        chances = self._model.predict_proba_one(x)
        return float(chances.get(True, 0.0)) if chances else _UNKNOWN

    def payload(self) -> bytes:
        """Return what is published.

        Raises:
            ValueError: a number is not finite.
        """
        return export_trees(
            self._model,
            learner=self._online.learner,
            label_type=self._loop.label.type,
            hash_buckets=self._online.hash_buckets,
        ).to_bytes()

    def dump(self) -> bytes:
        """Return the state of the model; see `river_objects.dump`."""
        return dump({"model": self._model})

    def load(self, state: bytes) -> None:
        """Continue from *state*; see `river_objects.load`."""
        load(state, {"model": self._model})


class RiverMachine:
    """A factorization machine of River behind a scaler, as `StandardScaler | FM` of River."""

    def __init__(self, loop: Loop, online: Online) -> None:
        self._loop, self._online = loop, online
        self._rows = HashedRows(FeatureSignature.of_loop(loop).fields, online.hash_buckets)
        self._is_bool = loop.label.type == "bool"
        kind = facto.FMClassifier if self._is_bool else facto.FMRegressor
        self._scaler = preprocessing.StandardScaler()
        self._model = kind(
            n_factors=online.n_factors,
            weight_optimizer=optim.SGD(online.learning_rate),
            latent_optimizer=optim.SGD(online.learning_rate),
            l2_weight=online.l2,
            l2_latent=online.l2,
            seed=online.seed,
        )
        self.actions: set[str] = set()

    def learn(self, row: Mapping[str, object], label: float, weight: float) -> float:
        """Learn *label* for *row* with *weight*; return the prediction before that."""
        if row.get(ACTION) is not None:
            self.actions.add(str(row[ACTION]))
        numbers, flags = self._rows.numbers(row), dict.fromkeys(self._rows.flags(row), 1.0)
        before = self._predict({**self._scaler.transform_one(numbers), **flags})
        self._scaler.learn_one(numbers)
        x = {**self._scaler.transform_one(numbers), **flags}
        self._model.learn_one(x, label > 0.5 if self._is_bool else label, weight)
        return before

    def predict(self, row: Mapping[str, object]) -> float:
        """Return the score of *row*; names that were never learned are left out of it."""
        x = {**self._scaler.transform_one(self._rows.numbers(row))}
        x |= dict.fromkeys(self._rows.flags(row), 1.0)
        return self._predict({name: value for name, value in x.items() if name in self._known})

    @property
    def _known(self) -> Mapping[str, object]:
        known: Mapping[str, object] = self._model.latents
        return known

    def _predict(self, x: dict[str, float]) -> float:
        if self._is_bool:
            return float(self._model.predict_proba_one(x)[True])
        return float(self._model._raw_dot(x))  # of no features predict_one fails: it wants numpy's

    def payload(self) -> bytes:
        """Return what is published.

        Raises:
            ValueError: a number is not finite: the model has diverged.
        """
        return export_machine(
            self._model,
            self._scaler,
            label_type=self._loop.label.type,
            hash_buckets=self._online.hash_buckets,
        ).to_bytes()

    def dump(self) -> bytes:
        """Return the state of the model; see `river_objects.dump`."""
        return dump({"model": self._model, "scaler": self._scaler})

    def load(self, state: bytes) -> None:
        """Continue from *state*; see `river_objects.load`."""
        load(state, {"model": self._model, "scaler": self._scaler})


def river_model(loop: Loop, online: Online) -> RiverTrees | RiverMachine:
    """Return a fresh model of the learner of *online*."""
    if online.learner == FACTORIZATION_MACHINE:
        return RiverMachine(loop, online)
    return RiverTrees(loop, online)


def _tree_settings(online: Online) -> dict[str, Any]:
    """Return what the loop file sets of a tree; River knows its own defaults."""
    settings: dict[str, Any] = {"tau": online.tau, "memory_estimate_period": sys.maxsize}
    for name in ("grace_period", "delta", "max_depth"):
        if (value := getattr(online, name)) is not None:
            settings[name] = value
    if online.learner != "hoeffding_tree":
        settings["seed"] = online.seed
    if online.learner == "adaptive_random_forest":
        settings["n_models"] = online.n_models
    return settings


def _classifier(online: Online) -> RiverObject:
    kinds = {
        "hoeffding_tree": tree.HoeffdingTreeClassifier,
        "hoeffding_adaptive_tree": AdaptiveTreeClassifier,
        "adaptive_random_forest": forest.ARFClassifier,
    }
    settings = _tree_settings(online)
    return kinds[online.learner](leaf_prediction="mc", splitter=ClassSplitter(), **settings)


def _regressor(online: Online, words: list[str]) -> RiverObject:
    kinds = {
        "hoeffding_tree": tree.HoeffdingTreeRegressor,
        "hoeffding_adaptive_tree": tree.HoeffdingAdaptiveTreeRegressor,
        "adaptive_random_forest": forest.ARFRegressor,
    }
    return kinds[online.learner](
        leaf_prediction="mean",
        splitter=tree.splitter.TEBSTSplitter(),
        nominal_attributes=words,
        **_tree_settings(online),
    )
