"""The partitions that ids belong to, for a column of ids: `partition_of` without a loop over rows.

Feedback in another partition than that of its decision's id never meets the decision.
"""

from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidemill.schemas.partitioner import MIX, SEED, SIGN, partition_of
from tidemill.streams.units import Bools

Hashes = NDArray[np.uint32]

IsMisplaced = Callable[[pl.Series], Bools]
"""Returns which decision ids belong to another partition than the one that they are in."""

_LONG = 256  # bytes of an id; longer ones are hashed one by one
_MIX = np.uint32(MIX)


def nothing_misplaced(ids: pl.Series) -> Bools:
    """Return False for each of *ids*: for a topic of one partition, or rows that were judged."""
    return np.zeros(len(ids), dtype=np.bool_)


def misplaced_in(partition: int, partitions: int) -> IsMisplaced:
    """Return the function for ids that are in *partition* of *partitions*."""
    if partitions == 1:
        return nothing_misplaced
    return lambda ids: partitions_of(ids, partitions) != partition


def partitions_of(ids: pl.Series, partitions: int) -> NDArray[np.int64]:
    """Return the partition of each of *ids*, a String column without nulls."""
    arrow = ids.to_arrow(compat_level=pl.CompatLevel.oldest())
    bounds = np.frombuffer(arrow.buffers()[1], np.int64)[arrow.offset :][: len(ids) + 1]
    data = bytes(arrow.buffers()[2] or b"") + bytes(4)
    starts, sizes = bounds[:-1], np.diff(bounds)
    hashes = _murmur2(data, starts, np.minimum(sizes, _LONG))
    found = (hashes & np.uint32(SIGN)).astype(np.int64) % partitions
    for row in np.flatnonzero(sizes > _LONG).tolist():
        found[row] = partition_of(data[bounds[row] : bounds[row + 1]], partitions)
    return found


def _murmur2(data: bytes, starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> Hashes:
    """Return Kafka's murmur2 of ranges of *data*, which has four more bytes than they need."""
    words = np.ndarray((len(data) - 3,), "<u4", data, strides=(1,))
    hashes: Hashes = np.uint32(SEED) ^ sizes.astype(np.uint32)
    whole = sizes // 4
    shared = int(whole.min(initial=_LONG))
    for index in range(shared if len(sizes) else 0):
        hashes *= _MIX
        hashes ^= _mixed(words[starts + 4 * index])
    for index in range(shared, int(whole.max(initial=0))):
        rows = np.flatnonzero(whole > index)
        hashes[rows] = hashes[rows] * _MIX ^ _mixed(words[starts[rows] + 4 * index])
    rest = sizes % 4
    if rest.any():
        rows = np.flatnonzero(rest)
        tail = words[starts[rows] + 4 * whole[rows]]
        tail = tail & ((np.uint32(1) << (8 * rest[rows]).astype(np.uint32)) - np.uint32(1))
        hashes[rows] = (hashes[rows] ^ tail) * _MIX
    hashes = (hashes ^ (hashes >> np.uint32(13))) * _MIX
    return hashes ^ (hashes >> np.uint32(15))


def _mixed(words: Hashes) -> Hashes:
    words *= _MIX
    words ^= words >> np.uint32(24)
    words *= _MIX
    return words
