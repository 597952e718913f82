"""Filling a row directly gives the numbers that the signature gives."""

import struct
from datetime import UTC

from hypothesis import given
from hypothesis import strategies as st
from tests.serving.models import COUNTRIES, NULLABLE, SIGNATURE

from tidemill.serving.model.row_filler import row_filler

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
FEATURES = st.fixed_dictionaries(
    {
        "country": st.sampled_from(COUNTRIES) | st.text(),
        "visits": st.integers(-(2**63), 2**63 - 1),
        "amount": NUMBERS | st.integers(-(2**60), 2**60),
        "member": st.booleans(),
        "seen": st.none() | st.datetimes(timezones=st.just(UTC)),
        "tags": st.none() | st.lists(st.sampled_from(["new", "old", "odd"])),
        "age": st.none() | NUMBERS,
    }
)


@given(FEATURES)
def test_a_filled_row_has_the_bits_of_an_encoded_one(features: dict[str, object]) -> None:
    """The trainer encodes by the signature; one bit of difference is another branch of a tree."""
    pack = struct.Struct(f"{len(SIGNATURE.columns)}d").pack
    filled: list[bytes] = []
    fill = row_filler(SIGNATURE, NULLABLE, lambda *numbers: filled.append(pack(*numbers)))
    fill(tuple(features[field.name] for field in SIGNATURE.fields))
    assert filled == [pack(*SIGNATURE.encode_row(features))]


@given(FEATURES, st.permutations([*(field.name for field in SIGNATURE.fields), "fresh", "more"]))
def test_the_position_of_a_feature_does_not_matter(
    features: dict[str, object], names: list[str]
) -> None:
    """A later version of the loop may have other features in between."""
    pack = struct.Struct(f"{len(SIGNATURE.columns)}d").pack
    filled: list[bytes] = []
    fill = row_filler(SIGNATURE, NULLABLE, lambda *numbers: filled.append(pack(*numbers)), names)
    fill(tuple(features.get(name, "not read") for name in names))
    assert filled == [pack(*SIGNATURE.encode_row(features))]
