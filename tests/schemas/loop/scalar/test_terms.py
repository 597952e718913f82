"""A term that somebody sends is checked as one that was made here."""

import pytest
from tests.schemas.loop.scalar.test_compiled import COLUMNS

from tidemill.errors import LoopError
from tidemill.schemas.loop.scalar.terms import MAX_DEPTH, MAX_TERMS, from_json

ONE = ["constant", "number", 1.0]
DEEP: object = ["column", "member"]
for _ in range(MAX_DEPTH + 1):
    DEEP = ["not", DEEP]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "is no term"),
        ({}, "is no term"),
        ([], "is no term"),
        ("price", "is no term"),
        (["column"], "no operation"),
        (["column", "prize"], "no column"),
        (["column", 3], "is no term"),
        (["system", ONE], "no operation"),
        (["<", ONE], "given 1 arguments"),
        (["<", ONE, ["column", "country"]], "where a number belongs"),
        (["and", ONE, ONE], "where a bool belongs"),
        (["case", ONE, ONE, ONE], "a condition of case"),
        (["case", ["column", "member"], ONE], "given 2 arguments"),
        (["constant", "number", True], "is no number"),
        (["constant", "number", "1"], "is no number"),
        (["constant", "text", 1], "is no text"),
        (["constant", "time", 2**62], "is no time"),
        (["constant", "texts", ["a"]], "is no texts"),
        (DEEP, "deep"),
        (["in", *[ONE] * MAX_TERMS], "over 1,000 parts"),
    ],
)
def test_what_is_no_term_is_refused(value: object, told: str) -> None:
    """A signed record may come from a release with other operations, or be a mistake."""
    with pytest.raises(LoopError) as refused:
        from_json(value, COLUMNS)
    assert told in str(refused.value)


def test_a_term_knows_what_it_reads() -> None:
    """A loop that loses a feature is told which rules need it."""
    term = from_json(["and", ["column", "member"], ["<", ["column", "price"], ONE]], COLUMNS)
    assert term.columns() == {"member", "price"}
