"""Published factorization machines: their sum over pairs, and what is refused."""

import math
from dataclasses import replace

import pytest

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import FieldType
from tidemill.schemas.models.factor_machine import FactorMachine, FactorPredictor, FactorWeight
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField
from tidemill.schemas.models.hashed_rows import word_bucket
from tidemill.schemas.models.river_state import Scale

SIGNATURE = FeatureSignature(
    (SignatureField("hour", FieldType.INT), SignatureField("line", FieldType.CATEGORY))
)
MACHINE = FactorMachine(
    label_type="float",
    hash_buckets=64,
    n_factors=2,
    intercept=1.0,
    scales=(Scale("hour", 10, 12.0, 4.0),),
    weights=(
        FactorWeight("hour", 0.5, (1.0, 2.0)),
        FactorWeight(f"line={word_bucket('red', 64)}", 0.25, (3.0, -1.0)),
    ),
)


def test_pairs_count_by_the_product_of_their_factors() -> None:
    """The hour is 2 deviations high: 1 + 2 * 0.5 + 0.25 + 2 * (1 * 3 - 2 * 1)."""
    read = FactorMachine.from_bytes(MACHINE.to_bytes())
    predictor = FactorPredictor(read, SIGNATURE)
    assert predictor.score({"hour": 16, "line": "red"}) == 4.25
    assert predictor.score({"hour": 16, "line": "never seen"}) == 2.0
    assert predictor.score({}) == 1.0


def test_a_machine_that_is_not_finite_is_refused() -> None:
    """A model that has diverged would score nan."""
    with pytest.raises(ValueError, match="diverged"):
        replace(MACHINE, intercept=math.inf)
    with pytest.raises(ValueError, match="factors"):
        replace(MACHINE, n_factors=3)
    with pytest.raises(ModelError, match="cannot be read"):
        FactorMachine.from_bytes(MACHINE.to_bytes()[:-1])
