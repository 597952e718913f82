"""Tests of the compiled encoders: what they write is Avro, what does not fit is named."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.schemas.sample_events import (
    Event,
    by_fastavro,
    decision,
    decisions,
    everything,
    longs,
    same,
    times,
)

from tidemill.errors import RequestError
from tidemill.schemas.avro.encoder import compile_encoder
from tidemill.schemas.avro.primitives import (
    EARLIEST,
    EPOCH,
    LATEST,
    MICROSECOND,
    REMEMBERED,
    TEXTS,
    varint,
    write_timestamp,
)
from tidemill.schemas.avro.wire import Schema
from tidemill.schemas.events.schemas import FeedbackEncoder, decision_schema
from tidemill.schemas.registry.choose import MemorySchemaStore

LOOP = everything()
SCHEMA = decision_schema(LOOP)
ENCODE = compile_encoder(SCHEMA)


def with_feature(name: str, value: object) -> Event:
    """Return a plain decision with one feature changed."""
    event = decision(1)
    features = event["features"]
    assert isinstance(features, dict)
    return {**event, "features": {**features, name: value}}


@settings(deadline=None)
@given(decisions)
def test_what_is_written_is_what_fastavro_reads(event: Event) -> None:
    """A service in another language reads these bytes with a library of its own."""
    assert same(by_fastavro(ENCODE(event), SCHEMA)) == same(event)


@settings(deadline=None)
@given(longs, times)
def test_numbers_and_times_are_written_with_the_fewest_bytes(number: int, at: datetime) -> None:
    """The survey takes only lengths it can add up; a varint of its own making must be minimal."""
    schema: Schema = {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "n", "type": "long"},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        ],
    }
    micros = (at - EPOCH) // MICROSECOND
    assert compile_encoder(schema)({"n": number, "at": at}) == varint(number) + varint(micros)


@settings(deadline=None)
@given(st.integers(EARLIEST, LATEST))
def test_a_time_may_be_a_datetime_a_text_or_microseconds(micros: int) -> None:
    """Services have them all; the wire has one."""
    at = EPOCH + micros * MICROSECOND
    east = timezone(timedelta(hours=5))
    moved = at.astimezone(east) if 2 < at.year < 9998 else at
    texts = {write_timestamp(each) for each in (micros, at, moved, at.isoformat())}
    assert texts == {varint(micros)}


def test_numbers_of_other_kinds_are_numbers() -> None:
    """Features come out of NumPy and pandas as often as out of JSON."""
    event = with_feature("float_", np.float32(0.5))
    event["features"] |= {"int_": np.int64(7), "maybe_float": 3}  # type: ignore[operator]
    features = by_fastavro(ENCODE(event), SCHEMA)["features"]
    assert isinstance(features, dict)
    assert (features["float_"], features["int_"], features["maybe_float"]) == (0.5, 7, 3.0)


def test_what_is_nullable_or_has_a_default_may_be_left_out() -> None:
    """A service should not have to send what the loop file already says."""
    loop = everything(
        features={
            "n": {"type": "int", "default": 7},
            "at_": {"type": "timestamp", "default": "2020-01-01T00:00:00Z"},
            "tags": {"type": "categories", "default": ["a"]},
            "f": {"type": "float", "nullable": True},
        }
    )
    schema = decision_schema(loop)
    read = by_fastavro(compile_encoder(schema)(decision(1, features={})), schema)
    start = datetime(2020, 1, 1, tzinfo=UTC)
    assert read["features"] == {"n": 7, "at_": start, "tags": ["a"], "f": None}


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("float_", "1.5", "features.float_ is '1.5', which is not a number"),
        ("float_", True, "features.float_ is True, which is not a number"),
        ("float_", None, "features.float_ is None, which is not a number"),
        ("int_", 1.0, "features.int_ is 1.0, which is not a whole number"),
        ("int_", True, "features.int_ is True, which is not a whole number"),
        ("int_", 2**63, "which is beyond 64 bits"),
        ("bool_", 1, "features.bool_ is 1, which is not true or false"),
        ("category_", 7, "features.category_ is 7, which is not a text"),
        ("category_", [], "features.category_ is \\[\\], which is not a text"),
        ("category_", "\ud800", "which is not valid Unicode"),
        ("categories_", "ab", "features.categories_ is 'ab', which is not a list of texts"),
        ("categories_", [1], "which is not a text"),
        ("timestamp_", "yesterday", "features.timestamp_ is 'yesterday', which does not fit"),
        ("timestamp_", "2020-01-01T00:00:00", "which has no time zone"),
        ("timestamp_", 2**62, "which is outside the years 1 to 9999"),
        ("maybe_float", "x" * 100, "features.maybe_float is 'xxxxx.*\\.\\.\\., which is not"),
        ("speed", 1, "features.speed is not known"),
    ],
)
def test_a_value_that_does_not_fit_is_named(name: str, value: object, what: str) -> None:
    """The developer of a service reads this and nothing else."""
    with pytest.raises(RequestError, match=what) as caught:
        ENCODE(with_feature(name, value))
    assert caught.value.hint


def test_what_is_missing_is_named() -> None:
    """A missing feature is no null: the loop file says which ones may be."""
    event = decision(1)
    with pytest.raises(RequestError, match=r"features\.float_ is missing"):
        ENCODE({**event, "features": {}})
    with pytest.raises(RequestError, match="features is 7, not an object"):
        ENCODE({**event, "features": 7})
    del event["id"]
    with pytest.raises(RequestError, match="id is missing"):
        ENCODE(event)


def test_a_kind_of_feedback_that_is_not_known_is_named() -> None:
    """A typo in a kind must not pass for a kind without values."""
    encoder = FeedbackEncoder(LOOP, MemorySchemaStore())
    with pytest.raises(RequestError, match="'clickd' is not known") as caught:
        encoder.encode("clickd", {})
    assert "clicked" in caught.value.hint


def test_what_is_remembered_has_a_limit() -> None:
    """Texts are the caller's; a memory without limit would be the caller's too."""
    for number in range(REMEMBERED + 100):
        ENCODE(with_feature("category_", f"category {number}"))
    assert len(TEXTS) <= REMEMBERED
