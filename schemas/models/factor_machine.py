"""A factorization machine as it is published, scored in plain Python.

Numbers are scaled, words are flags of buckets. A name that was never learned has no weight and no
factors, so it does not change a score (River would draw random factors for it). Scores differ from
River's by rounding only, as numpy adds products in another order; by less than 1e-9 in the tests.

Source: S. Rendle, "Factorization Machines", ICDM 2010, whose equation 5 makes the sum over pairs
linear in the features.
"""

import math
from dataclasses import asdict, dataclass
from typing import Self

from tidemill.errors import ModelError
from tidemill.schemas.models.avro_record import UNREADABLE, decode_record, encode_record
from tidemill.schemas.models.feature_signature import FeatureRow, FeatureSignature
from tidemill.schemas.models.hashed_rows import HashedRows
from tidemill.schemas.models.river_state import Scale, logistic
from tidemill.schemas.models.tree_forest import joined_contributions

MAX_MACHINE_BYTES = 16 * 2**20
FACTORIZATION_MACHINE = "factorization_machine"


@dataclass(frozen=True, slots=True)
class FactorWeight:
    """The weight and the factors of one number or flag."""

    name: str
    value: float
    factors: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorMachine:
    """The published form of a factorization machine; ``factor_machine.avsc`` has the fields."""

    label_type: str
    hash_buckets: int
    n_factors: int
    intercept: float
    scales: tuple[Scale, ...]
    weights: tuple[FactorWeight, ...]

    def __post_init__(self) -> None:
        if self.label_type not in ("bool", "float") or min(self.hash_buckets, self.n_factors) < 1:
            raise ValueError(f"{self.label_type!r}, {self.hash_buckets}, {self.n_factors}")
        if any(len(weight.factors) != self.n_factors for weight in self.weights):
            raise ValueError(f"not all names have {self.n_factors} factors")
        numbers = [self.intercept]
        numbers += [number for one in self.weights for number in (one.value, *one.factors)]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a number is not finite: the model has diverged")

    def to_bytes(self) -> bytes:
        """Return the machine in Avro (``factor_machine.avsc``)."""
        return encode_record("factor_machine", asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ModelError: it is no such machine, larger than `MAX_MACHINE_BYTES`, or not finite.
        """
        try:
            value = decode_record("factor_machine", data, most_bytes=MAX_MACHINE_BYTES)
            scales = tuple(Scale(**scale) for scale in value.pop("scales"))
            weights = tuple(
                FactorWeight(one["name"], one["value"], tuple(one["factors"]))
                for one in value.pop("weights")
            )
            return cls(scales=scales, weights=weights, **value)
        except UNREADABLE as error:
            raise ModelError(
                f"a factorization machine cannot be read: {error!r}",
                hint="train it again: tidemill train LOOP --once",
            ) from error


class FactorPredictor:
    """Scores rows with a `FactorMachine`.

    Args:
        machine: the model.
        signature: the features it reads.
    """

    def __init__(self, machine: FactorMachine, signature: FeatureSignature) -> None:
        self._rows = HashedRows(signature.fields, machine.hash_buckets)
        self._names = [item.name for item in signature.fields]
        self._scales = {one.name: (one.mean, one.variance**0.5) for one in machine.scales}
        self._weights = {one.name: (one.value, one.factors) for one in machine.weights}
        self._intercept, self._n_factors = machine.intercept, machine.n_factors
        self._is_chance = machine.label_type == "bool"

    def score(self, row: FeatureRow) -> float:
        """Return the probability of true, or the value, that is predicted for *row*."""
        total = self._intercept
        sums, squares = [0.0] * self._n_factors, 0.0
        for name, value in self._scaled(row).items():
            if name in self._weights:
                weight, factors = self._weights[name]
                total += value * weight
                for place, factor in enumerate(factors):
                    part = factor * value
                    sums[place] += part
                    squares += part * part
        total += (sum(one * one for one in sums) - squares) / 2.0
        return logistic(total) if self._is_chance else total

    def _scaled(self, row: FeatureRow) -> dict[str, float]:
        x = dict.fromkeys(self._rows.flags(row), 1.0)
        for name, value in self._rows.numbers(row).items():
            mean, spread = self._scales.get(name, (0.0, 0.0))
            x[name] = (value - mean) / spread if spread else 0.0
        return x

    def contributions(self, row: FeatureRow) -> tuple[dict[str, float], float]:
        """Return what each feature changes of the score as it joins those before it.

        The second value is the score of a row without features.
        """
        return joined_contributions(self.score, self._names, row)
