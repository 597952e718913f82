"""Ids as pairs of 64-bit hashes, so that the join compares numbers and stores no strings.

Two hashes make 128 bits. Their seeds are drawn when the process starts, so nobody can prepare ids
that collide, and a collision by chance would take 10**18 ids. The hashes never leave the process.
"""

import os
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.streams.units import Int64s

_SEEDS = (int.from_bytes(os.urandom(8), "big"), int.from_bytes(os.urandom(8), "big"))


@dataclass(frozen=True, slots=True)
class Keys:
    """One column of ids: *key* finds an id, *check* confirms the hit, *order* sorts by key."""

    key: Int64s
    check: Int64s
    order: Int64s

    @classmethod
    def of(cls, key: Int64s, check: Int64s) -> Self:
        """Return *key* and *check* with the order that sorts them."""
        return cls(key, check, np.argsort(key))

    def filter(self, mask: npt.NDArray[np.bool_]) -> Self:
        """Return the keys for which *mask* is true."""
        return self if mask.all() else self.of(self.key[mask], self.check[mask])


def id_keys(ids: pl.Series) -> Keys:
    """Return the keys of a String column without nulls; equal ids have equal keys."""
    hashes = [pl.col(ids.name).hash(seed).alias(str(seed)) for seed in _SEEDS]
    key, check = ids.to_frame().select(hashes).get_columns()
    return Keys.of(key.to_numpy().view(np.int64), check.to_numpy().view(np.int64))
