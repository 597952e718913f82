"""The index of ids against a plain list."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.streams.index import KeyIndex
from tidemill.streams.keys import Keys
from tidemill.streams.rules import Int64s

ENTRIES = st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 50)), max_size=12)


def keys(values: list[int]) -> Keys:
    """Return *values* as keys."""
    return Keys.of(numbers(values), numbers(values))


def numbers(values: list[int]) -> Int64s:
    """Return *values* as a column."""
    return np.array(values, dtype=np.int64)


@settings(deadline=None)
@given(st.lists(st.tuples(ENTRIES, st.integers(0, 40)), max_size=8), st.lists(st.integers(-6, 6)))
def test_finds_what_a_list_would_find(
    steps: list[tuple[list[tuple[int, int]], int]], wanted: list[int]
) -> None:
    """Every entry not forgotten is found once for each time its key is asked for."""
    index, plain, horizon = KeyIndex(), list[tuple[int, int, int]](), 0
    for entries, forget in steps:
        rows = [(key, at, len(plain) + place) for place, (key, at) in enumerate(entries)]
        plain += rows
        index.add(keys([row[0] for row in rows]), *(numbers([r[i] for r in rows]) for i in (1, 2)))
        horizon = max(horizon, forget)
        index.forget(horizon)
    hits = index.find(keys(wanted))
    found = sorted(zip(hits.query, hits.at, hits.payload, strict=True))
    expected = sorted(
        (query, at, number)
        for query, key in enumerate(wanted)
        for other, at, number in plain
        if key == other
    )
    assert [hit for hit in found if hit[1] >= horizon] == [e for e in expected if e[1] >= horizon]
    assert set(found) <= set(expected), "it may remember longer, but invents nothing"


def test_forgets_in_the_end() -> None:
    """Memory has to follow the window, not the age of the process."""
    index, most = KeyIndex(), 0
    for second in range(2_000):
        at = np.arange(second * 10, second * 10 + 10, dtype=np.int64)
        index.add(Keys.of(at * 7919, at), at, at)
        index.forget(second * 10 - 1_000)
        most = max(most, len(index))
    assert most < 3 * 1_000
    index.forget(10**9)
    assert len(index) == 0
