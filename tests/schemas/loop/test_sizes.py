"""Sizes of memory, as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.schemas.loop.sizes import format_size, parse_size


@given(st.integers(1, 10**15))
def test_a_size_survives_being_written(size: int) -> None:
    """A published loop must say what its author said."""
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "size"), [("512MB", 512_000_000), ("1.5 GB", 1_500_000_000), ("8kB", 8_000)]
)
def test_reads_what_people_write(text: str, size: int) -> None:
    """Decimal units: a megabyte is a million bytes."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["512", "MB", "0MB", "-1MB", "2TB", "1e3MB", True, None, 10**16])
def test_refuses_what_has_no_unit_or_no_sense(text: object) -> None:
    """512 of what?"""
    with pytest.raises(ValueError, match=r"size|between"):
        parse_size(text)
