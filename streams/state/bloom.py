"""A blocked Bloom filter: two bytes a key spare most searches a read of a spilled run.

Each key sets four bits of one 64-bit word, and the filter has 16 bits for each key. The keys are
hashes already.

Source: Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007.
"""

import numpy as np
import numpy.typing as npt

from tidemill.streams.units import Int64s

_KEYS_PER_WORD = 4
_SIGN = np.uint64(1 << 63)
_HALF = np.uint64(32)
_SIX_BITS = np.uint64(63)


class BloomFilter:
    """A set of keys that answers 'no' or 'maybe'. A 'no' is always right, a 'maybe' nearly so."""

    def __init__(self, keys: Int64s) -> None:
        """Build the filter from *keys*, which are sorted and at least one."""
        self._words = np.zeros(len(keys) // _KEYS_PER_WORD + 1, dtype=np.uint64)
        word, bits = self._word_bits(keys)
        first = np.flatnonzero(np.concatenate(([True], word[1:] != word[:-1])))
        self._words[word[first]] = np.bitwise_or.reduceat(bits, first)

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self._words.nbytes

    def may_contain(self, keys: Int64s) -> npt.NDArray[np.bool_]:
        """Return which of *keys* may be in the set; about one in 200 of the others passes too."""
        word, bits = self._word_bits(keys)
        passed: npt.NDArray[np.bool_] = (self._words[word] & bits) == bits
        return passed

    def _word_bits(self, keys: Int64s) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return the index of each key's word, ascending like the keys, and the bits it sets."""
        unsigned = keys.view(np.uint64) ^ _SIGN
        word = ((unsigned >> _HALF) * np.uint64(len(self._words))) >> _HALF
        bits = np.zeros(len(keys), dtype=np.uint64)
        for shift in (0, 6, 12, 18):
            bits |= np.uint64(1) << ((unsigned >> np.uint64(shift)) & _SIX_BITS)
        return word, bits
