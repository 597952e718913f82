"""The explicit state of an online model: the same bits everywhere, and nothing else readable."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import FieldType
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField
from tidemill.schemas.models.river_state import (
    LinearPredictor,
    LinearState,
    RowMapping,
    Scale,
    Weight,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(min_size=1, max_size=8)
STATES = st.builds(
    LinearState,
    learner=st.sampled_from(["logistic_regression", "linear_regression"]),
    learning_rate=FINITE,
    l2=FINITE,
    learned_until=st.integers(-1, 2**62),
    rows=st.integers(0, 2**62),
    loss_sum=FINITE,
    iterations=st.integers(0, 2**62),
    intercept=FINITE,
    scales=st.lists(
        st.builds(
            Scale,
            name=NAMES,
            count=st.integers(0, 2**62),
            mean=FINITE,
            variance=st.floats(0.0, 1e300),
        ),
        max_size=5,
        unique_by=lambda scale: scale.name,
    ).map(tuple),
    weights=st.lists(
        st.builds(Weight, name=NAMES, value=FINITE), max_size=5, unique_by=lambda w: w.name
    ).map(tuple),
)
FIELDS = (
    SignatureField("hour", FieldType.INT),
    SignatureField("warm", FieldType.BOOL),
    SignatureField("when", FieldType.TIMESTAMP),
    SignatureField("city", FieldType.CATEGORY),
    SignatureField("tags", FieldType.CATEGORIES),
)
STATE = LinearState(
    learner="logistic_regression",
    learning_rate=0.01,
    l2=0.0,
    learned_until=3,
    rows=10,
    loss_sum=6.9,
    iterations=10,
    intercept=0.5,
    scales=(Scale("hour", 10, 12.0, 4.0),),
    weights=(Weight("hour", 0.25), Weight("city=Ulm", -1.0)),
)


@given(STATES)
def test_a_state_comes_back_bit_for_bit(state: LinearState) -> None:
    """A resumed learner that differs in the last bit is another learner tomorrow."""
    read = LinearState.from_bytes(state.to_bytes())
    assert read == state
    assert read.to_bytes() == state.to_bytes()  # tells -0.0 from 0.0


@given(st.binary(max_size=400))
def test_garbage_is_refused(data: bytes) -> None:
    """It comes from a topic; the worker gets one kind of error, never a crash."""
    with pytest.raises(ModelError):
        LinearState.from_bytes(data)


@given(STATES, st.data())
def test_a_cut_state_is_refused(state: LinearState, data: st.DataObject) -> None:
    """Half of the weights would be a model too, a wrong one."""
    whole = state.to_bytes()
    with pytest.raises(ModelError):
        LinearState.from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ModelError):
        LinearState.from_bytes(whole + b"\0")


def test_a_claim_of_many_weights_allocates_nothing() -> None:
    """Five bytes that promise 2^40 items must not cost more than five bytes."""
    head = STATE.to_bytes().split(b"\x02\x08hour", 1)[0]
    with pytest.raises(ModelError):
        LinearState.from_bytes(head + b"\x80\x80\x80\x80\x80\x80\x01")
    with pytest.raises(ModelError, match="over"):
        LinearState.from_bytes(bytes(17 * 2**20))


def test_an_unknown_learner_is_refused() -> None:
    """Only the listed learners exist; there is no fallback that runs what it finds."""
    other = STATE.to_bytes().replace(b"logistic_regression", b"logistic_regressiom")
    with pytest.raises(ModelError, match="logistic_regressiom"):
        LinearState.from_bytes(other)


def test_a_name_twice_is_refused() -> None:
    """Two weights of one flag: the reader and the writer would each take another one."""
    twice = replace(STATE, weights=(Weight("city=Ulm", 1.0), Weight("city=ulm", 1.0))).to_bytes()
    with pytest.raises(ModelError, match="1 of them distinct"):
        LinearState.from_bytes(twice.replace(b"city=ulm", b"city=Ulm"))


def test_a_diverged_model_is_not_a_state() -> None:
    """Infinite weights predict NaN; they must not get as far as the topic."""
    with pytest.raises(ValueError, match="diverged"):
        replace(STATE, intercept=math.inf)
    for mean, variance in ((math.nan, 4.0), (12.0, math.inf)):
        with pytest.raises(ValueError, match="diverged"):
            Scale("hour", 10, mean, variance)
    for count, variance in ((-1, 4.0), (10, -4.0)):
        with pytest.raises(ValueError, match="negative"):
            Scale("hour", count, 12.0, variance)


def test_a_row_becomes_numbers_and_flags() -> None:
    """Null, NaN and infinity are missing: one such row must not poison the scaler for ever."""
    mapping = RowMapping(FIELDS)
    row = {
        "hour": 7,
        "warm": True,
        "when": datetime(1970, 1, 2, tzinfo=UTC),
        "city": "Ulm",
        "tags": ["a", "b", "a"],
    }
    assert mapping(row) == (
        {"hour": 7.0, "warm": 1.0, "when": 86400.0},
        ["city=Ulm", "tags=a", "tags=b"],
    )
    assert mapping({"hour": math.nan, "warm": None, "tags": []}) == ({}, [])
    assert mapping({"hour": math.inf}) == ({}, [])
    assert mapping({"hour": -1e100}) == ({}, [])


def test_the_score_is_the_formula() -> None:
    """Scale, weigh, add, and through the link; what is unknown counts nothing."""
    predictor = LinearPredictor(STATE, FeatureSignature(FIELDS))
    raw = (14.0 - 12.0) / 2.0 * 0.25 - 1.0 + 0.5
    assert predictor.score({"hour": 14, "city": "Ulm"}) == 1 / (1 + math.exp(-raw))
    assert predictor.score({"city": "Bonn"}) == 1 / (1 + math.exp(-0.5))
