"""The index of ids against a plain list."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.streams.id_hashes import Keys
from tidemill.streams.state.key_index import KeyIndex
from tidemill.streams.state.spill_store import MemorySpillStore
from tidemill.streams.units import Int64s

Entry = tuple[int, int, int]
ENTRIES = st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 50)), max_size=12)


def keys(values: list[int]) -> Keys:
    """Return *values* as keys."""
    return Keys.of(numbers(values), numbers(values))


def numbers(values: list[int]) -> Int64s:
    """Return *values* as a column."""
    return np.array(values, dtype=np.int64)


@settings(deadline=None)
@given(
    st.lists(st.tuples(ENTRIES, st.integers(0, 40), st.booleans()), max_size=8),
    st.lists(st.integers(-6, 6)),
)
def test_finds_what_a_list_would_find(
    steps: list[tuple[list[tuple[int, int]], int, bool]], wanted: list[int]
) -> None:
    """Every entry not forgotten is found once for each query of its key, spilled or not."""
    index, plain, horizon = KeyIndex(MemorySpillStore(), spill_rows=1), list[Entry](), 0
    for entries, forget, spill in steps:
        rows = [(key, at, len(plain) + row) for row, (key, at) in enumerate(entries)]
        plain += rows
        index.add(keys([row[0] for row in rows]), *(numbers([r[i] for r in rows]) for i in (1, 2)))
        if spill:
            index.evict(index.nbytes)
            assert index.spilled == len(index)
        horizon = max(horizon, forget)
        index.forget(horizon)
    hits = index.find(keys(wanted))
    actual = sorted(zip(hits.query, hits.at, hits.payload, strict=True))
    expected = sorted(
        (query, at, number)
        for query, key in enumerate(wanted)
        for other, at, number in plain
        if key == other
    )
    assert [hit for hit in actual if hit[1] >= horizon] == [e for e in expected if e[1] >= horizon]
    assert set(actual) <= set(expected), "it may remember longer, but invents nothing"


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


def test_spilled_entries_cost_a_few_bytes_each_and_are_found_across_blocks() -> None:
    """The ids of a week have to fit: at 24 bytes each, forty million take a gigabyte."""
    index, count = KeyIndex(MemorySpillStore(), spill_rows=1), 50_000
    draw = np.random.default_rng(7)
    key = draw.integers(-(2**63), 2**63 - 1, count)
    key[1_000:3_000] = key[1_000]  # copies of one id fill several blocks
    at = np.arange(count, dtype=np.int64)
    index.add(Keys.of(key, key), at, at)
    assert index.nbytes == 24 * count
    assert index.evict(1) > 20 * count
    assert index.nbytes < 2.2 * count
    for some in (key[:500], key[1_000:1_001], np.unique(key)):
        hits = index.find(Keys.of(some, some))
        assert (key[hits.at] == some[hits.query]).all()
        assert len(hits.at) == np.isin(key, some).sum()
        assert (hits.payload == hits.at).all()


def test_nothing_is_spilled_without_a_store() -> None:
    """Backfills and tests pass no store and have everything in memory."""
    index = KeyIndex()
    at = np.arange(100_000, dtype=np.int64)
    index.add(Keys.of(at, at), at, at)
    assert index.evict(10**9) == 0
    assert index.spilled == 0
