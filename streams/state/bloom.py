"""A filter in front of keys that are far away: two bytes a key tell most searches not to go there.

A blocked Bloom filter: each key sets four bits of one 64-bit word, with 16 bits of room a key. It
knows nothing of ids; the keys are hashes already.

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
    """Tells of most keys that they are not among those it was made of, and never wrongly so."""

    def __init__(self, keys: Int64s) -> None:
        """Make the filter of *keys*, which are sorted and at least one."""
        self._words = np.zeros(len(keys) // _KEYS_PER_WORD + 1, dtype=np.uint64)
        word, bits = self._places(keys)
        first = np.flatnonzero(np.concatenate(([True], word[1:] != word[:-1])))
        self._words[word[first]] = np.bitwise_or.reduceat(bits, first)

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self._words.nbytes

    def admits(self, keys: Int64s) -> npt.NDArray[np.bool_]:
        """Return which of *keys* it may have been made of; of others it lets one in 200 pass."""
        word, bits = self._places(keys)
        admitted: npt.NDArray[np.bool_] = (self._words[word] & bits) == bits
        return admitted

    def _places(self, keys: Int64s) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return the word of each key, ascending as the keys are, and its bits."""
        unsigned = keys.view(np.uint64) ^ _SIGN
        word = ((unsigned >> _HALF) * np.uint64(len(self._words))) >> _HALF
        bits = np.zeros(len(keys), dtype=np.uint64)
        for shift in (0, 6, 12, 18):
            bits |= np.uint64(1) << ((unsigned >> np.uint64(shift)) & _SIX_BITS)
        return word, bits
