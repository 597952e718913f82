"""The filter before a run: never wrong about what is there, seldom about what is not."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidemill.streams.state.bloom import BloomFilter

KEY = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(KEY, min_size=1, max_size=200))
def test_lets_every_key_pass_that_it_was_made_of(keys: list[int]) -> None:
    """A key it holds back is a duplicate that becomes an example."""
    made = np.sort(np.array(keys, dtype=np.int64))
    assert BloomFilter(made).admits(made).all()


def test_holds_back_nearly_all_others_for_two_bytes_a_key() -> None:
    """Each that passes costs a look into a file."""
    draw = np.random.default_rng(7)
    made = np.sort(draw.integers(-(2**63), 2**63 - 1, 100_000))
    filter_ = BloomFilter(made)
    others = draw.integers(-(2**63), 2**63 - 1, 100_000)
    assert filter_.admits(others).mean() < 0.01
    assert filter_.nbytes < 2.1 * len(made)
