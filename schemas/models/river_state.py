"""The state of an online model as an explicit value, and the prediction from it.

The trainer converts a River model to a `LinearState` and back; the worker predicts from the same
state in plain Python. Both compute the same bits. Doubles are stored as doubles, so nothing is
rounded.

`RowMapping` turns a row of features into numbers: floats, ints, bools and timestamps are scaled;
each category is a flag ``feature=word``, which is not scaled (a scaler would turn a flag that is
only ever 1 into 0). A null, NaN, or number beyond 1e100 is a missing key: the model neither scores
it nor learns from it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Self

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import FieldType
from tidemill.schemas.models.avro_record import UNREADABLE, decode_record, encode_record
from tidemill.schemas.models.feature_signature import (
    FeatureRow,
    FeatureSignature,
    SignatureField,
    seconds,
)

MAX_NAMES = 200_000  # of flags and numbers together; the learner takes no new words beyond
MAX_NUMBER = 1e100  # the square of a larger one would make the variance infinite forever
MAX_STATE_BYTES = 16 * 2**20
LEARNERS = ("logistic_regression", "linear_regression")


class RowMapping:
    """Turns a decision's features into the numbers and flags of a linear model, in fixed order.

    >>> mapping = RowMapping([
    ...     SignatureField("carrier", FieldType.CATEGORY), SignatureField("hour", FieldType.INT),
    ... ])
    >>> mapping({"carrier": "UA", "hour": 17})
    ({'hour': 17.0}, ['carrier=UA'])
    """

    def __init__(self, fields: Iterable[SignatureField]) -> None:
        numbers: list[str] = []
        self._times: list[str] = []
        self._words: list[tuple[str, str]] = []
        self._lists: list[tuple[str, str]] = []
        for item in fields:
            match item.type:
                case FieldType.TIMESTAMP:
                    self._times.append(item.name)
                case FieldType.CATEGORY:
                    self._words.append((item.name, f"{item.name}="))
                case FieldType.CATEGORIES:
                    self._lists.append((item.name, f"{item.name}="))
                case _:
                    numbers.append(item.name)
        self._numbers = numbers

    def __call__(self, row: FeatureRow) -> tuple[dict[str, float], list[str]]:
        """Return the numbers by name, and the flags that are set."""
        get = row.get
        numbers: dict[str, float] = {}
        for name in self._numbers:
            value = get(name)
            if value is not None:
                number = float(value)  # type: ignore[arg-type]  # float, int or bool by the loop
                if -MAX_NUMBER < number < MAX_NUMBER:
                    numbers[name] = number
        for name in self._times:
            value = get(name)
            if isinstance(value, datetime):
                numbers[name] = seconds(value)
        flags = [prefix + str(get(name)) for name, prefix in self._words if get(name) is not None]
        for name, prefix in self._lists:
            value = get(name)
            if isinstance(value, list | tuple):
                flags += [prefix + word for word in dict.fromkeys(value)]
        return numbers, flags


@dataclass(frozen=True, slots=True)
class Scale:
    """Running count, mean and variance (population) of one number."""

    name: str
    count: int
    mean: float
    variance: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.variance)):
            raise ValueError("a number is not finite: the model has diverged")
        if self.count < 0 or self.variance < 0.0:
            raise ValueError("a count or a variance is negative")


@dataclass(frozen=True, slots=True)
class Weight:
    """The weight of one number or flag."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearState:
    """The whole state of an online linear model; ``river_state.avsc`` explains the fields."""

    learner: str
    learning_rate: float
    l2: float
    learned_until: int
    rows: int
    loss_sum: float
    iterations: int
    intercept: float
    scales: tuple[Scale, ...]
    weights: tuple[Weight, ...]

    def __post_init__(self) -> None:
        if self.learner not in LEARNERS:
            raise ValueError(f"the learner {self.learner!r} is none of {LEARNERS}")
        if self.learned_until < -1 or min(self.rows, self.iterations) < 0:
            raise ValueError("a count is negative")
        _check_names([scale.name for scale in self.scales])
        _check_names([weight.name for weight in self.weights])
        numbers = [self.learning_rate, self.l2, self.loss_sum, self.intercept]
        numbers += [weight.value for weight in self.weights]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a number is not finite: the model has diverged")

    def to_bytes(self) -> bytes:
        """Return the state in Avro (``river_state.avsc``); `from_bytes` restores it bit for bit."""
        return encode_record("river_state", asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote; refuse bytes that do not encode to themselves again.

        Raises:
            ModelError: it is not such a state, larger than `MAX_STATE_BYTES`, or not finite.
        """
        try:
            value = decode_record("river_state", data, most_bytes=MAX_STATE_BYTES)
            scales = tuple(Scale(**scale) for scale in value.pop("scales"))
            weights = tuple(Weight(**weight) for weight in value.pop("weights"))
            return cls(scales=scales, weights=weights, **value)
        except UNREADABLE as error:
            raise ModelError(
                f"the state of an online model cannot be read: {error!r}",
                hint="train it again: tidemill train LOOP --once",
            ) from error


class LinearPredictor:
    """Scores rows with a `LinearState`, to the same bits as the River model it was taken from.

    Args:
        state: the model.
        signature: the features it reads.
    """

    def __init__(self, state: LinearState, signature: FeatureSignature) -> None:
        weights = {weight.name: weight.value for weight in state.weights}
        self._mapping = RowMapping(signature.fields)
        self._names = [item.name for item in signature.fields]
        self._numbers = {
            scale.name: (scale.mean, scale.variance**0.5, weights.get(scale.name, 0.0))
            for scale in state.scales
            if scale.variance
        }
        self._flags = {name: value for name, value in weights.items() if "=" in name}
        self._intercept = state.intercept
        self._link = logistic if state.learner == "logistic_regression" else _identity

    def score(self, row: FeatureRow) -> float:
        """Return the probability (logistic) or the value (linear) predicted for *row*."""
        numbers, flags = self._mapping(row)
        total = 0.0
        scales = self._numbers
        for name, value in numbers.items():
            scale = scales.get(name)
            if scale is not None:
                total += (value - scale[0]) / scale[1] * scale[2]
        weights = self._flags
        for flag in flags:
            total += weights.get(flag, 0.0)
        return self._link(total + self._intercept)

    def contributions(self, row: FeatureRow) -> tuple[dict[str, float], float]:
        """Return what each feature adds to the raw score of *row*, and the intercept.

        A number adds its weight times its scaled value, a category the weight of its flag. Their
        sum is the score before the logistic function.
        """
        numbers, flags = self._mapping(row)
        added = dict.fromkeys(self._names, 0.0)
        for name, value in numbers.items():
            if name in self._numbers:
                mean, spread, weight = self._numbers[name]
                added[name] += (value - mean) / spread * weight
        for flag in flags:
            added[flag.partition("=")[0]] += self._flags.get(flag, 0.0)
        return added, self._intercept


Link = Callable[[float], float]


def logistic(value: float) -> float:
    """Return the probability whose log odds are *value*; beyond ±30 exactly 0 or 1, as River."""
    if value < -30:
        return 0.0
    if value > 30:
        return 1.0
    return 1 / (1 + math.exp(-value))


def _identity(value: float) -> float:
    return value


def _check_names(names: list[str]) -> None:
    if len(names) > MAX_NAMES or len(set(names)) != len(names) or "" in names:
        raise ValueError(f"{len(names)} names, {len(set(names))} of them distinct")
