"""The feature signature: training and serving must see the same numbers."""

import math
import struct
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import FieldType, Loop
from tidemill.schemas.models.feature_signature import (
    ACTION,
    FeatureSignature,
    SignatureField,
    action_text,
    scored_actions,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WORDS = st.text(max_size=6)
TYPES: dict[str, tuple[FieldType, pl.DataType, st.SearchStrategy[object]]] = {
    "x": (FieldType.FLOAT, pl.Float64(), st.floats()),
    "n": (FieldType.INT, pl.Int64(), st.integers(-(2**63), 2**63 - 1)),
    "flag": (FieldType.BOOL, pl.Boolean(), st.booleans()),
    "word": (FieldType.CATEGORY, pl.String(), WORDS),
    "words": (FieldType.CATEGORIES, pl.List(pl.String), st.lists(WORDS, max_size=4)),
    "when": (
        FieldType.TIMESTAMP,
        pl.Datetime("us", "UTC"),
        st.integers(-(10**16), 10**16).map(lambda us: EPOCH + timedelta(microseconds=us)),
    ),
}
SCHEMA = {name: dtype for name, (_, dtype, _) in TYPES.items()}
EMPTY = FeatureSignature(tuple(SignatureField(name, kind) for name, (kind, _, _) in TYPES.items()))
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | value for name, (_, _, value) in TYPES.items()}),
    min_size=1,
    max_size=8,
)


def bits(values: list[float]) -> list[bytes]:
    """Doubles as bytes; every NaN is the same."""
    return [struct.pack("<d", math.nan if value != value else value) for value in values]


@given(learned=ROWS, served=ROWS)
def test_a_row_and_a_frame_are_encoded_to_the_same_bits(
    learned: list[dict[str, object]], served: list[dict[str, object]]
) -> None:
    """A model that is served other numbers than it was trained on fails without a trace."""
    signature = EMPTY.fit(pl.DataFrame(learned, schema=SCHEMA))
    matrix = signature.encode_frame(pl.DataFrame(served, schema=SCHEMA))
    assert matrix.shape == (len(served), len(signature.columns))
    assert matrix.dtype == np.float64
    for row, encoded in zip(served, matrix.tolist(), strict=True):
        assert bits(signature.encode_row(row)) == bits(encoded)


@given(learned=ROWS)
def test_json_gives_the_same_signature_back(learned: list[dict[str, object]]) -> None:
    """It travels in the manifest; the worker compares digests."""
    signature = EMPTY.fit(pl.DataFrame(learned, schema=SCHEMA))
    read = FeatureSignature.from_json(signature.to_json())
    assert read == signature
    assert read.digest == signature.digest


def test_what_the_training_rows_did_not_have_is_nan() -> None:
    """A new carrier must be 'missing' to the model, not the carrier that took its number."""
    frame = pl.DataFrame({"word": ["b", "a", None], "words": [["x"], [], None]})
    fields = (
        SignatureField("word", FieldType.CATEGORY),
        SignatureField("words", FieldType.CATEGORIES),
    )
    signature = FeatureSignature(fields).fit(frame)
    assert signature.encode_row({"word": "a", "words": ["x", "new"]}) == [0.0, 1.0]
    assert all(math.isnan(value) for value in signature.encode_row({"word": "new", "words": None}))
    assert all(math.isnan(value) for value in signature.encode_row({}))


def test_a_vocabulary_keeps_the_most_frequent_words() -> None:
    """Two million words of an id would be a larger model than any worker wants."""
    words = [f"w{i:05}" for i in range(4_100)] + ["zz", "zz"]
    signature = FeatureSignature((SignatureField("word", FieldType.CATEGORY),)).fit(
        pl.DataFrame({"word": words})
    )
    vocabulary = signature.fields[0].vocabulary
    assert len(vocabulary) == 4_096
    assert vocabulary[-1] == "zz"
    assert list(vocabulary) == sorted(vocabulary)


def test_a_signature_always_fits_into_an_announcement() -> None:
    """A trainer must not publish what no worker would read: long words, many features."""
    names = [f"word{number}" for number in range(20)]
    empty = FeatureSignature(tuple(SignatureField(name, FieldType.CATEGORY) for name in names))
    long = "\N{SNOWMAN}" * 20
    words = [f"{number:05}{long}" for number in range(5_000)] + ["x" * 1_000_000]
    signature = empty.fit(pl.DataFrame(dict.fromkeys(names, words)))
    assert FeatureSignature.from_json(signature.to_json()) == signature
    assert len(signature.fields[0].vocabulary) >= 64


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"signature":2,"fields":[]}',
        '{"signature":1,"fields":[]}',
        '{"signature":1,"fields":[{"name":"a","type":"float","vocabulary":["x"]}]}',
        '{"signature":1,"fields":[{"name":"a","type":"category","vocabulary":["b","a"]}]}',
        '{"signature":1,"fields":[{"name":"a","type":"category","vocabulary":[1]}]}',
        '{"signature":1,"fields":[{"name":"a","type":"pickle","vocabulary":[]}]}',
        "[" * 100_000,
        " " * 500_000,
    ],
)
def test_what_is_no_signature_is_refused(text: str) -> None:
    """It comes from a topic; whatever it holds, the worker gets one kind of error."""
    with pytest.raises(ModelError, match="cannot be read"):
        FeatureSignature.from_json(text)


def make_loop(**changes: object) -> Loop:
    """A small loop whose policy is greedy unless *changes* say otherwise."""
    values: dict[str, object] = {
        "loop": "offer",
        "decision": {"type": "choice", "actions": ["a", "b"], "default": "a"},
        "features": {"hour": "int", "city": "category"},
        "feedback": {"click": {"within": "30m"}},
        "label": {"sql": "count(*) > 0"},
        "policy": {"kind": "greedy"},
    }
    return Loop.model_validate(values | changes)


def test_a_label_that_depends_on_the_action_makes_it_a_feature() -> None:
    """Also of a bool decision under a threshold, whose actions are read as texts."""
    label = {"sql": "count(*) > 0", "depends_on": "action"}
    loop = make_loop(
        decision={"type": "bool", "default": False}, policy={"kind": "threshold"}, label=label
    )
    assert FeatureSignature.of_loop(loop).reads_action
    assert scored_actions(loop) == ["false", "true"]
    assert [action_text(each) for each in (True, False, "a", ["b", "a"])] == [
        *("true", "false", "a", "b")
    ]
    world = make_loop(policy={"kind": "threshold"})
    assert not FeatureSignature.of_loop(world).reads_action


def test_a_greedy_policy_scores_the_action_as_a_category() -> None:
    """The model can only rank actions it has as an input."""
    signature = FeatureSignature.of_loop(make_loop())
    assert [item.name for item in signature.fields] == ["hour", "city", ACTION]
    assert signature.categorical == [1, 2]
