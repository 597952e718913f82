"""A posterior keeps every bit on its way, says how sure it is, and is refused if it is broken."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tidemill.errors import ModelError
from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.models.feature_signature import ACTION, FeatureSignature, SignatureField
from tidemill.schemas.models.posterior import (
    ActionPosterior,
    NumberScale,
    Posterior,
    PosteriorPredictor,
)

SIGNATURE = FeatureSignature(
    (
        SignatureField("segment", FieldType.CATEGORY, ("x", "y")),
        SignatureField("age", FieldType.FLOAT),
        SignatureField(ACTION, FieldType.CATEGORY, ("a", "b")),
    )
)
IDENTITY = (0.1, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.3)
MODEL = Posterior(
    base=0.25,
    scales=(NumberScale("age", 40.0, 10.0),),
    flags=("segment=x",),
    actions=(
        ActionPosterior("a", 7, (0.5, 0.1, -0.2), IDENTITY),
        ActionPosterior("b", 0, (0.0, 0.0, 0.0), IDENTITY),
    ),
)


def test_a_posterior_survives_its_bytes() -> None:
    """Workers and trainers must believe the same."""
    data = MODEL.to_bytes()
    assert Posterior.from_bytes(data) == MODEL
    with pytest.raises(ModelError, match="cannot be read"):
        Posterior.from_bytes(data + b"\x00")
    with pytest.raises(ModelError, match="cannot be read"):
        Posterior.from_bytes(data[:-1])


@pytest.mark.parametrize(
    "broken",
    [
        lambda: replace(MODEL, base=float("nan")),
        lambda: replace(MODEL, scales=(NumberScale("age", 40.0, 0.0),)),
        lambda: replace(MODEL, flags=("age",)),
        lambda: replace(MODEL, flags=()),
        lambda: replace(MODEL, actions=MODEL.actions * 2),
        lambda: replace(MODEL, flags=tuple(f"segment={n}" for n in range(200))),
    ],
)
def test_a_posterior_that_fits_nothing_does_not_exist(broken: Callable[[], Posterior]) -> None:
    """An existing value is a legal value."""
    with pytest.raises(ValueError, match=r"."):
        broken()


def test_it_says_what_it_expects_and_how_sure_it_is() -> None:
    """By hand: base + 0.5 + 0.1 * 2 - 0.2, and the root of 0.1^2 + 0.4^2 + 0.3^2."""
    predictor = PosteriorPredictor(MODEL, SIGNATURE)
    row = {"segment": "x", "age": 60.0}
    means, deviations = predictor.beliefs(row, ["a", "b"])
    assert means == pytest.approx([0.75, 0.25])
    assert deviations == pytest.approx([(0.01 + 0.16 + 0.09) ** 0.5] * 2)
    assert predictor.score({**row, ACTION: "a"}) == means[0]
    assert predictor.score({**row, ACTION: "new"}) == MODEL.base
    with pytest.raises(ModelError, match="does not know the action 'c'"):
        predictor.beliefs(row, ["a", "c"])


def test_what_is_missing_or_unknown_adds_nothing() -> None:
    """A word that no example had says nothing about any action."""
    predictor = PosteriorPredictor(MODEL, SIGNATURE)
    means, deviations = predictor.beliefs({"segment": "z", "age": None}, ["a"])
    assert means == [0.75]
    assert deviations == pytest.approx([0.1])
