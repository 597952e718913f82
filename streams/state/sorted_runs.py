"""Sorted runs of entries (key, at, payload): small ones to merge, sealed ones to put away.

A sealed run has a filter before it and may be in a store: then a search reads the blocks that may
hold what it looks for, and nothing stays in memory but the filter and each block's first key.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from tidemill.streams.state.bloom import BloomFilter
from tidemill.streams.state.spill import SpillHandle, SpillStore
from tidemill.streams.units import Int64s

BLOCK = 256
COLUMNS = ("key", "at", "payload")


@dataclass(frozen=True, slots=True)
class Hits:
    """What a search found: entry *at*/*payload* for the *query*-th key asked for, many to many."""

    query: Int64s
    at: Int64s
    payload: Int64s

    @classmethod
    def together(cls, found: Sequence["Hits"]) -> "Hits":
        """Return all of *found* as one."""
        if not found:
            none = np.empty(0, dtype=np.int64)
            return cls(none, none, none)
        return cls(
            np.concatenate([hits.query for hits in found]),
            np.concatenate([hits.at for hits in found]),
            np.concatenate([hits.payload for hits in found]),
        )


@dataclass(frozen=True, slots=True)
class SortedRun:
    """Entries sorted by key."""

    key: Int64s
    at: Int64s
    payload: Int64s
    earliest: int
    latest: int

    @classmethod
    def of(cls, key: Int64s, at: Int64s, payload: Int64s, order: Int64s) -> "SortedRun":
        """Return the entries in *order*, which sorts them by key."""
        at = at[order]
        return cls(key[order], at, payload[order], int(at.min()), int(at.max()))

    def __len__(self) -> int:
        return len(self.key)

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self.key.nbytes + self.at.nbytes + self.payload.nbytes

    def merged(self, newer: "SortedRun") -> "SortedRun":
        """Return the entries of both."""
        key = np.concatenate((self.key, newer.key))
        at = np.concatenate((self.at, newer.at))
        payload = np.concatenate((self.payload, newer.payload))
        # Of numpy's sorts the stable one is the one that merges runs it finds sorted.
        return SortedRun.of(key, at, payload, np.argsort(key, kind="stable"))

    def since(self, before: int) -> "SortedRun | None":
        """Return the run without most of what is earlier than *before*; None without entries.

        Runs wholly earlier go at once; others are rewritten once a quarter of their time is past,
        so that each entry is copied a bounded number of times.
        """
        gone = before - self.earliest
        if gone <= 0 or gone * 4 < self.latest - self.earliest:
            return self
        if self.latest < before:
            return None
        return SortedRun.of(self.key, self.at, self.payload, np.flatnonzero(self.at >= before))

    def find(self, wanted: Int64s) -> Hits:
        """Return the entries whose key is in *wanted*, which is sorted."""
        first = np.searchsorted(self.key, wanted)
        inside = np.minimum(first, len(self.key) - 1)
        query = np.flatnonzero(self.key[inside] == wanted)
        first = first[query]
        count = np.searchsorted(self.key, wanted[query], side="right") - first
        if len(query) and count.max() > 1:
            query, first = np.repeat(query, count), _expanded(first, count)
        return Hits(query, self.at[first], self.payload[first])


class SealedRun:
    """A run that is merged no further; it answers the same from memory and from a store."""

    def __init__(self, run: SortedRun) -> None:
        self.earliest, self.latest = run.earliest, run.latest
        self._length = len(run)
        self._filter = BloomFilter(run.key)
        self._fence = run.key[::BLOCK].copy()
        self._run: SortedRun | None = run
        self._kept: SpillHandle | None = None

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """How much memory it takes now."""
        here = 0 if self._run is None else self._run.nbytes
        return here + self._filter.nbytes + self._fence.nbytes

    @property
    def is_resident(self) -> bool:
        """Whether its entries are in memory."""
        return self._run is not None

    def evict(self, store: SpillStore) -> None:
        """Let the entries go to *store*."""
        if self._run is not None:
            columns = (self._run.key, self._run.at, self._run.payload)
            self._kept = store.spill(pl.DataFrame(dict(zip(COLUMNS, columns, strict=True))))
            if self._kept is not None:
                self._run = None

    def since(self, before: int) -> "SealedRun | None":
        """Return the run for entries not earlier than *before*; others may stay in it."""
        if self.latest < before:
            return None
        if self._run is None:
            return self
        kept = self._run.since(before)
        return self if kept is self._run or kept is None else SealedRun(kept)

    def find(self, wanted: Int64s) -> Hits:
        """Return the entries whose key is in *wanted*, which is sorted."""
        admitted = np.flatnonzero(self._filter.admits(wanted))
        if not len(admitted):
            return Hits.together(())
        some = wanted[admitted]
        hits = (self._run or self._nearby(some)).find(some)
        return Hits(admitted[hits.query], hits.at, hits.payload)

    def _nearby(self, wanted: Int64s) -> SortedRun:
        """Return the blocks that hold every entry of *wanted*, read from the store."""
        if self._kept is None:
            raise RuntimeError("a run that is neither here nor away")
        first = np.maximum(np.searchsorted(self._fence, wanted) - 1, 0)
        count = np.maximum(np.searchsorted(self._fence, wanted, side="right") - first, 1)
        blocks = np.unique(_expanded(first, count))
        rows = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        frame = self._kept.take(rows[: np.searchsorted(rows, self._length)], COLUMNS)
        key, at, payload = (frame[name].to_numpy() for name in COLUMNS)
        return SortedRun(key, at, payload, self.earliest, self.latest)


def _expanded(first: Int64s, count: Int64s) -> Int64s:
    """Return first, first + 1, ... for *count* steps each, one after another."""
    ends = np.cumsum(count)
    steps: Int64s = np.arange(ends[-1], dtype=np.int64)
    return steps - np.repeat(ends - count, count) + np.repeat(first, count)
