"""A posterior: for each action a linear model of the label, and how sure its weights are.

`PosteriorPredictor` says what label it expects after an action, and with which deviation. Policies
that explore by uncertainty use both. The prior of each action is the mean label with weights of 0,
so an action without examples is as good as the mean and as unsure as can be.

Numbers are scaled, each category is a flag, and a value that is missing adds nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ModelError
from tidemill.schemas.models.avro_record import UNREADABLE, decode_record, encode_record
from tidemill.schemas.models.feature_signature import ACTION, FeatureRow, FeatureSignature
from tidemill.schemas.models.river_state import RowMapping

POSTERIOR = "posterior"
"""The learner of these models, as the manifest names it."""
MAX_COLUMNS = 128  # each decision costs the square of it for each action
MAX_BYTES = 64 * 2**20
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NumberScale:
    """Mean and deviation by which one number is scaled."""

    name: str
    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class ActionPosterior:
    """The weights of one action, and the square matrix whose square is their covariance."""

    action: str
    rows: int
    weights: tuple[float, ...]
    factor: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """A whole model as a value; ``posterior.avsc`` explains the fields."""

    base: float
    scales: tuple[NumberScale, ...]
    flags: tuple[str, ...]
    actions: tuple[ActionPosterior, ...]

    def __post_init__(self) -> None:
        columns = 1 + len(self.scales) + len(self.flags)
        names = [*(scale.name for scale in self.scales), *self.flags]
        if columns > MAX_COLUMNS or len(set(names)) != len(names):
            raise ValueError(f"{columns} columns, {len(set(names))} names")
        if len({each.action for each in self.actions}) != len(self.actions):
            raise ValueError("an action stands twice")
        numbers = [self.base, *(n for scale in self.scales for n in (scale.mean, scale.deviation))]
        for each in self.actions:
            if (len(each.weights), len(each.factor)) != (columns, columns * columns):
                raise ValueError(f"{each.action!r} has weights for other columns")
            numbers += [*each.weights, *each.factor]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a number is not finite")
        if any(scale.deviation <= 0.0 for scale in self.scales):
            raise ValueError("a deviation is not above 0")

    def to_bytes(self) -> bytes:
        """Return the model in Avro (``posterior.avsc``); `from_bytes` restores it bit for bit."""
        return encode_record("posterior", asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote; refuse bytes that do not encode to themselves again.

        Raises:
            ModelError: it is no such model, larger than `MAX_BYTES`, or not finite.
        """
        try:
            value = decode_record("posterior", data, most_bytes=MAX_BYTES)
            return cls(
                base=value["base"],
                scales=tuple(NumberScale(**each) for each in value["scales"]),
                flags=tuple(value["flags"]),
                actions=tuple(
                    ActionPosterior(
                        each["action"], each["rows"], tuple(each["weights"]), tuple(each["factor"])
                    )
                    for each in value["actions"]
                ),
            )
        except UNREADABLE as error:
            raise ModelError(
                f"a posterior cannot be read: {error!r}",
                hint="train it again: tidemill train LOOP --once",
            ) from error


class PosteriorPredictor:
    """Says what a `Posterior` expects of each action, and how sure it is.

    Args:
        model: the model.
        signature: the features it reads; the action is the last one.
    """

    def __init__(self, model: Posterior, signature: FeatureSignature) -> None:
        self._design = Design(model.scales, model.flags, signature)
        self._names = [field.name for field in signature.fields]
        self._base = model.base
        self._prior = _prior_deviation(model)
        self._weights = {each.action: np.array(each.weights) for each in model.actions}
        columns = self._design.columns
        self._factors = {
            each.action: np.array(each.factor).reshape(columns, columns) for each in model.actions
        }

    @property
    def actions(self) -> list[str]:
        """The actions that the model knows."""
        return list(self._weights)

    def score(self, row: FeatureRow) -> float:
        """Return the label that is expected after the action of *row*."""
        weights = self._weights.get(str(row[ACTION]))
        return self._base if weights is None else self._base + float(self._design(row) @ weights)

    def contributions(self, row: FeatureRow) -> tuple[dict[str, float], float]:
        """Return what each feature adds to the score of *row*, and the mean label.

        What holds for all rows of an action is what the action adds.
        """
        weights = self._weights.get(str(row[ACTION]))
        added = dict.fromkeys(self._names, 0.0)
        if weights is not None:
            for name, value in zip(self._design.names, self._design(row) * weights, strict=True):
                added[name] += float(value)
        return added, self._base

    def beliefs(self, row: FeatureRow, actions: Sequence[str]) -> tuple[list[float], list[float]]:
        """Return the label expected after each of *actions*, and its deviation.

        An action that the model does not know has the prior: the mean label, as unsure as can be.
        """
        x = self._design(row)
        means, deviations = [], []
        for action in actions:
            if action in self._weights:
                step = x @ self._factors[action]
                means.append(self._base + float(x @ self._weights[action]))
                deviations.append(math.sqrt(float(step @ step)))
            else:
                means.append(self._base)
                deviations.append(self._prior * math.sqrt(float(x @ x)))
        return means, deviations


def _prior_deviation(model: Posterior) -> float:
    """Return the deviation of each weight before anything was learned: that of the noise.

    The first number of every row is 1, so the first entry of the precision of an action is 1 + its
    rows, and that of its factor is the deviation over the root of that.
    """
    first = model.actions[0] if model.actions else None
    return abs(first.factor[0]) * math.sqrt(1 + first.rows) if first else 0.0


class Design:
    """Turns a row into the numbers of a posterior: 1, the scaled numbers, the flags."""

    def __init__(
        self, scales: Sequence[NumberScale], flags: Sequence[str], signature: FeatureSignature
    ) -> None:
        self._mapping = RowMapping(field for field in signature.fields if field.name != ACTION)
        self._numbers = {
            scale.name: (place, scale.mean, scale.deviation)
            for place, scale in enumerate(scales, start=1)
        }
        self._flags = {flag: place for place, flag in enumerate(flags, start=1 + len(scales))}
        self.columns = 1 + len(scales) + len(flags)
        self.names = [
            *(ACTION, *(scale.name for scale in scales)),
            *(flag.partition("=")[0] for flag in flags),
        ]

    def __call__(self, row: FeatureRow) -> Vector:
        """Return the numbers of *row*."""
        found: Vector = np.zeros(self.columns)
        found[0] = 1.0
        numbers, flags = self._mapping(row)
        for name, value in numbers.items():
            if name in self._numbers:
                place, mean, deviation = self._numbers[name]
                found[place] = (value - mean) / deviation
        for flag in flags:
            if flag in self._flags:
                found[self._flags[flag]] = 1.0
        return found
