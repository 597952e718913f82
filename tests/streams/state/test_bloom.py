"""The Bloom filter of a run: a 'no' is always right, a 'maybe' nearly always."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidemill.streams.state.bloom import BloomFilter

KEY = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(KEY, min_size=1, max_size=200))
def test_passes_every_key_it_was_built_from(keys: list[int]) -> None:
    """A key it rejects is a duplicate decision that becomes a second example."""
    made = np.sort(np.array(keys, dtype=np.int64))
    assert BloomFilter(made).may_contain(made).all()


def test_rejects_nearly_all_others_for_two_bytes_a_key() -> None:
    """Each that passes costs a read of a file."""
    draw = np.random.default_rng(7)
    made = np.sort(draw.integers(-(2**63), 2**63 - 1, 100_000))
    filter_ = BloomFilter(made)
    others = draw.integers(-(2**63), 2**63 - 1, 100_000)
    assert filter_.may_contain(others).mean() < 0.01
    assert filter_.nbytes < 2.1 * len(made)
