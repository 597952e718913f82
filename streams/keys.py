"""Ids as pairs of 64-bit hashes, so that the join compares numbers and keeps no strings.

Two hashes with seeds drawn when the process starts make 128 bits: nobody can prepare ids that
collide, and chance would need 10**18 ids. The hashes never leave the process.
"""

import os
from dataclasses import dataclass

import numpy as np
import polars as pl

from tidemill.streams.rules import Int64s

_SEEDS = (int.from_bytes(os.urandom(8), "big"), int.from_bytes(os.urandom(8), "big"))


@dataclass(frozen=True, slots=True)
class Keys:
    """One column of ids: *key* to sort and search by, *check* to confirm a hit."""

    key: Int64s
    check: Int64s


def id_keys(ids: pl.Series) -> Keys:
    """Return the keys of a String column without nulls; equal ids have equal keys."""
    key, check = (ids.hash(seed).to_numpy().view(np.int64) for seed in _SEEDS)
    return Keys(key, check)
